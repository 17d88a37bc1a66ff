// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gru/detail/grid_parts.cuh>
#include <gru/detail/ptx.cuh>
#include <gru/detail/recurrence_backward.cuh>

/// Backward's steps in one kernel: see grid_parts.cuh.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// The life of a finishing warp.
template <typename Shape>
__device__ void finish_backward(GridBlock<Shape> const& block) {
  using T = typename Shape::Value;
  auto const& work = block.work;
  GridPlace<Shape> const place{block};
  int const steps = work.steps.steps;

  auto inputs = make_inputs(block, place);
  inputs.fetch(Shape::Inputs::kStages - 1);
  BackwardLane<T, 2> finisher{work.steps, inputs.rows().first(), place.unit};
  load_carried(place, finisher, inputs.rows());

  BufferTurns<Shape::kSets> turns;
  turns.choose(place.set);
  typename Shape::Active active{work.steps, place.tiles};
#pragma unroll 1
  for (int i = 0; i < steps; ++i) {
    int const tiles_now = active.count();
    active.advance();
    int const tiles_next = i + 1 < steps ? active.count() : 0;
    std::byte* next = block.operands(i + 1, 0) + place.words;
    std::byte* past = block.operands(i + kSlots - 1, 0) + place.words;
    inputs.wait();
#pragma unroll 1
    for (int k = 0; k < tiles_now; ++k) {
      BackwardInput<2> const input = inputs.read(i, k);
      BackwardFactors<2> const factors = finisher.prepare(input);
      float2 const kept = ptx::load_shared_pair(place.carried + k * Shape::kCarried);
      float direct[2] = {kept.x, kept.y};

      ptx::wait(block.full(turns.buffer), turns.parity());
      float sums[1][2];
      place.add_up(turns.buffer, sums);
      if (block.expired() != 0) finisher.poison(direct);
      BackwardResult<2> const result = finisher.finish(sums[0], factors, input.flags, direct);
      float const dq[3][2] = {{result.dq[0].z, result.dq[1].z},
                              {result.dq[0].r, result.dq[1].r},
                              {result.dq[0].g, result.dq[1].g}};
      bool const is_row = inputs.rows().has(k);
      if (is_row && k < tiles_next) {
#pragma unroll
        for (int gate = 0; gate < 3; ++gate) {
          publish<Shape>(next + gate * 512, dq[gate]);
        }
      }
      __syncwarp();
      if (place.lane == 0) block.release(turns.buffer);

      // The rest is done in the shadow of the exchange.
      if (is_row) {
#pragma unroll
        for (int gate = 0; gate < 3; ++gate) withdraw<Shape>(past + gate * 512);
      }
      int const n = inputs.rows().row(k);
      finisher.write(result, n);
      if (k >= tiles_next) finisher.leave(result, n, direct);
      ptx::store_shared_pair(place.carried + k * Shape::kCarried, direct[0], direct[1]);
      next += Shape::kSets * Shape::kTile;
      past += Shape::kSets * Shape::kTile;
      turns.advance();
    }
    if (i % kFenceSteps == 0) ptx::fence_device();
    finisher.advance();
    inputs.fetch(i + Shape::Inputs::kStages);
  }
  // The rows of a lane without tiles are another's.
  if (place.tiles.count > 0) finisher.leave_bias_sums(inputs.rows().row(0));
}

/// Does the steps of a chunk for work.groups * work.tiles tiles, in groups * ranks blocks that must
/// all be resident at once.
template <typename Shape>
GRU_KERNEL void __launch_bounds__(Shape::kThreads, 1)
    grid_backward_kernel(__grid_constant__ typename Shape::Work const work) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  extern __shared__ __align__(128) std::byte shared[];
  if constexpr (Shape::kTeam == 1 || kHasTeams) {
    run_block(GridBlock<Shape>{work, shared},
              [](GridBlock<Shape> const& block) { finish_backward(block); });
  }
#endif
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
