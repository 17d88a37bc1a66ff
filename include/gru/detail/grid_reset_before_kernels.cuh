// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gru/detail/grid_parts.cuh>
#include <gru/detail/ptx.cuh>
#include <gru/detail/recurrence.cuh>
#include <gru/detail/recurrence_backward.cuh>

/// The steps of the variant that resets before the product, forward and backward, in one kernel
/// each: see grid_parts.cuh. A step has two exchanges, numbered on from step to step.
///
/// Forward, s is exchanged for the gates z and r; then r * s for the candidate. The update gate's
/// sums wait in shared memory for the candidate's.
///   Backward, dq of z and r, of the step done before, are exchanged for the gradient of the state;
/// then the candidate's dq of this step for that of r * s. What goes back through R_g reaches the
/// step before by no other way. The update gate's dq is published with the candidate's, an exchange
/// before it is due: who polls for it polls for the reset gate's of the same lane as well.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// The life of a finishing warp, forward.
template <typename Shape>
__device__ void finish_reset_before(GridBlock<Shape> const& block) {
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
  constexpr int kTileApart = Shape::kSets * Shape::kTile;
#pragma unroll 1
  for (int i = 0; i < steps; ++i) {
    bool const ends = i + 1 == steps;
    inputs.wait();

    // The first exchange: r * s.
    std::byte* next = block.operands(2 * i + 1, 0) + place.words;
    std::byte* past = block.operands(2 * i + kSlots - 1, 0) + place.words;
#pragma unroll 1
    for (int k = 0; k < place.tiles.count; ++k) {
      StepInput<2> const input = inputs.read(i, k);
      std::uint32_t const carried = place.carried + k * Shape::kCarried;
      float2 const kept = ptx::load_shared_pair(carried);
      float const state[2] = {kept.x, kept.y};

      ptx::wait(block.full(turns.buffer), turns.parity());
      float sums[3][2];
      place.template add_up<ResetGate>(turns.buffer, sums);
      ResetResult<2> const result = finisher.reset(sums[1], input, state);
      bool const is_row = inputs.rows().has(k);
      if (is_row) publish<Shape>(next, result.operand);
      place.template add_up<UpdateGate>(turns.buffer, sums);
      __syncwarp();
      if (place.lane == 0) block.release(turns.buffer);

      // The rest is done in the shadow of the exchange.
      if (is_row) withdraw<Shape>(past);
      ptx::store_shared_pair(carried + Shape::kCarriedPairs, sums[0][0], sums[0][1]);
      finisher.write_reset(result, input, inputs.rows().row(k));
      next += kTileApart;
      past += kTileApart;
      turns.advance();
    }

    // The second: the new state.
    next = block.operands(2 * i + 2, 0) + place.words;
    past = block.operands(2 * i + kSlots, 0) + place.words;
#pragma unroll 1
    for (int k = 0; k < place.tiles.count; ++k) {
      StepInput<2> const input = inputs.read(i, k);
      int const n = inputs.rows().row(k);
      std::uint32_t const carried = place.carried + k * Shape::kCarried;
      float2 const kept = ptx::load_shared_pair(carried);
      float2 const update = ptx::load_shared_pair(carried + Shape::kCarriedPairs);
      float state[2] = {kept.x, kept.y};
      float sums[3][2] = {{update.x, update.y}};

      ptx::wait(block.full(turns.buffer), turns.parity());
      place.template add_up<CandidateGate>(turns.buffer, sums);
      if (block.expired() != 0) finisher.poison();
      auto const result = finisher.template finish<Variant::kResetBefore>(sums, input, state);
      bool const is_row = inputs.rows().has(k);
      if (is_row && !ends) publish<Shape>(next, result.operand);
      __syncwarp();
      if (place.lane == 0) block.release(turns.buffer);

      if (is_row) withdraw<Shape>(past);
      finisher.template write<Variant::kResetBefore>(result, input, n, state);
      if (ends) finisher.leave(result, n, state);
      ptx::store_shared_pair(carried, state[0], state[1]);
      next += kTileApart;
      past += kTileApart;
      turns.advance();
    }
    if (2 * i % kFenceSteps == 0) ptx::fence_device();
    finisher.advance();
    inputs.fetch(i + Shape::Inputs::kStages);
  }
}

/// The life of a finishing warp, backward.
template <typename Shape>
__device__ void finish_reset_before_backward(GridBlock<Shape> const& block) {
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
  constexpr int kTileApart = Shape::kSets * Shape::kTile;
  constexpr int kReset = 512;  // where the gate's operands are, after the update gate's
  constexpr int kCandidate = 1024;
#pragma unroll 1
  for (int i = 0; i < steps; ++i) {
    bool const ends = i + 1 == steps;
    // Of the candidate, in this step and the one before; of the other gates, in the next and this.
    std::byte* candidate = block.operands(2 * i + 1, 0) + place.words + kCandidate;
    std::byte* past_candidate = block.operands(2 * i + kSlots - 1, 0) + place.words + kCandidate;
    std::byte* next = block.operands(2 * i + 2, 0) + place.words;
    inputs.wait();

    // The first exchange: the update gate and the candidate.
#pragma unroll 1
    for (int k = 0; k < place.tiles.count; ++k) {
      BackwardInput<2> const input = inputs.read(i, k);
      auto const factors = finisher.template prepare<Variant::kResetBefore>(input);
      std::uint32_t const carried = place.carried + k * Shape::kCarried;
      float2 const kept = ptx::load_shared_pair(carried);
      float direct[2] = {kept.x, kept.y};

      ptx::wait(block.full(turns.buffer), turns.parity());
      float sums[1][2];
      place.add_up(turns.buffer, sums);
      if (block.expired() != 0) finisher.poison(direct);
      auto const result =
          finisher.template finish<Variant::kResetBefore>(sums[0], factors, input.flags, direct);
      bool const is_row = inputs.rows().has(k);
      if (is_row) publish<Shape>(candidate, {result.dq[0].g, result.dq[1].g});
      __syncwarp();
      if (place.lane == 0) block.release(turns.buffer);

      // The rest is done in the shadow of the exchange.
      if (is_row) {
        withdraw<Shape>(past_candidate);
        if (!ends) publish<Shape>(next, {result.dq[0].z, result.dq[1].z});
      }
      int const n = inputs.rows().row(k);
      finisher.write_others(result, n);
      if (ends) finisher.leave(result, n, direct);
      ptx::store_shared_pair(carried, direct[0], direct[1]);
      candidate += kTileApart;
      past_candidate += kTileApart;
      next += kTileApart;
      turns.advance();
    }

    // The second: the reset gate.
    next = block.operands(2 * i + 2, 0) + place.words;
    std::byte* past = block.operands(2 * i + kSlots, 0) + place.words;
#pragma unroll 1
    for (int k = 0; k < place.tiles.count; ++k) {
      BackwardInput<2> const input = inputs.read(i, k);
      auto const factors = finisher.template prepare<Variant::kResetBefore>(input);
      std::uint32_t const carried = place.carried + k * Shape::kCarried;
      float2 const kept = ptx::load_shared_pair(carried);
      float direct[2] = {kept.x, kept.y};

      ptx::wait(block.full(turns.buffer), turns.parity());
      float sums[1][2];
      place.add_up(turns.buffer, sums);
      if (block.expired() != 0) finisher.poison(sums[0]);
      BackwardResult<2> result;
      finisher.finish_reset(sums[0], factors, input.flags, result, direct);
      bool const is_row = inputs.rows().has(k);
      if (is_row && !ends) publish<Shape>(next + kReset, {result.dq[0].r, result.dq[1].r});
      __syncwarp();
      if (place.lane == 0) block.release(turns.buffer);

      if (is_row) {
        withdraw<Shape>(past);
        withdraw<Shape>(past + kReset);
      }
      int const n = inputs.rows().row(k);
      finisher.write_reset(result, n);
      if (ends) finisher.leave_reset(result, n, direct);
      ptx::store_shared_pair(carried, direct[0], direct[1]);
      next += kTileApart;
      past += kTileApart;
      turns.advance();
    }
    if (2 * i % kFenceSteps == 0) ptx::fence_device();
    finisher.advance();
    inputs.fetch(i + Shape::Inputs::kStages);
  }
  // The rows of a lane without tiles are another's.
  if (place.tiles.count > 0) finisher.leave_bias_sums(inputs.rows().row(0));
}

/// Does the steps of a chunk, forward or backward, as grid_forward_kernel does.
template <typename Shape>
GRU_KERNEL void __launch_bounds__(Shape::kThreads, 1)
    grid_reset_before_kernel(__grid_constant__ typename Shape::Work const work) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  extern __shared__ __align__(128) std::byte shared[];
  run_block(GridBlock<Shape>{work, shared}, [](GridBlock<Shape> const& block) {
    if constexpr (Shape::kIsForward) {
      finish_reset_before(block);
    } else {
      finish_reset_before_backward(block);
    }
  });
#endif
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
