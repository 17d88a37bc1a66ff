// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include <gru/detail/fma_backward_warp.cuh>
#include <gru/detail/fma_ring.cuh>
#include <gru/detail/ptx.cuh>
#include <gru/detail/recurrence_backward.cuh>

/// Backward of the grid for few rows: R spread as floats over the registers and the shared memory
/// of all blocks, which hand dq to each other as fma_ring.cuh says.
///
/// A block has some units, and its warps share the depth. So each warp polls the part of dq that it
/// multiplies, and multiplies it out of the registers where it arrives: dq is read once a block,
/// and there is no shared memory in its way. One step:
///   1. the warps that finish rows compute the factors of the step's gradients in the shadow of the
///      exchange;
///   2. each warp polls its part of a row's dq, multiplies, adds up over the lanes, and leaves the
///      sums for its block; then the next row; one barrier;
///   3. a warp for each row adds up the warps' sums and finishes the block's units;
///   4. and stores their dq for the others;
///   5. the gradients are written in the shadow of the exchange.
/// The first step's dq, which the pass brings, is sent before it like any other.
///
/// Where a wait expires, the block waits and sends no more and goes on to the end, so that whoever
/// depends on it expires too.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// How a layer is spread over the blocks: kBlockUnits each, whose depth as many warps share as H
/// takes. With eight, a warp of a layer of 1024 units has 96 weights a lane, so that the words of
/// two rows fit beside them; and all 32 lanes of a warp share its depth, since lanes that did not
/// would poll the same words.
template <typename T, int kBlockUnits_, int kSlices_, int kSharedSlices, int kRows_>
struct FmaGridBackwardShape {
  static constexpr int kBlockUnits = kBlockUnits_;
  static constexpr int kSlices = kSlices_;  // of a warp
  static constexpr int kRows = kRows_;
  static constexpr int kMostWarps = 8;
  static constexpr int kMostThreads = 32 * kMostWarps;
  static constexpr int kSliceWords = 128;
  static constexpr int kUnits = kMostWarps * kSlices * kSliceWords / 3;  // the largest H
  static constexpr int kRingValues = 3;                                  // of a unit
  static_assert(kRows <= kMostWarps, "a warp finishes a row");

  using Tile = FmaTile<kBlockUnits, 32, 1, kMostWarps>;
  using Shares = FmaShares<kBlockUnits, 32 / kBlockUnits, 1, 1>;
  using Weights = FmaWeights<Tile, 1, kSlices, kSharedSlices>;
  using Sums = FmaPartialSums<Tile, kRows>;
  using Inputs = FmaInputs<FmaBackwardSource<T>, Shares>;

  static constexpr int kFixedBytes = Sums::kBytes + kRows * Inputs::kWarpBytes + 16;

  static constexpr int shared_bytes(int warps) {
    return kFixedBytes + warps * Weights::kSharedBytes;
  }

  static FmaSpread spread(int units, int rows, int /*multiprocessors*/) {
    auto const ceil_divide = [](int a, int b) { return (a + b - 1) / b; };
    int const depth_warps = ceil_divide(3 * units, kSlices * kSliceWords);
    return {ceil_divide(units, kBlockUnits), std::max(depth_warps, rows)};
  }

  GRU_HOST_DEVICE static constexpr FmaOrder order(FmaSpread const& spread, int units) {
    return {spread.blocks * spread.warps,
            kSlices,
            Tile::kLaneUnits,
            32,
            Pass::kBackward,
            spread.warps,
            {units}};
  }
};

template <typename T, typename Shape>
GRU_KERNEL void __launch_bounds__(Shape::kMostThreads, 1)
    fma_grid_backward_kernel(RecurrentBackward<T> const pass, float4 const* packed_weights,
                             FmaRing const ring) {
#if __CUDA_ARCH__ >= 800
  extern __shared__ __align__(128) std::byte shared[];
  using Shares = typename Shape::Shares;
  using Tile = typename Shape::Tile;
  using Sums = typename Shape::Sums;
  int const warps = blockDim.x / 32;
  int const warp = threadIdx.x / 32;
  int const lane = threadIdx.x % 32;
  Tile const tile{lane};
  Shares const shares{lane};
  GradientDepth const depth{ring.pitch / Shape::kRingValues};
  int const unit = blockIdx.x * Shape::kBlockUnits + shares.unit;
  bool const finishes = warp < ring.rows;
  int const n = finishes ? warp : pass.batch;
  bool const sends = finishes && shares.copy == 0 && unit < depth.pitch;

  // Shared memory: sums of parts, inputs, whether a wait of the block expired, weights.
  Sums const parts{shared};
  std::byte* const inputs_of_warp = shared + Sums::kBytes + warp * Shape::Inputs::kWarpBytes;
  auto* const has_expired = reinterpret_cast<int volatile*>(shared + Shape::kFixedBytes - 16);
  std::byte* const weights_of_warp =
      shared + Shape::kFixedBytes + warp * Shape::Weights::kSharedBytes;

  FmaOrder const order = Shape::order({static_cast<int>(gridDim.x), warps}, depth.pitch);
  typename Shape::Weights const weights{order, static_cast<int>(blockIdx.x) * warps + warp, lane,
                                        packed_weights, weights_of_warp};
  // Warps that are not there add nothing.
  for (int i = threadIdx.x; i < Sums::kBytes / 4; i += blockDim.x) {
    reinterpret_cast<float*>(shared)[i] = 0;
  }
  BackwardLane<T, 1, CloseFloat> const every{pass, n, unit};
  float direct[1];
  every.load(0, direct);
  // Of the lanes that finish the same, one writes; for the others the row is none of the layer's.
  BackwardLane<T, 1, CloseFloat> finisher{pass, shares.copy == 0 ? n : pass.batch, unit};
  if (threadIdx.x == 0) *has_expired = 0;
  typename Shape::Inputs inputs{pass, inputs_of_warp, n, unit, shares};
  __syncthreads();

  int const row_words = finishes ? warp * ring.pitch : 0;
  int const to_pair = row_words + depth.pair(unit);
  int const to_candidate = row_words + depth.candidate(unit);
  auto const hand_on = [&](cell::Gates<float> const& dq, int step) {
    std::uint32_t* const slot = ring.slot(step);
    uint2 const pair = {FmaRing::word(as_factor<T>(dq.z)), FmaRing::word(as_factor<T>(dq.r))};
    ptx::store_relaxed(slot + to_pair, pair);
    ptx::store_relaxed(slot + to_candidate, FmaRing::word(as_factor<T>(dq.g)));
  };
  if (sends) hand_on(every.load_dq(0, 0), 0);

  // Of the words of a row, those that this lane polls; -1: none.
  int own[Shape::kSlices];
#pragma unroll
  for (int slice = 0; slice < Shape::kSlices; ++slice) {
    int const k = (warp * Shape::kSlices + slice) * Shape::kSliceWords + lane * 4;
    own[slice] = k < ring.pitch ? k : -1;
  }
  bool expired = false;
#pragma unroll 1
  for (int i = 0; i < pass.steps; ++i) {
    int const buffer = i & 1;
    bool const ends = i + 1 == pass.steps;

    // 1. Prepare.
    BackwardFactors<1> factors;
    std::uint32_t flags = 0;
    if (finishes) {
      typename Shape::Inputs::Words words;
      inputs.next(i, words);
      BackwardInput<1> const input = inputs.finish(words);
      factors = finisher.prepare(input);
      flags = input.flags;
    }

    // 2. Poll and multiply. The next row's words are loaded while a row is added up.
    std::uint32_t const* row = ring.slot(i);
    ptx::Words4 words[Shape::kSlices];
    FmaRing::load(row, own, words);
#pragma unroll 1
    for (int r = 0; r < (Shape::kRows == 1 ? 1 : ring.rows); ++r) {
      FmaRing::complete(row, own, words, pass.most_polls, expired, [&] {
        expired = true;
        *has_expired = 1;
        pass.expire();
      });
      typename Shape::Weights::Sums sums = {};
      weights.add([&](int, int slice) { return ptx::as_floats(words[slice]); }, sums);
      row += ring.pitch;
      if (Shape::kRows > 1 && r + 1 < ring.rows) FmaRing::load(row, own, words);
      reduce_sums<32, Tile::kValues>(sums);
      parts.store(buffer, r, warp, tile, sums[0][0]);
    }
    __syncthreads();
    expired |= *has_expired != 0;

    if (finishes) {
      // 3. Finish.
      float const sums[1] = {parts.add_up(buffer, Shape::kRows == 1 ? 0 : warp, shares.unit)};
      if (expired) finisher.poison(direct);
      auto const result = finisher.finish(sums, factors, flags, direct);

      // 4. Hand dq on, and clean up behind.
      if (sends && !ends && !expired) {
        hand_on(result.dq[0], i + 1);
        if (i > 0) {
          std::uint32_t* const past = ring.slot(i - 1);
          ptx::store_relaxed(past + to_pair, uint2{FmaRing::kAbsent, FmaRing::kAbsent});
          ptx::store_relaxed(past + to_candidate, FmaRing::kAbsent);
        }
      }

      // 5. What others see.
      finisher.write(result, 0);
      if (ends) finisher.leave(result, 0, direct);
      finisher.advance();
    }
    if (i % FmaRing::kFenceSteps == 0) ptx::fence_device();
  }
  finisher.leave_bias_sums(0);
#endif
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
