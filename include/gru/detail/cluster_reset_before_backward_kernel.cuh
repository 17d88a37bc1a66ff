// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gru/detail/cluster_backward_parts.cuh>

/// Backward's recurrence of the variant that resets before the product, in one kernel on clusters;
/// see cluster_backward_parts.cuh and, for the variant without the second exchange,
/// cluster_backward_kernel.cuh. One step, points 1 to 3 for all tiles of the cluster, then the
/// others:
///   1. wait until the parts of dq R^T, over the gates z and r, have arrived, and add them up;
///   2. finish the update gate and the candidate; their dq in shared memory; the block meets;
///   3. multiply the candidate's, and send the parts of its sums, the gradient of r * s;
///   4. wait until these have arrived, and add them up;
///   5. finish the reset gate; its dq in shared memory; the block meets;
///   6. multiply the update and the reset gate's, and send the parts of the next step's sums.
/// What goes back through R_g does not reach the next step by another way than r * s.
///
/// One buffer of parts for each exchange is enough, with one barrier: who has received all parts of
/// one exchange knows that every block has read those of the other before it. dq is
/// double-buffered, since the update gate's is written while that of the step before is still
/// multiplied. Waits expire as there.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// kOneTile: as in cluster_backward_kernel.
template <typename T, Multiplication multiplication, typename Shape, bool kOneTile>
GRU_KERNEL void __launch_bounds__(Shape::kThreads, 1)
    cluster_reset_before_backward_kernel(RecurrentBackward<T> const pass, T const* packed_weights,
                                         int tiles_) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) std::byte shared[];
  int const tiles = kOneTile ? 1 : tiles_;
  int const rounds = kOneTile ? 1 : Shape::lane_tiles(tiles);
  ClusterBackwardPlace<Shape> const place{pass.deal, tiles};
  ClusterBackwardLayout<Shape> const layout{shared, tiles};

  TransposedWeights<T, multiplication, Shape> const weights{packed_weights, place.rank, place.warp,
                                                            place.lane, layout.weights};
  using Inputs = typename Shape::template Inputs<false>;
  Inputs inputs{
      pass,   layout.inputs, static_cast<int>(threadIdx.x), place.lane_tiles, place.tile_row,
      rounds, place.unit};
  typename Shape::Finisher finisher{pass, inputs.rows().first(), place.unit};
  start_tiles(shared, layout, tiles);
  __syncthreads();
  float direct[2];
  load_carried<T, multiplication>(finisher, inputs.rows(), place, layout, direct);
  __syncthreads();
  ptx::meet_cluster();

  std::uint32_t read_at = layout.operands + operand_offset(place.q >> 1, place.g, place.q & 1);
  std::uint32_t mine_at = layout.parts + first_part(place);
  ptx::keep(read_at);
  ptx::keep(mine_at);
  // The candidate's dq begins at a depth block.
  constexpr int kCandidate = 2 * Shape::kBlockUnits / kDepthBlock<T>;
  static_assert(kCandidate * kDepthBlock<T> == 2 * Shape::kBlockUnits,
                "gates share no depth block");
  auto const multiply_candidate = [&](int tile, int step) {
    int const at = tile * Shape::kTile;
    float sums[Shape::kHeight][4] = {};
    weights.template multiply<kCandidate, Shape::kDepth>(
        read_at + at + (step & 1) * Shape::kOperands, sums);
    send_parts(layout.parts + at + Shape::kParts, layout.barriers + 8 * (2 * tile + 1), place,
               sums);
  };
  auto const multiply_others = [&](int tile, int step) {
    int const at = tile * Shape::kTile;
    float sums[Shape::kHeight][4] = {};
    weights.template multiply<0, kCandidate>(read_at + at + (step & 1) * Shape::kOperands, sums);
    send_parts(layout.parts + at, layout.barriers + 8 * (2 * tile), place, sums);
  };
  // dq of the step before the chunk is in the first buffer, that of the chunk's step i in i + 1's.
  for (int tile = 0; tile < tiles; ++tile) multiply_others(tile, 0);

  bool expired = false;
  auto const meet = [&] {
    __syncthreads();
    expired = *layout.has_expired != 0;
  };
  // Calls multiply for the tiles of a round.
  auto const for_round = [&](int round, auto multiply) {
    int const first = round * Shape::kSets;
    int const end = kOneTile ? 1 : min(first + Shape::kSets, tiles);
#pragma unroll 1
    for (int t = first; t < end; ++t) multiply(t);
  };
  auto const load_direct = [&](int round) {
    if constexpr (!kOneTile) {
      float2 const carried = layout.direct[round * Shape::kThreads];
      direct[0] = carried.x;
      direct[1] = carried.y;
    }
  };
  auto const store_direct = [&](int round) {
    if constexpr (!kOneTile) {
      layout.direct[round * Shape::kThreads] = make_float2(direct[0], direct[1]);
    }
  };
#pragma unroll 1
  for (int i = 0; i < pass.steps; ++i) {
    bool const ends = i + 1 == pass.steps;
    std::uint32_t const dq_at = layout.operands + ((i + 1) & 1) * Shape::kOperands;
    inputs.fetch(i + Inputs::kStages - 1);
    inputs.wait();
    BackwardFactors<2> factors;
    std::uint32_t flags = 0;
    BackwardResult<2> result;
    auto const prepare = [&](int round) {
      BackwardInput<2> const input = inputs.read(i, round);
      factors = finisher.template prepare<Variant::kResetBefore>(input);
      flags = input.flags;
    };
#pragma unroll 1
    for (int round = 0; round < rounds; ++round) {
      int const tile = round * Shape::kSets + place.set;
      int const at = tile * Shape::kTile;
      bool const finishes = round < place.lane_tiles.count;
      if (finishes) {
        // 1. Sums.
        prepare(round);
        await_parts(pass, place, layout, layout.barriers + 8 * (2 * tile), i & 1, expired);
        float sum[2];
        add_parts<Shape>(mine_at + at, sum);

        // 2. Finish.
        load_direct(round);
        if (expired) finisher.poison(direct);
        result = finisher.template finish<Variant::kResetBefore>(sum, factors, flags, direct);
        leave_gate<T, multiplication>(dq_at + at, place, 0, result.dq[0].z, result.dq[1].z);
        leave_gate<T, multiplication>(dq_at + at, place, 2, result.dq[0].g, result.dq[1].g);
      }
      meet();

      // 3. Multiply the candidate's.
      if (!expired) for_round(round, [&](int t) { multiply_candidate(t, i + 1); });
      if (finishes) {
        int const n = inputs.rows().row(round);
        finisher.write_others(result, n);
        if (ends) finisher.leave(result, n, direct);
        store_direct(round);
      }
    }
#pragma unroll 1
    for (int round = 0; round < rounds; ++round) {
      int const tile = round * Shape::kSets + place.set;
      int const at = tile * Shape::kTile;
      bool const finishes = round < place.lane_tiles.count;
      if (finishes) {
        // 4. Sums.
        if constexpr (!kOneTile) prepare(round);
        await_parts(pass, place, layout, layout.barriers + 8 * (2 * tile + 1), i & 1, expired);
        float sum[2];
        add_parts<Shape>(mine_at + at + Shape::kParts, sum);

        // 5. Finish.
        load_direct(round);
        if (expired) finisher.poison(direct);
        finisher.finish_reset(sum, factors, flags, result, direct);
        leave_gate<T, multiplication>(dq_at + at, place, 1, result.dq[0].r, result.dq[1].r);
      }
      meet();

      // 6. Multiply the others'.
      if (!ends && !expired) for_round(round, [&](int t) { multiply_others(t, i + 1); });
      if (finishes) {
        int const n = inputs.rows().row(round);
        finisher.write_reset(result, n);
        if (ends) finisher.leave_reset(result, n, direct);
        store_direct(round);
      }
    }
    finisher.advance();
  }
  if (place.lane_tiles.count > 0) finisher.leave_bias_sums(inputs.rows().row(0));
  ptx::meet_cluster();
#endif
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
