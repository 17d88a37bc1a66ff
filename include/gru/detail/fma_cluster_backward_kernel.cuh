// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include <gru/detail/fma_backward_warp.cuh>
#include <gru/detail/recurrence_backward.cuh>

/// Backward of fma_cluster_kernel.cuh: a cluster keeps R in registers and carries the gradients of
/// some rows through all steps. What its blocks send each other is dq.
///
/// One step:
///   1. the factors of the step's gradients are computed in the shadow of the exchange; wait until
///      dq of all units has arrived in this block's shared memory;
///   2. multiply, and add up over the lanes and over the warps that share the depth;
///   3. each lane finishes a unit of a row;
///   4. and stores its dq in the shared memory of the cluster's blocks;
///   5. the gradients are written in the shadow of the exchange.
/// The first step's dq, which the pass brings, is sent before it like any other. Buffers, barriers
/// and what becomes of a wait that expires: as forward.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// How a layer is spread over a cluster. kRows: the most rows of a cluster.
///
/// A unit has one sum here, not three, over three times the depth. So more lanes share it than
/// forward at as many exchanges, and read less of dq each. kParts: a warp that has all of the depth
/// reads all of dq, 6 KB a row for H 512, and eight warps that do would keep the shared memory busy
/// for longer than the multiply-adds take. Where they share the depth, a warp has more units
/// instead and reads a part; but meets the others once a step.
template <typename T, int kBlocks_, int kWarps_, int kUnits_, int kParts_, int kDepthLanes,
          int kGroupRows, int kRows>
struct FmaClusterBackwardShape {
  static constexpr int kBlocks = kBlocks_;
  static constexpr int kWarps = kWarps_;
  static constexpr int kUnits = kUnits_;  // H, padded
  static constexpr int kParts = kParts_;  // warps that share the depth
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kWarpUnits = kUnits / (kBlocks * kWarps);  // that a warp finishes
  static constexpr int kSlices = 3 * kUnits / (4 * kDepthLanes * kParts);
  static_assert(kWarpUnits * kBlocks * kWarps == kUnits, "warps must share the units evenly");
  static_assert(kSlices * 4 * kDepthLanes * kParts == 3 * kUnits && kWarps % kParts == 0,
                "warps must share the depth evenly");

  using Shares =
      std::conditional_t<kParts == 1, FmaShares<kWarpUnits, kDepthLanes, kGroupRows, kRows>,
                         FmaShares<kWarpUnits, 32 / kWarpUnits, 1, kRows>>;
  using Tile = std::conditional_t<kParts == 1, Shares,
                                  FmaTile<kWarpUnits * kParts, kDepthLanes, kGroupRows, kParts>>;
  using Weights = FmaWeights<Tile, 1, kSlices, 0>;
  using Sums = FmaPartialSums<Tile, kRows>;
  using Inputs = FmaInputs<FmaBackwardSource<T>, Shares>;
  static_assert(kBlocks % Shares::kCopies == 0,
                "lanes that finish the same must share the blocks evenly");

  // Bytes of shared memory.
  static constexpr int kRowBytes = 3 * kUnits * 4;        // that a row's step brings
  static constexpr int kBuffer = kRows * 3 * kUnits * 4;  // dq of a step
  static constexpr int kSums = kParts == 1 ? 0 : kWarps / kParts * Sums::kBytes;
  static constexpr int kSharedBytes = 2 * kBuffer + kSums + kWarps * Inputs::kWarpBytes + 16;

  GRU_HOST_DEVICE static constexpr FmaOrder order() {
    return {kBlocks * kWarps, kSlices, Tile::kLaneUnits, kDepthLanes,
            Pass::kBackward,  kParts,  {kUnits}};
  }
};

template <typename T, typename Shape>
GRU_KERNEL void __launch_bounds__(Shape::kThreads, 1)
    fma_cluster_backward_kernel(RecurrentBackward<T> const pass, float4 const* packed_weights,
                                int rows) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) std::byte shared[];
  using Shares = typename Shape::Shares;
  using Tile = typename Shape::Tile;
  int const warp = threadIdx.x / 32;
  int const lane = threadIdx.x % 32;
  int const rank = static_cast<int>(ptx::cluster_rank());
  int const first_row = blockIdx.x / Shape::kBlocks * rows;
  Shares const shares{lane};
  Tile const tile{lane};
  int const part = warp % Shape::kParts;
  int const group = warp / Shape::kParts;
  int const cluster_warp = rank * Shape::kWarps + warp;
  int const unit = cluster_warp * Shape::kWarpUnits + shares.unit;
  bool const has_row = Shares::kRows == 1 || shares.row < rows;
  int const n = has_row ? first_row + shares.row : pass.batch;
  GradientDepth const depth{Shape::kUnits};
  int const row_groups = (rows + Tile::kGroupRows - 1) / Tile::kGroupRows;

  // Shared memory: dq, sums of parts, inputs, barriers.
  std::uint32_t const shared_at = ptx::shared_address(shared);
  constexpr int kInputsAt = 2 * Shape::kBuffer + Shape::kSums;
  std::uint32_t const barriers = shared_at + kInputsAt + Shape::kWarps * Shape::Inputs::kWarpBytes;
  std::uint32_t const step_bytes = rows * Shape::kRowBytes;

  typename Shape::Weights const weights{Shape::order(), cluster_warp, lane, packed_weights, shared};
  typename Shape::Sums const parts{shared + 2 * Shape::kBuffer + group * Shape::Sums::kBytes};
  BackwardLane<T, 1, CloseFloat> const every{pass, n, unit};
  float direct[1];
  every.load(0, direct);
  // Of the lanes that finish the same, one writes; for the others the row is none of the layer's.
  BackwardLane<T, 1, CloseFloat> finisher{pass, shares.copy == 0 ? n : pass.batch, unit};
  if (threadIdx.x < 2) {
    ptx::init_barrier(barriers + 8 * threadIdx.x);
    ptx::expect_bytes(barriers + 8 * threadIdx.x, step_bytes);
  }
  ptx::fence_barriers();
  typename Shape::Inputs inputs{pass, shared + kInputsAt + warp * Shape::Inputs::kWarpBytes, n,
                                unit, shares};
  __syncthreads();
  ptx::meet_cluster();

  // Where the lane reads, and where it writes in the blocks that it serves: kept where these are
  // few.
  constexpr int kReceivers = Shape::kBlocks / Shares::kCopies;
  constexpr bool kKeeps = kReceivers <= 2;
  constexpr int kPartBytes = Shape::kSlices * Tile::kDepthLanes * 16;
  constexpr int kRowBytes = Shape::kParts * kPartBytes;
  std::uint32_t read_at = shared_at + part * kPartBytes + tile.depth_lane * 16;
  std::uint32_t own_at = shared_at + shares.row * kRowBytes + depth.pair(unit) * 4;
  std::uint32_t kept[kKeeps ? kReceivers : 1];
  ptx::keep(read_at);
  ptx::keep(own_at);
#pragma unroll
  for (int r = 0; kKeeps && r < kReceivers; ++r) {
    kept[r] = ptx::in_block(own_at, r * Shares::kCopies + shares.copy);
  }
  auto const in_receiver = [&](int r) {
    if constexpr (kKeeps) {
      return kept[r];
    } else {
      return ptx::in_block(own_at, r * Shares::kCopies + shares.copy);
    }
  };
  // The lanes that have the same share the blocks.
  auto const hand_on = [&](cell::Gates<float> const& dq, int buffer) {
    if (!has_row) return;
    uint2 const pair = {__float_as_uint(as_factor<T>(dq.z)), __float_as_uint(as_factor<T>(dq.r))};
    std::uint32_t const candidate = __float_as_uint(as_factor<T>(dq.g));
    std::uint32_t const to_pair = buffer * Shape::kBuffer;
    std::uint32_t const to_candidate = to_pair + (depth.candidate(unit) - depth.pair(unit)) * 4;
    std::uint32_t const to_barrier = barriers - own_at + 8 * buffer;
#pragma unroll
    for (int r = 0; r < kReceivers; ++r) {
      std::uint32_t const there = in_receiver(r);
      ptx::store_async(there + to_pair, pair, there + to_barrier);
      ptx::store_async(there + to_candidate, candidate, there + to_barrier);
    }
  };
  hand_on(every.load_dq(0, 0), 0);
  bool expired = false;
#pragma unroll 1
  for (int i = 0; i < pass.steps; ++i) {
    int const buffer = i & 1;
    bool const ends = i + 1 == pass.steps;

    // 1. Prepare, and wait.
    typename Shape::Inputs::Words words;
    inputs.next(i, words);
    BackwardInput<1> const input = inputs.finish(words);
    BackwardFactors<1> const factors = finisher.prepare(input);
    std::uint32_t const barrier = barriers + 8 * buffer;
    std::uint32_t polls = 0;
    while (!ptx::is_complete(barrier, i >> 1 & 1)) {
      if (expired) break;
      if (++polls > pass.most_polls) {
        expired = true;
        pass.expire();
      }
    }

    // 2. Multiply.
    float sums[1];
    std::uint32_t const from = read_at + buffer * Shape::kBuffer;
    if constexpr (Shape::kParts == 1) {
      float mine[1][1] = {};
      weights.multiply(shares, from, row_groups, mine);
      sums[0] = mine[0][0];
    } else {
#pragma unroll 1
      for (int g = 0; g < (Shares::kRows == 1 ? 1 : row_groups); ++g) {
        typename Shape::Weights::Sums partial = {};
        int const row = g * Tile::kGroupRows;
        weights.multiply_group(from + row * kRowBytes, partial);
        parts.store(buffer, row, part, tile, partial[0][0]);
      }
      ptx::meet(1 + group, 32 * Shape::kParts);
      sums[0] = parts.add_up(buffer, shares.row, part * Shape::kWarpUnits + shares.unit);
    }

    // 3. Finish.
    if (expired) finisher.poison(direct);
    auto const result = finisher.finish(sums, factors, input.flags, direct);

    // 4. Hand dq on.
    if (!ends && !expired) hand_on(result.dq[0], buffer ^ 1);
    // As forward: prepares the barrier for the step after the next.
    if (threadIdx.x == 0 && !expired) ptx::expect_bytes(barrier, step_bytes);

    // 5. What others see.
    finisher.write(result, 0);
    if (ends) finisher.leave(result, 0, direct);
    finisher.advance();
  }
  finisher.leave_bias_sums(0);
  ptx::meet_cluster();
#endif
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
