// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <gru/detail/device.cuh>
#include <gru/detail/recurrence.cuh>
#include <gru/detail/recurrence_backward.cuh>
#include <gru/detail/tensor_core.cuh>
#include <gru/detail/tile_deal.cuh>

/// How a grid kernel spreads a layer over a group of blocks: what each block, warp and lane has, in
/// registers and in shared memory. The words are those of grid_parts.cuh.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

inline constexpr int kFewTiles = 2;  // of a group; see GridShape

/// Where things lie in a block's shared memory, and its size, in bytes.
struct GridLayout {
  int sums;      // of the product warps, after their part of R
  int barriers;  // and the mark of a wait that expired
  int inputs;
  int carried;
  int bytes;
};

/// What a launch of a kernel does: some tiles of the batch, for the steps of a chunk.
template <typename T, Pass kPass>
struct GridWork {
  using Steps =
      std::conditional_t<kPass == Pass::kForward, RecurrentForward<T>, RecurrentBackward<T>>;
  Steps steps;
  T const* packed_weights = nullptr;
  std::byte* exchange = nullptr;  // [kSlots, groups, tiles, tile]
  int ranks = 0;                  // blocks of a group
  int tiles = 0;                  // of a group
};

/// In which order the product warps hold R.
template <Pass kPass>
using GridOrder = std::conditional_t<kPass == Pass::kForward, PackedOrder, TransposedOrder>;

/// Whether the code is for devices that have clusters, and so teams.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
inline constexpr bool kHasTeams = false;
#else
inline constexpr bool kHasTeams = true;
#endif

/// Some of the gates z, r and g, of which every mma of a product warp has one.
template <int kFirst_, int kEnd_>
struct GateRange {
  static constexpr int kFirst = kFirst_;
  static constexpr int kEnd = kEnd_;
  static constexpr int kCount = kEnd - kFirst;

  /// Whether they have the gate of the warp's mma number m.
  GRU_HOST_DEVICE static constexpr bool has(int m) { return m % 3 >= kFirst && m % 3 < kEnd; }
};
using AllGates = GateRange<0, 3>;
using UpdateGate = GateRange<0, 1>;
using ResetGate = GateRange<1, 2>;
using UpdateAndResetGates = GateRange<0, 2>;
using CandidateGate = GateRange<2, 3>;

/// How a layer is spread over a group of blocks. H is padded to kDepth depth blocks a warp of a
/// team; backward these are of each gate.
///
/// The finishing warps of a tile are a *set*: 2 warps for 16 units, 4 for 32. There are 4 finishing
/// warps, so that for 16 units a second set takes the odd tiles.
///
/// Few tiles of a group are up to kFewTiles. With more, forward, the operands of the next tile are
/// asked for a tile ahead.
template <typename T, Multiplication multiplication, int kGroups_, int kDepth_,
          Pass kPass_ = Pass::kForward, int kTeam_ = 1, GroupTiles kTiles = GroupTiles::kFew,
          Variant kVariant_ = Variant::kResetAfter>
struct GridShape {
  using Value = T;
  static constexpr Multiplication kMultiplication = multiplication;
  static constexpr Pass kPass = kPass_;
  static constexpr bool kIsForward = kPass == Pass::kForward;
  static constexpr Variant kVariant = kVariant_;
  static constexpr int kExchanges = kVariant == Variant::kResetAfter ? 1 : 2;  // of a step
  static constexpr bool kStreams = false;
  static constexpr bool kAhead = kTiles != GroupTiles::kFew && kIsForward;
  static constexpr bool kSorts = kTiles == GroupTiles::kSorted;
  static constexpr bool kIsSplit = multiplication == Multiplication::kSplit;
  static constexpr int kGroups = kGroups_;  // of 16 units a block
  static constexpr int kTeam = kTeam_;      // blocks of a team
  static constexpr int kDepth = kDepth_;    // depth blocks of a product warp
  static constexpr int kProductWarps = 8;
  static constexpr int kSetWarps = 2 * kGroups;
  static constexpr int kSets = 2 / kGroups;
  static constexpr int kThreads = 32 * (kProductWarps + kSets * kSetWarps);
  static constexpr int kUnitOperands = kIsForward ? 1 : 3;
  static constexpr int kUnitSums = kIsForward ? 3 : 1;
  static constexpr int kGates = 3 * kGroups * kTeam;  // mma's side by side
  static constexpr int kBlockUnits = kGroups * kGroupUnits;
  static constexpr int kTeamWarps = kTeam * kProductWarps;             // that share the depth
  static constexpr int kUnits = kTeamWarps * kDepth * kDepthBlock<T>;  // H, padded

  /// How many parts of the operands of so many gates are under way at once, as the registers allow:
  /// as many words for one gate as for three.
  GRU_HOST_DEVICE static constexpr int parts_at_once(int gates) {
    if (kIsForward) return 1;
    int of_three = kDepth <= 4 ? kDepth : kDepth <= 8 ? 4 : 3;
    if (kIsSplit) of_three = kGroups * kTeam == 1 && kDepth <= 8 ? 3 : 2;
    int const parts = of_three * 3 / gates;
    return parts < kDepth ? parts : kDepth;
  }

  // Operands are received in parts of so many depth blocks. Backward, where they are three times as
  // many, the next parts are on their way while one is multiplied, as many as registers allow.
  static constexpr int kReceived = !kIsForward ? 1 : kDepth <= 8 ? kDepth : 6;
  static constexpr int kParts = kDepth / kReceived;
  static constexpr int kPartsAtOnce = parts_at_once(3);
  static constexpr int kMostPartsAtOnce = parts_at_once(kExchanges == 1 ? 3 : 1);
  static constexpr int kPartWords = kReceived * kUnitOperands;  // 16 bytes each, of a lane
  static_assert(kDepth % kReceived == 0, "the depth is received in equal parts");
  static_assert(!kAhead || kPartsAtOnce == 1, "one part is asked for ahead");

  // Registers of a thread. In builds for sm_90a the product warps take some from the finishing
  // warps; elsewhere all have as many.
  static constexpr int kProductRegisters = kIsForward ? 208 : 200;
  static constexpr int kFinishingRegisters = kIsForward ? 88 : 104;
  static constexpr int kEvenRegisters = 168;

  // How many of a warp's depth blocks have their part of R in registers: as many as there are
  // beside some for addresses, the operands and the sums, and at least what shared memory has no
  // room for. The rest is in shared memory.
  GRU_HOST_DEVICE static constexpr int depth_in_registers(int registers) {
    constexpr int kAddressRegisters = kPartsAtOnce > 2 && !kIsSplit ? 26 : 20;
    constexpr int kOperandRegisters = 4 * kPartWords * kPartsAtOnce;
    constexpr int kSumRegisters = (kIsSplit ? 8 : 4) * kGates;
    constexpr int kMostInShared = 7 / (kGroups * kTeam);
    int depth = (registers - kAddressRegisters - kOperandRegisters - kSumRegisters) / (8 * kGates);
    if (depth < kDepth - kMostInShared) depth = kDepth - kMostInShared;
    return depth < kDepth ? depth : kDepth;
  }
  static constexpr int kMostSharedDepth = kDepth - depth_in_registers(kEvenRegisters);
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  static constexpr int kSharedDepth = kDepth - depth_in_registers(kProductRegisters);
#else
  static constexpr int kSharedDepth = kMostSharedDepth;
#endif

  // Bytes.
  static constexpr int kTile = kTeamWarps * kDepth * kUnitOperands * 512;  // a tile's operands
  static constexpr int kBlockSums = kGroups * kUnitSums;                   // of 16 units each
  static constexpr int kWarpSums = kBlockSums * 512;                       // for one block
  static constexpr int kSums = kTeamWarps * kWarpSums;                     // one buffer
  static constexpr int kWarpWeights = kGates * 1024;                       // of a depth block
  static constexpr int kFinishingLanes = 32 * kSetWarps * kSets;
  static constexpr int kCarriedPairs = kFinishingLanes * 8;
  // Of a tile of each set: a state, and what the first exchange leaves for the second.
  static constexpr int kCarried = kIsForward ? kExchanges * kCarriedPairs : kCarriedPairs;

  using Inputs = std::conditional_t<kIsForward, InputRing<T, 2, kFinishingLanes, kSorts>,
                                    BackwardInputs<T, 2, kFinishingLanes, kSorts>>;

  using Work = GridWork<T, kPass>;
  using Active = ActiveTiles<typename Work::Steps, kSorts>;
  using Order = GridOrder<kPass>;
  /// The same for other numbers of tiles.
  template <GroupTiles kOther>
  using With = GridShape<T, multiplication, kGroups, kDepth, kPass, kTeam, kOther, kVariant>;

  /// The most tiles of one set.
  GRU_HOST_DEVICE static constexpr int lane_tiles(int tiles) {
    return (tiles + kSets - 1) / kSets;
  }

  GRU_HOST_DEVICE static constexpr GridLayout layout(int tiles) {
    GridLayout layout = {};
    layout.sums = kProductWarps * kMostSharedDepth * kWarpWeights;
    layout.barriers = layout.sums + 2 * kSums;
    layout.inputs = layout.barriers + 64;
    layout.carried = layout.inputs + Inputs::shared_bytes(lane_tiles(tiles));
    layout.bytes = layout.carried + lane_tiles(tiles) * kCarried;
    return layout;
  }

  GRU_HOST_DEVICE static Order packed_order(int ranks, int) {
    return Order{ranks / kTeam, kTeamWarps, kTeamWarps, kDepth, kGroups * kTeam};
  }

  /// Where in a tile a unit's operand is, the first where there are three. The next is 512 bytes
  /// on.
  __device__ static int operand_offset(int unit, int tile_row) {
    return unit / kDepthBlock<T> * kUnitOperands * 512 + tile_row * 64 +
           unit % kDepthBlock<T> * static_cast<int>(sizeof(T));
  }
};

/// A shape for the variant that resets before the product, which has one kernel for few and many
/// tiles.
template <typename T, Multiplication multiplication, int kGroups, int kDepth,
          Pass kPass = Pass::kForward>
using ResetBeforeShape = GridShape<T, multiplication, kGroups, kDepth, kPass, 1, GroupTiles::kFew,
                                   Variant::kResetBefore>;

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
