// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gru/detail/grid_streamed_parts.cuh>
#include <gru/detail/ptx.cuh>
#include <gru/detail/recurrence.cuh>
#include <gru/detail/recurrence_backward.cuh>

/// The steps in one kernel where R does not fit on the device: see grid_streamed_parts.cuh. They
/// are those of a chunk for work.groups * work.tiles tiles, in groups * ranks blocks that must all
/// be resident at once.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// The life of a warp that multiplies and finishes, forward.
template <typename Shape>
__device__ void do_forward_steps(GridBlock<Shape> const& block, StreamedWeights<Shape>& weights) {
  using T = typename Shape::Value;
  auto const& work = block.work;
  int const steps = work.steps.steps;
  StreamedProduct<Shape> product{block, weights};
  StreamedPlace<Shape> const place{block};

  typename Shape::Inputs inputs{work.steps,
                                block.shared + block.layout.inputs,
                                static_cast<int>(threadIdx.x),
                                place.tiles,
                                place.tile_row,
                                Shape::kLaneTiles,
                                place.unit};
  inputs.fetch(Shape::Inputs::kStages - 1);
  ForwardLane<T, 2, CellValue<T>> finisher{work.steps, inputs.rows().first(), place.unit};
  float states[Shape::kLaneTiles][2];
#pragma unroll
  for (int k = 0; k < Shape::kLaneTiles; ++k) finisher.load(inputs.rows().row(k), states[k]);

  weights.wait_for_resident();
  product.begin(0);
#pragma unroll 1
  for (int i = 0; i < steps; ++i) {
    if (!product.multiply()) block.expire();
    float sums[Shape::kLaneTiles][3][2];
    exchange_sums(block, place, product, sums);
    weights.release_sums();
    if (block.expired() != 0) finisher.poison();
    bool const is_last = i + 1 == steps;
    std::byte* const next = block.operands(i + 1, 0) + place.words;
    std::byte* const past = block.operands(i + kSlots - 1, 0) + place.words;
    inputs.wait();
    StepInput<2> input[Shape::kLaneTiles];
    StepResult<2> result[Shape::kLaneTiles];
#pragma unroll
    for (int k = 0; k < Shape::kLaneTiles; ++k) {
      if (k >= place.tiles.count) break;
      input[k] = inputs.read(i, k);
      result[k] = finisher.finish(sums[k], input[k], states[k]);
      if (inputs.rows().has(k) && !is_last) {
        publish<Shape>(next + k * place.tile_stride(), result[k].operand);
      }
    }

    // The rest is done in the shadow of the exchange.
#pragma unroll
    for (int k = 0; k < Shape::kLaneTiles; ++k) {
      if (k >= place.tiles.count) break;
      if (inputs.rows().has(k)) withdraw<Shape>(past + k * place.tile_stride());
      int const n = inputs.rows().row(k);
      finisher.write(result[k], input[k], n, states[k]);
      if (is_last) finisher.leave(result[k], n, states[k]);
    }
    if (!is_last) product.begin(i + 1);
    if (i % kFenceSteps == 0) ptx::fence_device();
    finisher.advance();
    inputs.fetch(i + Shape::Inputs::kStages);
  }
}

/// The kernel forward: do_forward_steps by 8 warps of each block, while a thread copies R.
template <typename Shape>
GRU_KERNEL void __launch_bounds__(Shape::kThreads, 1)
    streamed_forward_kernel(__grid_constant__ typename Shape::Work const work) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) std::byte shared[];
  run_streamed_block(GridBlock<Shape>{work, shared},
                     [](GridBlock<Shape> const& block, StreamedWeights<Shape>& weights) {
                       do_forward_steps(block, weights);
                     });
#endif
}

/// The life of a warp that multiplies and finishes, backward.
template <typename Shape>
__device__ void do_backward_steps(GridBlock<Shape> const& block, StreamedWeights<Shape>& weights) {
  using T = typename Shape::Value;
  auto const& work = block.work;
  int const steps = work.steps.steps;
  StreamedProduct<Shape> product{block, weights};
  StreamedPlace<Shape> const place{block};

  typename Shape::Inputs inputs{work.steps,
                                block.shared + block.layout.inputs,
                                static_cast<int>(threadIdx.x),
                                place.tiles,
                                place.tile_row,
                                Shape::kLaneTiles,
                                place.unit};
  inputs.fetch(Shape::Inputs::kStages - 1);
  BackwardLane<T, 2> finisher{work.steps, inputs.rows().first(), place.unit};
  float direct[Shape::kLaneTiles][2];
#pragma unroll
  for (int k = 0; k < Shape::kLaneTiles; ++k) finisher.load(inputs.rows().row(k), direct[k]);

  weights.wait_for_resident();
  product.begin(0);
#pragma unroll 1
  for (int i = 0; i < steps; ++i) {
    if (!product.multiply()) block.expire();
    float sums[Shape::kLaneTiles][1][2];
    exchange_sums(block, place, product, sums);
    weights.release_sums();
    bool const is_last = i + 1 == steps;
    std::byte* const next = block.operands(i + 1, 0) + place.words;
    std::byte* const past = block.operands(i + kSlots - 1, 0) + place.words;
    inputs.wait();
    BackwardResult<2> result[Shape::kLaneTiles];
#pragma unroll
    for (int k = 0; k < Shape::kLaneTiles; ++k) {
      if (k >= place.tiles.count) break;
      BackwardInput<2> const input = inputs.read(i, k);
      BackwardFactors<2> const factors = finisher.prepare(input);
      if (block.expired() != 0) finisher.poison(direct[k]);
      result[k] = finisher.finish(sums[k][0], factors, input.flags, direct[k]);
      auto const& dq = result[k].dq;
      float const gates[3][2] = {{dq[0].z, dq[1].z}, {dq[0].r, dq[1].r}, {dq[0].g, dq[1].g}};
      if (inputs.rows().has(k) && !is_last) {
#pragma unroll
        for (int gate = 0; gate < 3; ++gate) {
          publish<Shape>(next + k * place.tile_stride() + gate * 512, gates[gate]);
        }
      }
    }

    // The rest is done in the shadow of the exchange.
#pragma unroll
    for (int k = 0; k < Shape::kLaneTiles; ++k) {
      if (k >= place.tiles.count) break;
      if (inputs.rows().has(k)) {
#pragma unroll
        for (int gate = 0; gate < 3; ++gate) {
          withdraw<Shape>(past + k * place.tile_stride() + gate * 512);
        }
      }
      int const n = inputs.rows().row(k);
      finisher.write(result[k], n);
      if (is_last) finisher.leave(result[k], n, direct[k]);
    }
    if (!is_last) product.begin(i + 1);
    if (i % kFenceSteps == 0) ptx::fence_device();
    finisher.advance();
    inputs.fetch(i + Shape::Inputs::kStages);
  }
  // The rows of a lane without tiles are another's.
  if (place.tiles.count > 0) finisher.leave_bias_sums(inputs.rows().row(0));
}

/// The kernel backward, likewise.
template <typename Shape>
GRU_KERNEL void __launch_bounds__(Shape::kThreads, 1)
    streamed_backward_kernel(__grid_constant__ typename Shape::Work const work) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) std::byte shared[];
  run_streamed_block(GridBlock<Shape>{work, shared},
                     [](GridBlock<Shape> const& block, StreamedWeights<Shape>& weights) {
                       do_backward_steps(block, weights);
                     });
#endif
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
