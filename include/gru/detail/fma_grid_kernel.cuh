// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include <gru/detail/fma_ring.cuh>
#include <gru/detail/fma_warp.cuh>
#include <gru/detail/ptx.cuh>
#include <gru/detail/recurrence.cuh>

/// The recurrence of few rows in one kernel without tensor cores: R spread as floats over the
/// registers and the shared memory of all blocks, which run at the same time and hand the states to
/// each other through global memory, that is, the L2 cache.
///
/// One step of a block:
///   1. its threads poll the states of all units and put them into shared memory; one barrier;
///   2. each warp multiplies for its own units, over all depth, and adds up over the lanes;
///   3. each lane finishes a unit of a row: cell, zoneout;
///   4. and stores its state for the others;
///   5. outputs and reserve are written in the shadow of the exchange.
/// H200, N 1, float: 0.88 us a step for H 1024, 1.7 for H 1536, 2.1 for H 2048, where half of R is
/// in shared memory.
///
/// Where a wait expires, the block waits and sends no more and goes on to the end, so that whoever
/// depends on it expires too.
///
/// The exchange is that of fma_ring.cuh. The first step's states are read from the pass.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// How a layer is spread over the blocks. Their number, and that of the warps of each, follow from
/// H and the device.
template <typename T, int kMostWarps_, int kUnits_, int kDepthLanes, int kSharedSlices_,
          int kGroupRows, int kRows_>
struct FmaGridShape {
  static constexpr int kRows = kRows_;
  static constexpr int kWarpUnits = 2;
  static constexpr int kMostWarps = kMostWarps_;
  static constexpr int kUnits = kUnits_;  // H, padded
  static constexpr int kSharedSlices = kSharedSlices_;
  static constexpr int kSlices = kUnits / (4 * kDepthLanes);
  static constexpr int kMostThreads = 32 * kMostWarps;
  static constexpr int kPolls = kRows == 1 ? 2 : 4;  // of a thread, under way at once
  static constexpr int kRingValues = 1;              // of a unit

  using Shares = FmaShares<kWarpUnits, kDepthLanes, kGroupRows, kRows>;
  using Weights = FmaWeights<Shares, 3, kSlices, kSharedSlices>;
  using Inputs = FmaInputs<FmaForwardSource<T>, Shares>;

  static constexpr int kState = kRows * kUnits * 4;  // bytes of one buffer
  static constexpr int kWarpBytes = Weights::kSharedBytes + Inputs::kWarpBytes;

  static constexpr int shared_bytes(int warps) { return 2 * kState + warps * kWarpBytes + 16; }

  /// Over the whole device, with as few warps a block as that takes, but enough to poll a row's
  /// states at once.
  static FmaSpread spread(int units, int /*rows*/, int multiprocessors) {
    auto const ceil_divide = [](int a, int b) { return (a + b - 1) / b; };
    int const all_warps = ceil_divide(units, kWarpUnits);
    int const pollers = ceil_divide(units, 2 * FmaRing::kPiece);
    int const warps = std::max(ceil_divide(all_warps, multiprocessors), pollers);
    return {ceil_divide(all_warps, warps), warps};
  }

  GRU_HOST_DEVICE static constexpr FmaOrder order(FmaSpread const& spread, int /*units*/) {
    return {spread.blocks * spread.warps, kSlices, Shares::kLaneUnits, kDepthLanes};
  }
};

template <typename T, typename Shape>
GRU_KERNEL void __launch_bounds__(Shape::kMostThreads, 1)
    fma_grid_kernel(RecurrentForward<T> const pass, float4 const* packed_weights,
                    FmaRing const ring) {
#if __CUDA_ARCH__ >= 800
  extern __shared__ __align__(128) std::byte shared[];
  using Shares = typename Shape::Shares;
  int const warps = blockDim.x / 32;
  int const warp = threadIdx.x / 32;
  int const lane = threadIdx.x % 32;
  Shares const shares{lane};
  int const grid_warp = blockIdx.x * warps + warp;
  int const unit = grid_warp * Shape::kWarpUnits + shares.unit;
  bool const has_row = Shares::kRows == 1 || shares.row < ring.rows;
  int const n = has_row ? shares.row : pass.batch;
  int const groups = (ring.rows + Shares::kGroupRows - 1) / Shares::kGroupRows;
  bool const sends = has_row && shares.copy == 0 && unit < ring.pitch;

  // Shared memory: states, weights, inputs, whether a wait of the block expired.
  auto* const states = reinterpret_cast<float*>(shared);
  std::uint32_t const states_at = ptx::shared_address(shared);
  std::byte* const of_warp = shared + 2 * Shape::kState + warp * Shape::kWarpBytes;
  auto* const has_expired =
      reinterpret_cast<int volatile*>(shared + 2 * Shape::kState + warps * Shape::kWarpBytes);

  FmaOrder const order = Shape::order({static_cast<int>(gridDim.x), warps}, ring.pitch);
  typename Shape::Weights const weights{order, grid_warp, lane, packed_weights, of_warp};
  for (int i = threadIdx.x; i < 2 * Shares::kRows * Shape::kUnits; i += blockDim.x) {
    int const k = i % Shape::kUnits;
    int const row = i / Shape::kUnits;
    bool const inside = row < ring.rows && k < pass.hidden;
    std::int64_t const from = std::int64_t{row} * pass.hidden + k;
    states[i] =
        inside && i < Shares::kRows * Shape::kUnits ? convert<float>(pass.operand[from]) : 0.0f;
  }
  float state[1];
  ForwardLane<T, 1, CloseFloat>{pass, n, unit}.load(0, state);
  // Of the lanes that finish the same, one writes; for the others the row is none of the layer's.
  ForwardLane<T, 1, CloseFloat> finisher{pass, shares.copy == 0 ? n : pass.batch, unit};
  if (threadIdx.x == 0) *has_expired = 0;
  typename Shape::Inputs inputs{pass, of_warp + Shape::Weights::kSharedBytes, n, unit, shares};
  __syncthreads();

  int const pieces = (ring.pitch + FmaRing::kPiece - 1) / FmaRing::kPiece;
  int const sends_to = shares.row * ring.pitch + unit;
  std::uint32_t read_at = states_at + shares.depth_lane * 16;
  ptx::keep(read_at);
  bool expired = false;
#pragma unroll 1
  for (int i = 0; i < pass.steps; ++i) {
    int const buffer = i & 1;
    bool const ends = i + 1 == pass.steps;
    typename Shape::Inputs::Words input_words;
    inputs.next(i, input_words);

    // 1. Wait. Each warp polls some pieces of the rows.
    if (i > 0) {
      std::uint32_t const* const slot = ring.slot(i);
      // One row's pieces are polled in one round.
      int const all = Shares::kRows == 1 ? 1 : ring.rows * pieces;
#pragma unroll 1
      for (int first = 0; first < all; first += Shape::kPolls * warps) {
        int from[Shape::kPolls];  // of the slot's words; -1: none
        int to[Shape::kPolls];    // of the buffer's
        ptx::Words4 words[Shape::kPolls];
#pragma unroll
        for (int p = 0; p < Shape::kPolls; ++p) {
          int const piece = first + warp + p * warps;
          int const row = Shares::kRows == 1 ? 0 : piece / pieces;
          int const k = (piece - row * pieces) * FmaRing::kPiece + lane * 4;
          bool const has = row < ring.rows && k < ring.pitch;
          from[p] = has ? row * ring.pitch + k : -1;
          to[p] = row * Shape::kUnits + k;
          words[p] = {};
          if (has) words[p] = ptx::load_relaxed_16(slot + from[p]);
        }
        FmaRing::complete(slot, from, words, pass.most_polls, expired, [&] {
          expired = true;
          *has_expired = 1;
          pass.expire();
        });
#pragma unroll
        for (int p = 0; p < Shape::kPolls; ++p) {
          if (from[p] < 0) continue;
          *reinterpret_cast<uint4*>(states + buffer * (Shape::kState / 4) + to[p]) =
              make_uint4(words[p].x, words[p].y, words[p].z, words[p].w);
        }
      }
    }
    __syncthreads();
    int const block_expired = *has_expired;

    // 2. Multiply.
    float mine[3][1] = {};
    weights.multiply(shares, read_at + buffer * Shape::kState, groups, mine);

    // 3. Finish.
    if (block_expired != 0) {
      expired = true;
      finisher.poison();
    }
    StepInput<1> const input = inputs.finish(input_words);
    auto const result = finisher.finish(mine, input, state);

    // 4. Hand the state on, and clean up behind.
    if (sends && !ends && !expired) {
      std::uint32_t const word = FmaRing::word(as_factor<T>(result.operand[0]));
      ptx::store_relaxed(ring.slot(i + 1) + sends_to, word);
      if (i > 1) ptx::store_relaxed(ring.slot(i - 1) + sends_to, FmaRing::kAbsent);
    }

    // 5. What others see.
    finisher.write(result, input, 0, state);
    if (ends) finisher.leave(result, 0, state);
    finisher.advance();
    if (i % FmaRing::kFenceSteps == 0) ptx::fence_device();
  }
#endif
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
