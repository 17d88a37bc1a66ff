// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gru/detail/grid_parts.cuh>
#include <gru/detail/ptx.cuh>
#include <gru/detail/recurrence.cuh>

/// The recurrence in one kernel: see grid_parts.cuh.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// The life of a finishing warp.
template <typename Shape>
__device__ void finish_forward(GridBlock<Shape> const& block) {
  using T = typename Shape::Value;
  auto const& work = block.work;
  GridPlace<Shape> const place{block};
  int const steps = work.steps.steps;

  auto inputs = make_inputs(block, place);
  inputs.fetch(Shape::Inputs::kStages - 1);
  ForwardLane<T, 2, CellValue<T>> finisher{work.steps, inputs.rows().first(), place.unit};
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
      StepInput<2> const input = inputs.read(i, k);
      int const n = inputs.rows().row(k);
      float2 const kept = ptx::load_shared_pair(place.carried + k * Shape::kCarried);
      float state[2] = {kept.x, kept.y};

      ptx::wait(block.full(turns.buffer), turns.parity());
      float sums[3][2];
      place.add_up(turns.buffer, sums);
      if (block.expired() != 0) finisher.poison();
      StepResult<2> const result = finisher.finish(sums, input, state);
      bool const is_row = inputs.rows().has(k);
      if (is_row && k < tiles_next) publish<Shape>(next, result.operand);
      __syncwarp();
      if (place.lane == 0) block.release(turns.buffer);

      // The rest is done in the shadow of the exchange.
      if (is_row) withdraw<Shape>(past);
      finisher.write(result, input, n, state);
      if (k >= tiles_next) finisher.leave(result, n, state);
      ptx::store_shared_pair(place.carried + k * Shape::kCarried, state[0], state[1]);
      next += Shape::kSets * Shape::kTile;
      past += Shape::kSets * Shape::kTile;
      turns.advance();
    }
    if (i % kFenceSteps == 0) ptx::fence_device();
    finisher.advance();
    inputs.fetch(i + Shape::Inputs::kStages);
  }
}

/// Does the steps of a chunk for work.groups * work.tiles tiles, in groups * ranks blocks that must
/// all be resident at once.
template <typename Shape>
GRU_KERNEL void __launch_bounds__(Shape::kThreads, 1)
    grid_forward_kernel(__grid_constant__ typename Shape::Work const work) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  extern __shared__ __align__(128) std::byte shared[];
  run_block(GridBlock<Shape>{work, shared},
            [](GridBlock<Shape> const& block) { finish_forward(block); });
#endif
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
