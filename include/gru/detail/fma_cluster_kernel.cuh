// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gru/detail/fma_warp.cuh>
#include <gru/detail/recurrence.cuh>

/// The recurrence of few rows in one kernel without tensor cores: a cluster of thread blocks keeps
/// R in registers, as floats, and carries some rows of the batch through all steps. Clusters never
/// talk to each other.
///
/// A warp has some units, with all of their depth, and works by itself. One step:
///   1. wait until the states of all units have arrived in this block's shared memory;
///   2. multiply, and add up over the lanes;
///   3. each lane finishes a unit of a row: cell, zoneout;
///   4. and stores its state in the shared memory of the cluster's blocks;
///   5. outputs and reserve are written in the shadow of the exchange.
/// A lane whose wait expires waits and sends no more and goes on to the end, so that whoever
/// depends on it expires too.
///
/// H200, N 1, float: 0.34 us a step for H 128, 0.45 for H 256, 0.67 for H 512.
///
/// States are double-buffered, with one transaction barrier a buffer, and that is enough: who has
/// received all states of step i knows that everyone has read those of step i - 1.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// How a layer is spread over a cluster. kRows: the most rows of a cluster. kDepthLanes: 32 would
/// take one more exchange between the lanes. H200, H 128, N 1: 0.54 us a step with 16, 0.58
/// with 32.
template <typename T, int kBlocks_, int kWarps_, int kUnits_, int kDepthLanes, int kGroupRows,
          int kRows>
struct FmaClusterShape {
  static constexpr int kBlocks = kBlocks_;
  static constexpr int kWarps = kWarps_;
  static constexpr int kUnits = kUnits_;  // H, padded
  static constexpr int kSlices = kUnits / (4 * kDepthLanes);
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kWarpUnits = kUnits / (kBlocks * kWarps);
  static_assert(kWarpUnits * kBlocks * kWarps == kUnits, "warps must share the units evenly");
  static_assert(kBlocks % FmaShares<kWarpUnits, kDepthLanes, kGroupRows, kRows>::kCopies == 0,
                "lanes that finish the same must share the blocks evenly");

  using Shares = FmaShares<kWarpUnits, kDepthLanes, kGroupRows, kRows>;
  using Weights = FmaWeights<Shares, 3, kSlices, 0>;
  using Inputs = FmaInputs<FmaForwardSource<T>, Shares>;

  // Bytes of shared memory.
  static constexpr int kRowBytes = kUnits * 4;       // that a row's step brings
  static constexpr int kState = kRows * kUnits * 4;  // one buffer
  static constexpr int kSharedBytes = 2 * kState + kWarps * Inputs::kWarpBytes + 16;

  GRU_HOST_DEVICE static constexpr FmaOrder order() {
    return {kBlocks * kWarps, kSlices, Shares::kLaneUnits, kDepthLanes};
  }
};

template <typename T, typename Shape>
GRU_KERNEL void __launch_bounds__(Shape::kThreads, 1)
    fma_cluster_kernel(RecurrentForward<T> const pass, float4 const* packed_weights, int rows) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) std::byte shared[];
  using Shares = typename Shape::Shares;
  int const warp = threadIdx.x / 32;
  int const lane = threadIdx.x % 32;
  int const rank = static_cast<int>(ptx::cluster_rank());
  int const first_row = blockIdx.x / Shape::kBlocks * rows;
  Shares const shares{lane};
  int const cluster_warp = rank * Shape::kWarps + warp;
  int const unit = cluster_warp * Shape::kWarpUnits + shares.unit;
  bool const has_row = Shares::kRows == 1 || shares.row < rows;
  int const n = has_row ? first_row + shares.row : pass.batch;
  int const groups = (rows + Shares::kGroupRows - 1) / Shares::kGroupRows;

  // Shared memory: states, inputs, barriers.
  auto* const states = reinterpret_cast<float*>(shared);
  std::uint32_t const states_at = ptx::shared_address(shared);
  std::uint32_t const inputs_at = 2 * Shape::kState;
  std::uint32_t const barriers = states_at + inputs_at + Shape::kWarps * Shape::Inputs::kWarpBytes;
  std::uint32_t const step_bytes = rows * Shape::kRowBytes;

  typename Shape::Weights const weights{Shape::order(), cluster_warp, lane, packed_weights, shared};
  for (int i = threadIdx.x; i < Shares::kRows * Shape::kUnits; i += Shape::kThreads) {
    int const k = i % Shape::kUnits;
    int const row = i / Shape::kUnits;
    bool const inside = row < rows && first_row + row < pass.batch && k < pass.hidden;
    std::int64_t const from = std::int64_t{first_row + row} * pass.hidden + k;
    states[i] = inside ? convert<float>(pass.operand[from]) : 0.0f;
  }
  float state[1];
  ForwardLane<T, 1, CloseFloat>{pass, n, unit}.load(0, state);
  // Of the lanes that finish the same, one writes; for the others the row is none of the layer's.
  ForwardLane<T, 1, CloseFloat> finisher{pass, shares.copy == 0 ? n : pass.batch, unit};
  if (threadIdx.x < 2) {
    ptx::init_barrier(barriers + 8 * threadIdx.x);
    // The first step waits for nothing.
    ptx::expect_bytes(barriers + 8 * threadIdx.x, threadIdx.x == 0 ? 0 : step_bytes);
  }
  ptx::fence_barriers();
  typename Shape::Inputs inputs{pass, shared + inputs_at + warp * Shape::Inputs::kWarpBytes, n,
                                unit, shares};
  __syncthreads();
  ptx::meet_cluster();

  // Where the lane reads, and where it writes in the blocks that it serves: kept where these are
  // few.
  constexpr int kReceivers = Shape::kBlocks / Shares::kCopies;
  constexpr bool kKeeps = kReceivers <= 2;
  std::uint32_t read_at = states_at + shares.depth_lane * 16;
  std::uint32_t own_at = states_at + (shares.row * Shape::kUnits + unit) * 4;
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
  bool expired = false;
#pragma unroll 1
  for (int i = 0; i < pass.steps; ++i) {
    int const buffer = i & 1;
    bool const ends = i + 1 == pass.steps;
    typename Shape::Inputs::Words words;
    inputs.next(i, words);

    // 1. Wait.
    std::uint32_t const barrier = barriers + 8 * buffer;
    std::uint32_t polls = 0;
    while (!ptx::is_complete(barrier, i >> 1 & 1)) {
      if (expired) break;
      if (++polls > pass.most_polls) {
        expired = true;
        finisher.poison();
        pass.expire();
      }
    }

    // 2. Multiply.
    float mine[3][1] = {};
    weights.multiply(shares, read_at + buffer * Shape::kState, groups, mine);

    // 3. Finish.
    StepInput<1> const input = inputs.finish(words);
    auto const result = finisher.finish(mine, input, state);

    // 4. Hand the states on; the lanes that have the same share the blocks.
    if (has_row && !ends && !expired) {
      std::uint32_t const word = __float_as_uint(as_factor<T>(result.operand[0]));
      std::uint32_t const to_state = (buffer ^ 1) * Shape::kState;
      std::uint32_t const to_barrier = barriers - own_at + 8 * (buffer ^ 1);
#pragma unroll
      for (int r = 0; r < kReceivers; ++r) {
        std::uint32_t const there = in_receiver(r);
        ptx::store_async(there + to_state, word, there + to_barrier);
      }
    }
    // Prepares the barrier for the step after the next, whose states come only when this warp's of
    // the next step are there. One whose phase is not complete must not be prepared again.
    if (threadIdx.x == 0 && !expired) ptx::expect_bytes(barrier, step_bytes);

    // 5. What others see.
    finisher.write(result, input, 0, state);
    if (ends) finisher.leave(result, 0, state);
    finisher.advance();
  }
  ptx::meet_cluster();
#endif
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
