// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gru/detail/cluster_parts.cuh>

/// The recurrence of the variant that resets before the product, in one kernel on clusters; see
/// cluster_parts.cuh and, for the variant without the second exchange, cluster_forward_kernel.cuh.
/// One step, points 1 and 2 for all tiles of the cluster, then the others:
///   1. wait until s has arrived from all units, and multiply: the reset gate alone;
///   2. each lane forms r * s of its units and stores it in every block of the cluster;
///   3. multiply s for the update gate, in the shadow of the exchange;
///   4. wait until r * s has arrived, and multiply: the candidate;
///   5. each lane finishes its units, and stores its part of the next s in every block;
///   6. outputs and reserve are written in the shadow of the exchange.
/// Waits expire as there.
///
/// s is double-buffered, since it is still read after r * s was sent. Who has received all of r * s
/// of step i knows that everyone has read all of step i - 1; who has received all of s of step
/// i + 1, that everyone has read r * s of step i, for which one buffer therefore is enough. A
/// barrier each is enough as well: the next bytes come only once all threads have seen the last.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// kOneTile: for clusters with a single tile, whose states and inputs then stay in registers. H200,
/// half: H 128, N 1 from 1.005 to 0.908, H 512, N 64 from 1.793 to 1.726 us a step.
template <typename T, Multiplication multiplication, typename Shape, bool kOneTile>
GRU_KERNEL void __launch_bounds__(Shape::kThreads, 1)
    cluster_reset_before_kernel(RecurrentForward<T> const pass, T const* packed_weights,
                                int tiles_) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) std::byte shared[];
  int const tiles = kOneTile ? 1 : tiles_;
  ClusterPlace<Shape> const place{pass.deal, tiles};

  // Shared memory: operands (of each tile s twice, then r * s), weights, swap, states, inputs,
  // barriers.
  constexpr int kTileBytes = 3 * Shape::kOperands;
  constexpr int kResetAt = 2 * Shape::kOperands;
  std::uint32_t const operands = ptx::shared_address(shared);
  ClusterLayout<Shape> const layout{tiles, kTileBytes};
  std::uint32_t const barriers = operands + layout.barriers;
  auto* const states = reinterpret_cast<float2*>(shared + layout.states) + threadIdx.x;

  ClusterWeights<T, multiplication, Shape> const weights{packed_weights, place, shared,
                                                         layout.weights};
  load_operands<T, multiplication, Shape>(pass, place.tiles, kTileBytes, shared);
  using Inputs = typename Shape::template Inputs<false>;
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
  auto const await = [&](std::uint32_t barrier, std::uint32_t parity) {
    std::uint32_t polls = 0;
    while (!ptx::is_complete(barrier, parity)) {
      if (expired) break;
      if (++polls > pass.most_polls) {
        expired = true;
        finisher.poison();
        pass.expire();
      }
    }
  };
  // Prepares a barrier for the next step. Operands that come before that count, too. One whose
  // phase is not complete must not be armed again.
  auto const arm = [&](std::uint32_t barrier) {
    if (threadIdx.x == 0 && !expired) ptx::expect_bytes(barrier, Shape::kOperands);
  };
  auto const load_state = [&](int tile) {
    float2 const stored = states[tile * Shape::kThreads];
    state[0] = stored.x;
    state[1] = stored.y;
  };
  StepInput<2> input = {};
#pragma unroll 1
  for (int i = 0; i < pass.steps; ++i) {
    int const entering_at = (i & 1) * Shape::kOperands;  // s among a tile's operands
    int const leaving_at = Shape::kOperands - entering_at;
    bool const ends = i + 1 == pass.steps;
    inputs.fetch(i + Inputs::kStages - 1);
    inputs.wait();
#pragma unroll 1
    for (int tile = 0; tile < tiles; ++tile) {
      bool const finishes = tile % Shape::kTilesApart == place.first_tile;
      int const lane_tile = tile / Shape::kTilesApart;
      int const at = tile * kTileBytes;
      std::uint32_t const barrier = barriers + 16 * tile;
      if (kOneTile && finishes) input = inputs.read(i, lane_tile);

      // 1. The reset gate.
      await(barrier, i & 1);
      if constexpr (!kOneTile) arm(barrier);
      float sums[1][4] = {};
      weights.template multiply<1>(read_at + at + entering_at, sums);
      swap.begin();
      swap.send(sums);
      if (!kOneTile && finishes) {
        input = inputs.read(i, lane_tile);
        load_state(lane_tile);
      }
      swap.meet();

      // 2. r * s.
      if (finishes) {
        float mine[1][2];
        swap.receive(sums, mine);
        auto const result = finisher.reset(mine[0], input, state);
        if (!expired) {
          hand_on<T, multiplication, Shape>(write_at + at + kResetAt, barrier + 8, result.operand);
        }
        finisher.write_reset(result, input, inputs.rows().row(lane_tile));
      }
      if constexpr (kOneTile) arm(barrier);
    }
#pragma unroll 1
    for (int tile = 0; tile < tiles; ++tile) {
      bool const finishes = tile % Shape::kTilesApart == place.first_tile;
      int const lane_tile = tile / Shape::kTilesApart;
      int const at = tile * kTileBytes;
      std::uint32_t const barrier = barriers + 16 * tile;

      // 3. The update gate.
      float update[1][4] = {};
      weights.template multiply<0>(read_at + at + entering_at, update);
      swap.begin();
      swap.template send<0>(update);

      // 4. The candidate.
      await(barrier + 8, i & 1);
      if constexpr (!kOneTile) arm(barrier + 8);
      float candidate[1][4] = {};
      weights.template multiply<2>(read_at + at + kResetAt, candidate);
      swap.template send<1>(candidate);
      if (!kOneTile && finishes) {
        input = inputs.read(i, lane_tile);
        load_state(lane_tile);
      }
      swap.meet();
      if (!finishes) continue;

      // 5. The new state.
      float my_update[1][2];
      float my_candidate[1][2];
      swap.template receive<0>(update, my_update);
      swap.template receive<1>(candidate, my_candidate);
      float const mine[3][2] = {
          {my_update[0][0], my_update[0][1]}, {}, {my_candidate[0][0], my_candidate[0][1]}};
      auto const result = finisher.template finish<Variant::kResetBefore>(mine, input, state);
      if (!ends && !expired) {
        hand_on<T, multiplication, Shape>(write_at + at + leaving_at, barrier, result.operand);
      }
      if constexpr (kOneTile) arm(barrier + 8);

      // 6. What others see.
      int const n = inputs.rows().row(lane_tile);
      finisher.template write<Variant::kResetBefore>(result, input, n, state);
      if (ends) finisher.leave(result, n, state);
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
