// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gru/detail/cluster_backward_parts.cuh>

/// Backward's recurrence in one kernel, on clusters; see cluster_backward_parts.cuh. One step of
/// one tile:
///   1. from forward's values, each lane computes the factors of its units' gradients;
///   2. wait until the parts of its units' sums have arrived from all blocks, and add them up;
///   3. finish: dq of this step, left in shared memory; the block's threads meet;
///   4. multiply, and send each part to the block that finishes it;
///   5. gradients are written in the shadow of the exchange.
/// A block where a wait expires waits and sends no more and goes on to the end, so that whoever
/// depends on it expires too, and every barrier of a block is still met by all of its threads.
///
/// Parts are double-buffered, with one transaction barrier a buffer, and so is dq; that is enough.
/// Who has received all parts of step i knows that every block has finished step i - 1, and so has
/// read its parts of that step. A warp that multiplies slowly in step i holds up the block that it
/// multiplies for, and with it, in step i + 1, everybody: so dq of step i is read before that of
/// step i + 2 is written.
///
/// Each tile has buffers and barriers of its own, and its active steps (see tile_deal.cuh) are
/// contiguous. What a step multiplies is what is active in the next one: nothing of a tile that
/// ends, so that no parts are under way when the kernel ends, and of a tile that begins, in the
/// first buffer, dq from before the chunk. It begins at a multiple of 4 steps, at which buffers and
/// parity are those of step 0.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// Few tiles are one, whose carried gradients then stay in registers and
/// whose steps are free of the loops over tiles.
template <typename T, Multiplication multiplication, typename Shape, GroupTiles kTiles>
GRU_KERNEL void __launch_bounds__(Shape::kThreads, 1)
    cluster_backward_kernel(RecurrentBackward<T> const pass, T const* packed_weights, int tiles_) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) std::byte shared[];
  constexpr bool kOneTile = kTiles == GroupTiles::kFew;
  constexpr bool kSorts = kTiles == GroupTiles::kSorted;
  int const tiles = kOneTile ? 1 : tiles_;
  int const rounds = kOneTile ? 1 : Shape::lane_tiles(tiles);
  ClusterBackwardPlace<Shape> const place{pass.deal, tiles};
  ClusterBackwardLayout<Shape> const layout{shared, tiles};

  TransposedWeights<T, multiplication, Shape> const weights{packed_weights, place.rank, place.warp,
                                                            place.lane, layout.weights};
  using Inputs = typename Shape::template Inputs<kSorts>;
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
  // Multiplies a tile's dq of the step before `step`, and sends the parts of that step's sums.
  auto const multiply = [&](int tile, int step) {
    int const buffer = step & 1;
    int const at = tile * Shape::kTile;
    float sums[Shape::kHeight][4] = {};
    weights.multiply(read_at + at + buffer * Shape::kOperands, sums);
    send_parts(layout.parts + at + buffer * Shape::kParts,
               layout.barriers + 8 * (2 * tile + buffer), place, sums);
  };
  ActiveTiles<RecurrentBackward<T>, kSorts> active{pass, place.tiles};
  int tiles_now = active.count();
  for (int tile = 0; tile < tiles_now; ++tile) multiply(tile, 0);

  bool expired = false;
#pragma unroll 1
  for (int i = 0; i < pass.steps; ++i) {
    int const buffer = i & 1;
    bool const ends = i + 1 == pass.steps;
    active.advance();
    int const tiles_next = ends ? 0 : active.count();
    // A round also where no tile is active yet: its end begins those of the next step.
    int const rounds_now = kOneTile ? 1 : Shape::lane_tiles(max(tiles_now, 1));
    inputs.fetch(i + Inputs::kStages - 1);
    inputs.wait();
#pragma unroll 1
    for (int round = 0; round < rounds_now; ++round) {
      int const tile = round * Shape::kSets + place.set;
      int const at = tile * Shape::kTile;
      bool const finishes = place.set < Shape::kSets && tile < tiles_now;
      BackwardResult<2> result;
      if (finishes) {
        // 1. Factors.
        BackwardInput<2> const input = inputs.read(i, round);
        BackwardFactors<2> const factors = finisher.prepare(input);

        // 2. Sums.
        await_parts(pass, place, layout, layout.barriers + 8 * (2 * tile + buffer), i >> 1 & 1,
                    expired);
        float sum[2];
        add_parts<Shape>(mine_at + at + buffer * Shape::kParts, sum);

        // 3. Finish.
        if constexpr (!kOneTile) {
          float2 const carried = layout.direct[round * Shape::kThreads];
          direct[0] = carried.x;
          direct[1] = carried.y;
        }
        if (expired) finisher.poison(direct);
        result = finisher.finish(sum, factors, input.flags, direct);
        leave_dq<T, multiplication>(layout.operands + at + (buffer ^ 1) * Shape::kOperands, place,
                                    result.dq);
      }
      __syncthreads();

      // 4. Multiply.
      expired = *layout.has_expired != 0;
      if (!ends && !expired) {
        int const first = round * Shape::kSets;
        int const last = round + 1 == rounds_now ? tiles_next : first + Shape::kSets;
        int const end = kOneTile ? 1 : min(last, tiles_next);
#pragma unroll 1
        for (int t = first; t < end; ++t) multiply(t, i + 1);
      }

      // 5. What others see.
      if (finishes) {
        int const n = inputs.rows().row(round);
        finisher.write(result, n);
        if (tile >= tiles_next) finisher.leave(result, n, direct);
        if constexpr (!kOneTile) {
          layout.direct[round * Shape::kThreads] = make_float2(direct[0], direct[1]);
        }
      }
    }
    finisher.advance();
    tiles_now = tiles_next;
  }
  if (place.lane_tiles.count > 0) finisher.leave_bias_sums(inputs.rows().row(0));
  ptx::meet_cluster();
#endif
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
