// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <climits>
#include <cstdint>
#include <type_traits>

#include <gru/detail/device.cuh>
#include <gru/detail/grid_shape.cuh>
#include <gru/detail/recurrence.cuh>
#include <gru/detail/recurrence_backward.cuh>
#include <gru/detail/tensor_core.cuh>
#include <gru/detail/tile_deal.cuh>

/// How a grid kernel that streams R spreads a layer over a group of blocks, and how it wants R
/// laid. The words are those of grid_streamed_parts.cuh.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// R as the streamed kernels multiply with it: for each rank, each slice, each warp, each mma of
/// the slice, and each pair, 4 lanes of 16 bytes. Forward a pair is of a gate, and the depth is R's
/// rows; backward the depth is taken by blocks of units, and of each block gate by gate.
struct StreamedOrder {
  Pass pass = Pass::kForward;
  int ranks = 0;
  int warps = 0;   // of a block
  int depth = 0;   // depth blocks of a warp
  int deep = 0;    // mma's of a slice
  int eights = 0;  // of a block's units

  __host__ __device__ int eight_pairs() const { return pass == Pass::kForward ? 12 : 4; }
  __host__ __device__ std::int64_t fragments() const {
    return std::int64_t{ranks} * warps * depth * 2 * eights * eight_pairs() * 4;
  }

  struct Fragment : PackedFragment {
    bool is_forward;

    __device__ WeightPlace weight(int row_on, int column_on) const {
      WeightPlace const place = PackedFragment::weight(row_on, column_on);
      return is_forward ? place : WeightPlace{place.to, place.gate, place.from};
    }
  };

  /// The index-th fragment of a lane.
  template <typename T>
  __device__ Fragment at(std::uint32_t index) const {
    Digits digits{index};
    int const quarter = digits.next(4);
    int const pair = digits.next(4);
    int const gate = digits.next(eight_pairs() / 4);
    int const eight = digits.next(eights);
    int const mma = digits.next(deep);
    int const warp = digits.next(warps);
    int const half = digits.next(2 * depth / deep) * deep + mma;  // of a depth block
    int const rank = digits.rest();
    int const block = warp * depth + half / 2;
    constexpr int kValues = 16 / static_cast<int>(sizeof(T));
    int const column = quarter * kValues + half % 2 * kValues / 2;
    bool const is_forward = pass == Pass::kForward;
    return {{is_forward ? gate : block % 3, 8 * (rank * eights + eight) + 2 * pair,
             kDepthBlock<T> * (is_forward ? block : block / 3) + column},
            is_forward};
  }
};

/// How a layer is spread over a group of blocks. H is padded to no more than kDepth depth blocks a
/// warp; backward these are of each gate.
template <typename T, int kEights_, int kDepth_, Pass kPass_ = Pass::kForward>
struct StreamedShape {
  using Value = T;
  using Work = GridWork<T, kPass_>;
  static constexpr Multiplication kMultiplication = Multiplication::kDirect;
  static constexpr Pass kPass = kPass_;
  static constexpr bool kIsForward = kPass == Pass::kForward;
  static constexpr bool kIsSplit = false;
  static constexpr int kExchanges = 1;
  static constexpr bool kStreams = true;
  static constexpr int kTiles = 4;  // multiplied together
  static constexpr int kWarps = 8;
  static constexpr int kLanes = 32 * kWarps;
  static constexpr int kThreads = kLanes + 128;  // with the warps of the one that copies
  // Registers of a thread in builds for sm_90a; elsewhere all have 168.
  static constexpr int kRegisters = 240;
  static constexpr int kCopyingRegisters = 24;
  static constexpr int kTeam = 1;
  static constexpr int kUnitOperands = kIsForward ? 1 : 3;
  static constexpr int kUnitSums = kIsForward ? 3 : 1;
  static constexpr int kEights = kEights_;
  static constexpr int kBlockUnits = 8 * kEights;
  static constexpr int kUnits = kWarps * kDepth_ * kDepthBlock<T>;
  static constexpr int kPairs = 4 * kUnitSums * kEights;
  static constexpr int kHeight = (kPairs + 7) / 8;  // mma's
  static constexpr int kRoundHeight = 3;            // of which sums are left at once
  static constexpr int kRounds = (kHeight + kRoundHeight - 1) / kRoundHeight;
  static constexpr int kBatch = kIsForward ? 1 : 2;        // depth blocks asked for at once
  static constexpr int kDeep = kIsForward ? 1 : 2;         // mma's, of a slice
  static constexpr int kLaneTiles = kEights == 3 ? 2 : 1;  // that a lane finishes

  using Inputs = std::conditional_t<kIsForward, InputRing<T, 2, kLanes, false, 2>,
                                    BackwardInputs<T, 2, kLanes, false, 2>>;

  // Bytes.
  static constexpr int kTile = kWarps * kDepth_ * kUnitOperands * 512;  // a tile's operands
  static constexpr int kMma = kPairs * 64;                              // of R
  static constexpr int kSlice = kWarps * kDeep * kMma;
  static constexpr int kWarpSums = std::min(kHeight, kRoundHeight) * kTiles * 512;
  static constexpr int kAllSums = kWarps * kWarpSums;
  static constexpr int kRing = std::max(3, kAllSums / kSlice);  // slices
  static constexpr int kRingBytes = kRing * kSlice;
  static constexpr int kSums = std::max(kAllSums, kRingBytes);
  static constexpr int kBarriers = 64 + 8 * (2 * kRing + 2);
  static constexpr int kMostShared = 227 * 1024;
  static constexpr int kResident =
      (kMostShared - kSums - kBarriers - Inputs::shared_bytes(kLaneTiles)) / kSlice;

  /// The same, whatever the number of tiles.
  template <GroupTiles>
  using With = StreamedShape;

  GRU_HOST_DEVICE static constexpr GridLayout layout(int tiles) {
    GridLayout layout = {};
    layout.sums = kResident * kSlice;
    layout.barriers = layout.sums + kSums;
    layout.inputs = layout.barriers + kBarriers;
    layout.carried = layout.inputs + Inputs::shared_bytes(kLaneTiles);
    layout.bytes = tiles <= kTiles ? layout.carried : INT_MAX;
    return layout;
  }

  GRU_HOST_DEVICE static StreamedOrder packed_order(int ranks, int hidden) {
    int const unit_blocks = (hidden + kDepthBlock<T> - 1) / kDepthBlock<T>;
    int const depth = (unit_blocks * kUnitOperands + kWarps - 1) / kWarps;
    return {kPass, ranks, kWarps, depth, kDeep, kEights};
  }

  /// Where in a tile a unit's operand is, the first where there are three. The next is 512 bytes
  /// on.
  __device__ static int operand_offset(int unit, int tile_row) {
    return unit / kDepthBlock<T> * kUnitOperands * 512 + tile_row * 64 +
           unit % kDepthBlock<T> * static_cast<int>(sizeof(T));
  }
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
