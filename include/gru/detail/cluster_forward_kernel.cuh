// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gru/detail/cluster_parts.cuh>

/// The recurrence in one kernel: a cluster of thread blocks keeps R in registers and shared memory
/// and carries some rows of the batch through all steps. Clusters never talk to each other.
///
/// A block has some of the units, in groups of 16, for all tiles of 8 rows of its cluster. kSplit
/// warps share a group: each multiplies over its part of the depth, and finishes its part of the
/// units and rows. One step of one tile:
///   1. wait until the operands of all units have arrived in this block's shared memory;
///   2. multiply: three accumulators (the gates) of 16 units x 8 rows a warp;
///   3. the warps of a group swap sums, so that each has all of those that it finishes;
///   4. each lane finishes its units of one row: cell, zoneout;
///   5. and stores its operands in the shared memory of every block of the cluster;
///   6. outputs and reserve are written in the shadow of the exchange.
/// A lane whose wait expires waits and sends no more and goes on to the end, so that whoever
/// depends on it expires too, and every barrier of a block is still met by all of its threads.
///
/// Operands are double-buffered, with one transaction barrier a buffer, and that is enough: who has
/// received all operands of step i knows that everyone has read those of step i - 1.
///
/// Each tile has operands and barriers of its own, and its active steps (see tile_deal.cuh) are
/// contiguous. A tile that ends is sent nothing in its last step, so that no operands are under way
/// when the kernel ends. One that begins late finds its first operands where they were put at the
/// start, and its barriers as they were made: it begins at a multiple of 4 steps, at which buffer
/// and parity are those of step 0.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// Few tiles are one, whose states then stay in registers and whose steps are free of the loop over
/// tiles. H200, H 256, N 1, half: from 0.99 to 0.76 us a step, measured
/// together with cheaper functions.
template <typename T, Multiplication multiplication, typename Shape, GroupTiles kTiles>
GRU_KERNEL void __launch_bounds__(Shape::kThreads, 1)
    cluster_forward_kernel(RecurrentForward<T> const pass, T const* packed_weights, int tiles_) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) std::byte shared[];
  constexpr bool kOneTile = kTiles == GroupTiles::kFew;
  constexpr bool kSorts = kTiles == GroupTiles::kSorted;
  int const tiles = kOneTile ? 1 : tiles_;
  ClusterPlace<Shape> const place{pass.deal, tiles};

  // Shared memory: operands, weights, swap, states, inputs, barriers.
  std::uint32_t const operands = ptx::shared_address(shared);
  ClusterLayout<Shape> const layout{tiles, 2 * Shape::kOperands};
  std::uint32_t const barriers = operands + layout.barriers;
  auto* const states = reinterpret_cast<float2*>(shared + layout.states) + threadIdx.x;

  ClusterWeights<T, multiplication, Shape> const weights{packed_weights, place, shared,
                                                         layout.weights};
  load_operands<T, multiplication, Shape>(pass, place.tiles, 2 * Shape::kOperands, shared);
  using Inputs = typename Shape::template Inputs<kSorts>;
  Inputs inputs{pass,
                shared + layout.inputs,
                static_cast<int>(threadIdx.x),
                place.lane_tiles,
                place.tile_row,
                Shape::lane_tiles(tiles),
                place.unit};
  typename Shape::Finisher finisher{pass, inputs.rows().first(), place.unit};
  float state[2];
  load_states<Shape>(finisher, inputs.rows(), place.lane_tiles.count, states, state);
  start_barriers<Shape>(barriers, tiles);
  __syncthreads();
  ptx::meet_cluster();

  std::uint32_t read_at = place.read_at(operands);
  std::uint32_t write_at = place.template write_at<sizeof(T)>(operands);
  ptx::keep(read_at);
  ptx::keep(write_at);
  GroupSwap<Shape> swap{place, operands + layout.swap};
  bool expired = false;
  // Prepares a barrier for the step after the next. Operands that come before that count, too. One
  // whose phase is not complete must not be armed again.
  auto const arm = [&](std::uint32_t barrier) {
    if (threadIdx.x == 0 && !expired) ptx::expect_bytes(barrier, Shape::kOperands);
  };
  ActiveTiles<RecurrentForward<T>, kSorts> active{pass, place.tiles};
#pragma unroll 1
  for (int i = 0; i < pass.steps; ++i) {
    int const buffer = i & 1;
    int const tiles_now = active.count();
    active.advance();
    int const tiles_next = i + 1 == pass.steps ? 0 : active.count();
    inputs.fetch(i + Inputs::kStages - 1);
    inputs.wait();
#pragma unroll 1
    for (int tile = 0; tile < tiles_now; ++tile) {
      bool const goes_on = tile < tiles_next;
      bool const finishes = tile % Shape::kTilesApart == place.first_tile;
      int const lane_tile = tile / Shape::kTilesApart;

      StepInput<2> input = {};
      if (kOneTile && finishes) input = inputs.read(i, lane_tile);

      // 1. Wait.
      std::uint32_t const barrier = barriers + 8 * (tile * 2 + buffer);
      std::uint32_t polls = 0;
      while (!ptx::is_complete(barrier, i >> 1 & 1)) {
        if (expired) break;
        if (++polls > pass.most_polls) {
          expired = true;
          finisher.poison();
          pass.expire();
        }
      }
      if constexpr (!kOneTile) arm(barrier);

      // 2. Multiply.
      float sums[3][4] = {};
      weights.template multiply<0>(read_at + (tile * 2 + buffer) * Shape::kOperands, sums);

      // 3. Swap with the group's other warps.
      swap.begin();
      swap.send(sums);
      if (!kOneTile && finishes) input = inputs.read(i, lane_tile);
      swap.meet();
      if (!finishes) continue;
      float mine[3][2];
      swap.receive(sums, mine);

      // 4. Finish.
      if constexpr (!kOneTile) {
        float2 const stored = states[lane_tile * Shape::kThreads];
        state[0] = stored.x;
        state[1] = stored.y;
      }
      auto const result = finisher.finish(mine, input, state);

      // 5. Hand the operands on.
      if (goes_on && !expired) {
        int const next = tile * 2 + (buffer ^ 1);
        hand_on<T, multiplication, Shape>(write_at + next * Shape::kOperands, barriers + 8 * next,
                                          result.operand);
      }
      if constexpr (kOneTile) arm(barrier);

      // 6. What others see.
      int const n = inputs.rows().row(lane_tile);
      finisher.write(result, input, n, state);
      if (!goes_on) finisher.leave(result, n, state);
      if constexpr (!kOneTile) {
        states[lane_tile * Shape::kThreads] = make_float2(state[0], state[1]);
      }
    }
    finisher.advance();
  }
  ptx::meet_cluster();
#endif
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
