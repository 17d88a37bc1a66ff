// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gru/detail/recurrence.cuh>
#include <gru/detail/tensor_core.cuh>

/// What the cluster kernels are made of. A cluster of thread blocks keeps R in registers and shared
/// memory and carries some rows of the batch, in tiles of 8, through all steps. A block has some of
/// the units, in groups of 16, for all tiles of its cluster. kSplit warps share a group: each
/// multiplies over its part of the depth, and finishes its part of the units and rows.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// How a layer is spread over a cluster.
template <typename T, int kBlocks_, int kSplit_, int kDepth_, int kSharedDepth_>
struct ClusterShape {
  static constexpr int kBlocks = kBlocks_;            // of the cluster
  static constexpr int kSplit = kSplit_;              // warps that share a group's depth
  static constexpr int kDepth = kDepth_;              // depth blocks of a warp
  static constexpr int kSharedDepth = kSharedDepth_;  // of these, second halves in shared memory
  static constexpr int kUnits = kSplit * kDepth * kDepthBlock<T>;  // H, padded
  static constexpr int kBlockUnits = kUnits / kBlocks;
  static constexpr int kGroups = kBlockUnits / kGroupUnits;
  static constexpr int kWarps = kSplit * kGroups;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kTilesApart = kSplit / 2;  // two warps of a group finish every tile
  static_assert(kGroups * kGroupUnits * kBlocks == kUnits, "groups must fill the cluster");
  static_assert(kSplit == 2 || kSplit == 4, "warps work in pairs");

  template <bool kSorts>
  using Inputs = InputRing<T, 2, kThreads, kSorts, 4, SharedFlags>;
  using Finisher = ForwardLane<T, 2, CellValue<T>>;

  /// The most tiles of a cluster that one lane finishes.
  GRU_HOST_DEVICE static constexpr int lane_tiles(int tiles) {
    return (tiles + kTilesApart - 1) / kTilesApart;
  }

  // Bytes of shared memory.
  static constexpr int kOperands = kUnits * kTileRows * sizeof(T);  // a tile's, one buffer
  static constexpr int kWeights = kWarps * kSharedDepth * 3 * 512;
  static constexpr int kSwapPart = 3 * 32 * 8;              // from one warp to another
  static constexpr int kSwap = 2 * kWarps * 2 * kSwapPart;  // two turns, two that receive
  static constexpr int kStates = kThreads * 8;              // of one tile a lane

  static constexpr int shared_bytes(int tiles) {
    return kWeights + kSwap + Inputs<true>::shared_bytes(lane_tiles(tiles)) +
           lane_tiles(tiles) * kStates + tiles * (2 * kOperands + 16);
  }
  static constexpr int reset_before_bytes(int tiles) {
    return shared_bytes(tiles) + tiles * kOperands;
  }

  static PackedOrder packed_order() { return {kBlocks, kWarps, kSplit, kDepth, 1}; }
};

/// Where 16 neighbouring bytes of a row lie in a tile's operands: those from 32 * pair + 16 * half
/// on. Spread so that neither the stores nor the loads of a warp meet in a bank.
__device__ inline std::uint32_t operand_offset(int pair, int row, int half) {
  int const slot = ((row >> 1) * 2 + half) ^ ((row & 1) << 1) ^ ((pair & 1) << 2);
  return static_cast<std::uint32_t>(pair * 256 + (row & 1) * 128 + slot * 16);
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

/// Where a lane stands in its cluster, and what it finishes: of its sums, units 2 g and 2 g + 1 of
/// rows 2 q and 2 q + 1, its warp finishes one row, in every tile or, where four warps share a
/// group, in every other one.
template <typename Shape>
struct ClusterPlace {
  int warp = threadIdx.x / 32;
  int lane = threadIdx.x % 32;
  int g = lane / 4;
  int q = lane % 4;
  int group = warp / Shape::kSplit;                  // of the block
  int part = warp % Shape::kSplit;                   // of the depth, and of what the group finishes
  int rank = static_cast<int>(ptx::cluster_rank());  // of the block
  int tile_row = 2 * q + part % 2;
  int first_tile = part / 2;  // that the lane finishes
  int unit = rank * Shape::kBlockUnits + group * kGroupUnits + 2 * g;
  TileSpan tiles;       // of the cluster
  TileSpan lane_tiles;  // of these, what the lane finishes

  __device__ ClusterPlace(TileDeal const& deal, int tiles_of_cluster)
      : tiles{deal.of_group(static_cast<int>(blockIdx.x) / Shape::kBlocks, tiles_of_cluster)},
        lane_tiles{tiles.of_set(first_tile, Shape::kTilesApart)} {}

  /// Where among the operands at `operands` the lane finds the first that it multiplies with. A
  /// warp that finishes odd rows reads neighbouring rows in exchanged places, so that the rows that
  /// it finishes are the even columns of its sums.
  __device__ std::uint32_t read_at(std::uint32_t operands) const {
    return operands + part * Shape::kDepth * 512 + operand_offset(q >> 1, g ^ (part % 2), q & 1);
  }

  /// Where among them those of its own units go, kBytes each.
  template <int kBytes>
  __device__ std::uint32_t write_at(std::uint32_t operands) const {
    std::uint32_t const byte = unit * static_cast<std::uint32_t>(kBytes);
    return operands + operand_offset(byte / 32, tile_row, byte / 16 % 2) + byte % 16;
  }
};

/// Fills the tiles' operands of the first step; those of the next tile are tile_bytes on.
template <typename T, Multiplication multiplication, typename Shape>
__device__ void load_operands(RecurrentForward<T> const& pass, TileSpan const& tiles,
                              std::uint32_t tile_bytes, std::byte* to) {
  constexpr int kValues = 16 / static_cast<int>(sizeof(T));
  for (int i = threadIdx.x; i < tiles.count * kTileRows * Shape::kUnits; i += Shape::kThreads) {
    int const k = i % Shape::kUnits;
    int const row = i / Shape::kUnits;
    int const place = tiles.place(row / kTileRows, row % kTileRows);
    std::uint32_t const at = row / kTileRows * tile_bytes +
                             operand_offset(k / (2 * kValues), row % kTileRows, k / kValues % 2) +
                             k % kValues * sizeof(T);
    float value = 0;
    if (place < pass.batch && k < pass.hidden) {
      std::int64_t const n = pass.deal.row(place);
      value = convert<float>(pass.operand[n * pass.hidden + k]);
    }
    *reinterpret_cast<T*>(to + at) = operand_value<T, multiplication>(value);
  }
}

/// R as a warp multiplies with it in all steps, in registers but for the second halves of the last
/// kSharedDepth depth blocks.
template <typename T, Multiplication multiplication, typename Shape>
class ClusterWeights {
 public:
  /// The block's weights in shared memory begin at shared + at. A lane reads only what it writes.
  __device__ ClusterWeights(T const* packed_weights, ClusterPlace<Shape> const& place,
                            std::byte* shared, std::uint32_t at)
      : shared_{ptx::shared_address(shared)},
        at_{at + place.warp * Shape::kSharedDepth * 1536 + place.lane * 16} {
    PackedOrder const order{Shape::kBlocks, Shape::kWarps, Shape::kSplit, Shape::kDepth, 1};
    auto const* const packed = reinterpret_cast<uint4 const*>(packed_weights) + place.lane;
#pragma unroll
    for (int j = 0; j < Shape::kDepth; ++j) {
#pragma unroll
      for (int gate = 0; gate < 3; ++gate) {
        uint4 const first = packed[order.fragment(place.rank, place.warp, j, gate, 0)];
        uint4 const second = packed[order.fragment(place.rank, place.warp, j, gate, 1)];
        first_[gate][j] = {first.x, first.y, first.z, first.w};
        if (j >= kOwnDepth) {
          *reinterpret_cast<uint4*>(shared + at_ + ((j - kOwnDepth) * 3 + gate) * 512) = second;
        } else {
          second_[gate][j] = {second.x, second.y, second.z, second.w};
        }
      }
    }
  }

  /// Adds the products of kGates gates, from kFirst on, with a tile's operands; `from` is where the
  /// lane finds the first that it needs. A gate by itself is summed in two parts, so that its
  /// products wait less for one another.
  template <int kFirst, int kGates>
  __device__ void multiply(std::uint32_t from, float (&sums)[kGates][4]) const {
    constexpr int kAhead = Shape::kDepth < 4 ? Shape::kDepth : 4;
    constexpr bool kTwoParts = kGates == 1;
    float other_part[4] = {};
    ptx::Words4 operand[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) operand[j] = ptx::load_shared_16(from + j * 512);
#pragma unroll
    for (int j = 0; j < Shape::kDepth; ++j) {
      ptx::Words4 const s = operand[j % kAhead];
      if (j + kAhead < Shape::kDepth) {
        operand[j % kAhead] = ptx::load_shared_16(from + (j + kAhead) * 512);
      }
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
        multiply_add<T, multiplication>(sums[gate], first_[kFirst + gate][j], s.x, s.y);
      }
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
        ptx::Words4 const w =
            j < kOwnDepth
                ? second_[kFirst + gate][j < kOwnDepth ? j : 0]
                : ptx::load_shared_16(shared_ + at_ + ((j - kOwnDepth) * 3 + kFirst + gate) * 512);
        multiply_add<T, multiplication>(kTwoParts ? other_part : sums[gate], w, s.z, s.w);
      }
    }
    if constexpr (kTwoParts) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[0][i] += other_part[i];
    }
  }

 private:
  static constexpr int kOwnDepth = Shape::kDepth - Shape::kSharedDepth;  // second halves here
  std::uint32_t shared_;
  std::uint32_t at_;  // the lane's weights in shared memory
  ptx::Words4 first_[3][Shape::kDepth];
  ptx::Words4 second_[3][kOwnDepth + 1];
};

/// How the warps of a group swap sums, so that each has all of those that it finishes. Two warps
/// finish a tile, a row of each pair.
template <typename Shape>
class GroupSwap {
 public:
  /// `shared` is the block's space for it.
  __device__ GroupSwap(ClusterPlace<Shape> const& place, std::uint32_t shared)
      : part_{place.part}, group_{place.group} {
    // Sums for the rows that warp `receiver` (0 or 1) of each pair finishes lie by their sender.
    auto const slot = [&](int receiver, int sender) {
      return shared + place.lane * 8 +
             ((group_ * 2 + receiver) * Shape::kSplit + sender) * Shape::kSwapPart;
    };
    receive_at_ = slot(part_ % 2, Shape::kSplit == 2 ? part_ ^ 1 : 0);
    send_at_ = slot(part_ % 2 ^ 1, part_);
    ptx::keep(receive_at_);
    ptx::keep(send_at_);
  }

  /// Begins a swap. There are two turns of space, so that no warp waits for those that still read
  /// the last sums.
  __device__ void begin() {
    space_ = turn_ * (Shape::kSwap / 2);
    turn_ ^= 1;
  }

  /// Leaves sums where the warps that finish them find them, as the swap's gates from kFirst on.
  template <int kFirst = 0, int kGates>
  __device__ void send(float const (&sums)[kGates][4]) {
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
      std::uint32_t const at = space_ + (kFirst + gate) * 256;
      ptx::store_shared_pair(send_at_ + at, sums[gate][1], sums[gate][3]);
      if constexpr (Shape::kSplit > 2) {
        std::uint32_t const to = receive_at_ + part_ * Shape::kSwapPart;
        ptx::store_shared_pair(to + at, sums[gate][0], sums[gate][2]);
      }
    }
  }

  /// All of the group have sent, and may receive.
  __device__ void meet() {
    ptx::meet(1 + group_, 32 * Shape::kSplit);
  }

  /// The sums over the whole depth, for two units of the lane's row.
  template <int kFirst = 0, int kGates>
  __device__ void receive(float const (&sums)[kGates][4], float (&mine)[kGates][2]) const {
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
      std::uint32_t const from = receive_at_ + space_ + (kFirst + gate) * 256;
      float2 sum = ptx::load_shared_pair(from);
      if constexpr (Shape::kSplit == 2) {
        sum.x += sums[gate][0];
        sum.y += sums[gate][2];
      }
#pragma unroll
      for (int sender = 1; Shape::kSplit > 2 && sender < Shape::kSplit; ++sender) {
        float2 const other = ptx::load_shared_pair(from + sender * Shape::kSwapPart);
        sum.x += other.x;
        sum.y += other.y;
      }
      mine[gate][0] = sum.x;
      mine[gate][1] = sum.y;
    }
  }

 private:
  int part_;
  int group_;
  std::uint32_t receive_at_;
  std::uint32_t send_at_;
  int turn_ = 0;             // the next one
  std::uint32_t space_ = 0;  // of this turn
};

/// Stores a lane's two operands in every block of the cluster, at its address `to`, and counts them
/// at the barrier there.
template <typename T, Multiplication multiplication, typename Shape>
__device__ void hand_on(std::uint32_t to, std::uint32_t barrier, float const (&operand)[2]) {
  auto const words = operand_words<T, multiplication>(operand);
  std::uint32_t const to_barrier = barrier - to;
#pragma unroll
  for (int block = 0; block < Shape::kBlocks; ++block) {
    std::uint32_t const there = ptx::in_block(to, block);
    ptx::store_async(there, words, there + to_barrier);
  }
}

/// Where things lie in a block's shared memory, in bytes: operands, `tile_bytes` of each tile, then
/// R's part, swap, states, inputs and barriers.
template <typename Shape>
struct ClusterLayout {
  std::uint32_t weights;
  std::uint32_t swap;
  std::uint32_t states;
  std::uint32_t inputs;
  std::uint32_t barriers;

  __device__ ClusterLayout(int tiles, int tile_bytes)
      : weights{static_cast<std::uint32_t>(tiles * tile_bytes)},
        swap{weights + Shape::kWeights},
        states{swap + Shape::kSwap},
        inputs{states + Shape::lane_tiles(tiles) * Shape::kStates},
        barriers{inputs + Shape::template Inputs<true>::shared_bytes(Shape::lane_tiles(tiles))} {}
};

/// Puts the carried states of a lane's tiles into shared memory, and leaves the first in `state`.
template <typename Shape, typename Rows>
__device__ void load_states(typename Shape::Finisher const& finisher, Rows const& rows,
                            int lane_tiles, float2* states, float (&state)[2]) {
  for (int tile = lane_tiles - 1; tile >= 0; --tile) {
    finisher.load(rows.row(tile), state);
    states[tile * Shape::kThreads] = make_float2(state[0], state[1]);
  }
}

/// Makes the two barriers of each tile. The first expects no bytes, since the first step's operands
/// are there already; the second expects a tile's operands.
template <typename Shape>
__device__ void start_barriers(std::uint32_t barriers, int tiles) {
  if (threadIdx.x < 2 * tiles) {
    ptx::init_barrier(barriers + 8 * threadIdx.x);
    ptx::expect_bytes(barriers + 8 * threadIdx.x, threadIdx.x % 2 == 0 ? 0 : Shape::kOperands);
  }
  ptx::fence_barriers();
}

#endif

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
