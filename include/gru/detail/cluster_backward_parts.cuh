// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gru/detail/cluster_parts.cuh>
#include <gru/detail/recurrence_backward.cuh>
#include <gru/detail/tensor_core.cuh>

/// What the cluster kernels of backward are made of. A cluster of thread blocks keeps R in
/// registers and shared memory and carries some rows of the batch, in tiles of 8, back through all
/// steps. A block has some of the units, in groups of 16, for all tiles of its cluster. What it
/// multiplies with are the columns of R of its own units, which forward multiplied with too: from
/// dq of its own units come *parts* of the sums of all units, which go to the blocks that finish
/// these (a reduce-scatter). Each warp multiplies for one block or two. The warps that finish a
/// tile are a *set*.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// R as a cluster's backward multiplies with it: an m is a group of units whose sums are formed, in
/// the order of the cluster's units; the depth is the gates z, r and g of the rank's own units.
struct ScatterOrder : FragmentOrder {
  int block_units = 0;

  /// What one lane holds of one mma's part of R.
  struct Fragment {
    Place place;
    int row;
    int along;
    int block_units;

    __device__ WeightPlace weight(int row_on, int column_on) const {
      int const k = along + column_on;
      int const gate = k / block_units;
      std::int64_t const unit = std::int64_t{place.rank} * block_units + k % block_units;
      return {row + row_on, gate, gate < 3 ? unit : INT64_MAX};
    }
  };

  /// The index-th fragment of a lane.
  template <typename T>
  __device__ Fragment at(std::uint32_t index) const {
    Place const p = place<T>(index);
    return {p, (p.warp * height + p.m) * kGroupUnits + p.row, kDepthBlock<T> * p.block + p.column,
            block_units};
  }
};

/// How a layer is spread over a cluster.
template <typename T, int kBlocks_, int kUnits_, int kSharedHalves_>
struct ClusterBackwardShape {
  static constexpr int kBlocks = kBlocks_;              // of the cluster
  static constexpr int kUnits = kUnits_;                // H, padded
  static constexpr int kSharedHalves = kSharedHalves_;  // last half depth blocks in shared memory
  static constexpr int kWarps = 8;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kBlockUnits = kUnits / kBlocks;
  static constexpr int kGroups = kBlockUnits / kGroupUnits;  // of a block's own units
  static constexpr int kWarpBlocks = kBlocks / kWarps;       // that a warp multiplies for
  static constexpr int kHeight = kWarpBlocks * kGroups;      // groups that it multiplies for
  static constexpr int kDepth =
      (3 * kBlockUnits + kDepthBlock<T> - 1) / kDepthBlock<T>;  // depth blocks
  static constexpr int kOwnHalves = 2 * kDepth - kSharedHalves;
  static constexpr int kSetWarps = 2 * kGroups;     // that finish a tile
  static constexpr int kSets = kWarps / kSetWarps;  // tiles that are finished at once
  static constexpr int kLanes = 32 * kSetWarps * kSets;
  static_assert(kGroups * kGroupUnits * kBlocks == kUnits, "groups must fill the cluster");
  static_assert(kWarpBlocks * kWarps == kBlocks && kSets > 0, "warps must share the blocks evenly");

  template <bool kSorts>
  using Inputs = BackwardInputs<T, 2, kLanes, kSorts>;
  using Finisher = BackwardLane<T, 2>;

  /// The most tiles of a cluster that one lane finishes.
  GRU_HOST_DEVICE static constexpr int lane_tiles(int tiles) { return (tiles + kSets - 1) / kSets; }

  // Bytes of shared memory.
  static constexpr int kOperands = kDepth * 512;          // dq of a tile, one buffer
  static constexpr int kParts = kBlocks * kGroups * 512;  // of a tile's sums, one buffer
  static constexpr int kTile = 2 * (kOperands + kParts);
  static constexpr int kWeights = kWarps * kSharedHalves * kHeight * 512;
  static constexpr int kDirect = kThreads * 8;  // carried gradients of one tile a lane

  static constexpr int shared_bytes(int tiles) {
    return kWeights + tiles * (kTile + 16) + Inputs<true>::shared_bytes(lane_tiles(tiles)) +
           lane_tiles(tiles) * kDirect + 16;
  }

  GRU_HOST_DEVICE static ScatterOrder packed_order() {
    return {{kBlocks, kWarps, kDepth, kHeight}, kBlockUnits};
  }
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

/// The columns of R of a block's units as a warp multiplies with them in all steps: in registers,
/// but for the last kSharedHalves half depth blocks.
template <typename T, Multiplication multiplication, typename Shape>
class TransposedWeights {
 public:
  /// `shared` is the block's space for them. A lane reads only what it writes.
  __device__ TransposedWeights(T const* packed_weights, int rank, int warp, int lane,
                               std::byte* shared)
      : shared_{ptx::shared_address(shared) + at(warp, lane)} {
    ScatterOrder const order = Shape::packed_order();
    auto const* const packed = reinterpret_cast<uint4 const*>(packed_weights) + lane;
#pragma unroll
    for (int half = 0; half < 2 * Shape::kDepth; ++half) {
#pragma unroll
      for (int m = 0; m < Shape::kHeight; ++m) {
        uint4 const v = packed[order.fragment(rank, warp, half / 2, m, half % 2)];
        if (half < Shape::kOwnHalves) {
          own_[half][m] = {v.x, v.y, v.z, v.w};
        } else {
          *reinterpret_cast<uint4*>(shared + at(warp, lane) + shared_at(half, m)) = v;
        }
      }
    }
  }

  /// Adds the products with the depth blocks kFirst to kEnd - 1 of a tile's dq; `from` is where the
  /// lane finds the first block's that it needs.
  template <int kFirst = 0, int kEnd = Shape::kDepth>
  __device__ void multiply(std::uint32_t from, float (&sums)[Shape::kHeight][4]) const {
    constexpr int kAhead = kEnd - kFirst < 4 ? kEnd - kFirst : 4;
    ptx::Words4 operand[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) operand[j] = ptx::load_shared_16(from + (kFirst + j) * 512);
#pragma unroll
    for (int j = kFirst; j < kEnd; ++j) {
      ptx::Words4 const dq = operand[(j - kFirst) % kAhead];
      if (j + kAhead < kEnd) {
        operand[(j - kFirst) % kAhead] = ptx::load_shared_16(from + (j + kAhead) * 512);
      }
      add_half(2 * j, dq.x, dq.y, sums);
      add_half(2 * j + 1, dq.z, dq.w, sums);
    }
  }

 private:
  __device__ static constexpr int at(int warp, int lane) {
    return warp * Shape::kSharedHalves * Shape::kHeight * 512 + lane * 16;
  }
  __device__ static constexpr int shared_at(int half, int m) {
    return ((half - Shape::kOwnHalves) * Shape::kHeight + m) * 512;
  }

  __device__ void add_half(int half, std::uint32_t b0, std::uint32_t b1,
                           float (&sums)[Shape::kHeight][4]) const {
#pragma unroll
    for (int m = 0; m < Shape::kHeight; ++m) {
      ptx::Words4 const w = half < Shape::kOwnHalves
                                ? own_[half < Shape::kOwnHalves ? half : 0][m]
                                : ptx::load_shared_16(shared_ + shared_at(half, m));
      multiply_add<T, multiplication>(sums[m], w, b0, b1);
    }
  }

  std::uint32_t shared_;  // the lane's
  ptx::Words4 own_[Shape::kOwnHalves][Shape::kHeight];
};

/// Where a lane stands in its cluster, and what it finishes: units 2 g and 2 g + 1 of a group, for
/// one row of the tiles of its warp's set.
template <typename Shape>
struct ClusterBackwardPlace {
  int warp = threadIdx.x / 32;
  int lane = threadIdx.x % 32;
  int g = lane / 4;
  int q = lane % 4;
  int set = warp / Shape::kSetWarps;  // kSets: the warp finishes none
  int group = warp % Shape::kSetWarps / 2;
  int rank = static_cast<int>(ptx::cluster_rank());
  int tile_row = 2 * q + warp % 2;
  int block_unit = group * kGroupUnits + 2 * g;
  int unit = rank * Shape::kBlockUnits + block_unit;
  TileSpan tiles;       // of the cluster
  TileSpan lane_tiles;  // of these, what the lane finishes

  __device__ ClusterBackwardPlace(TileDeal const& deal, int tiles_of_cluster)
      : tiles{deal.of_group(static_cast<int>(blockIdx.x) / Shape::kBlocks, tiles_of_cluster)},
        lane_tiles{tiles.of_set(set, Shape::kSets)} {}
};

/// A lane's part of one gate's dq, left for its block's warps at `to`, the tile's operands.
template <typename T, Multiplication multiplication, typename Shape>
__device__ void leave_gate(std::uint32_t to, ClusterBackwardPlace<Shape> const& place, int gate,
                           float first, float second) {
  float const pair[2] = {first, second};
  std::uint32_t const byte =
      static_cast<std::uint32_t>(gate * Shape::kBlockUnits + place.block_unit) * sizeof(T);
  ptx::store_shared(to + operand_offset(byte / 32, place.tile_row, byte / 16 % 2) + byte % 16,
                    operand_words<T, multiplication>(pair));
}

/// The same for all gates.
template <typename T, Multiplication multiplication, typename Shape>
__device__ void leave_dq(std::uint32_t to, ClusterBackwardPlace<Shape> const& place,
                         cell::Gates<float> const (&dq)[2]) {
  leave_gate<T, multiplication>(to, place, 0, dq[0].z, dq[1].z);
  leave_gate<T, multiplication>(to, place, 1, dq[0].r, dq[1].r);
  leave_gate<T, multiplication>(to, place, 2, dq[0].g, dq[1].g);
}

/// Where things lie in a block's shared memory: of each tile dq twice, then the two buffers of
/// parts; weights, inputs, carried gradients, two barriers a tile, whether a wait expired.
template <typename Shape>
struct ClusterBackwardLayout {
  std::byte* weights;
  std::byte* inputs;
  float2* direct;  // the lane's
  std::uint32_t barriers;
  int volatile* has_expired;
  std::uint32_t operands;  // of the first tile
  std::uint32_t parts;     // of the first tile

  __device__ ClusterBackwardLayout(std::byte* shared, int tiles)
      : weights{shared + tiles * Shape::kTile}, inputs{weights + Shape::kWeights} {
    int const rounds = Shape::lane_tiles(tiles);
    std::byte* const all_direct = inputs + Shape::template Inputs<true>::shared_bytes(rounds);
    std::byte* const all_barriers = all_direct + rounds * Shape::kDirect;
    direct = reinterpret_cast<float2*>(all_direct) + threadIdx.x;
    barriers = ptx::shared_address(all_barriers);
    has_expired = reinterpret_cast<int volatile*>(all_barriers + 16 * tiles);
    operands = ptx::shared_address(shared);
    parts = operands + 2 * Shape::kOperands;
  }
};

/// Zeros where dq and the parts will be, since dq beyond the gates' depth stays zero, and the two
/// barriers of each tile, which expect the parts of a tile. The block must meet afterwards.
template <typename Shape>
__device__ void start_tiles(std::byte* shared, ClusterBackwardLayout<Shape> const& layout,
                            int tiles) {
  for (int i = threadIdx.x; i < tiles * Shape::kTile / 16; i += Shape::kThreads) {
    reinterpret_cast<uint4*>(shared)[i] = make_uint4(0, 0, 0, 0);
  }
  if (threadIdx.x < 2 * tiles) {
    ptx::init_barrier(layout.barriers + 8 * threadIdx.x);
    ptx::expect_bytes(layout.barriers + 8 * threadIdx.x, Shape::kParts);
  }
  ptx::fence_barriers();
  if (threadIdx.x == 0) *layout.has_expired = 0;
}

/// Puts dq of the step done before the chunk where the products find it, and the carried gradients
/// into shared memory, and leaves the first in `direct`.
template <typename T, Multiplication multiplication, typename Shape, typename Rows>
__device__ void load_carried(typename Shape::Finisher const& finisher, Rows const& rows,
                             ClusterBackwardPlace<Shape> const& place,
                             ClusterBackwardLayout<Shape> const& layout, float (&direct)[2]) {
  for (int k = place.lane_tiles.count - 1; k >= 0; --k) {
    int const tile = k * Shape::kSets + place.set;
    int const n = rows.row(k);
    cell::Gates<float> const dq[2] = {finisher.load_dq(n, 0), finisher.load_dq(n, 1)};
    leave_dq<T, multiplication>(layout.operands + tile * Shape::kTile, place, dq);
    finisher.load(n, direct);
    layout.direct[k * Shape::kThreads] = make_float2(direct[0], direct[1]);
  }
}

/// Sends a warp's sums to the blocks that finish them: to their buffer of parts `parts`, counted at
/// their barrier.
template <typename Shape>
__device__ void send_parts(std::uint32_t parts, std::uint32_t barrier,
                           ClusterBackwardPlace<Shape> const& place,
                           float const (&sums)[Shape::kHeight][4]) {
  std::uint32_t const to = parts + place.rank * Shape::kGroups * 512 + place.lane * 16;
  std::uint32_t const to_barrier = barrier - to;
#pragma unroll
  for (int b = 0; b < Shape::kWarpBlocks; ++b) {
    std::uint32_t const there = ptx::in_block(to, place.warp * Shape::kWarpBlocks + b);
#pragma unroll
    for (int group = 0; group < Shape::kGroups; ++group) {
      float const(&s)[4] = sums[b * Shape::kGroups + group];
      ptx::store_async(there + group * 512, make_float4(s[0], s[2], s[1], s[3]),
                       there + to_barrier);
    }
  }
}

/// Where a lane finds the first part of the sums that it finishes in a tile's buffer.
template <typename Shape>
__device__ std::uint32_t first_part(ClusterBackwardPlace<Shape> const& place) {
  return place.group * 512 + place.lane * 16 + place.warp % 2 * 8;
}

/// Adds up the parts of a lane's sums, in two parts that wait less for one another.
template <typename Shape>
__device__ void add_parts(std::uint32_t from, float (&sum)[2]) {
  float sums[2][2] = {};
#pragma unroll
  for (int block = 0; block < Shape::kBlocks; ++block) {
    float2 const part = ptx::load_shared_pair(from + block * Shape::kGroups * 512);
    sums[block % 2][0] += part.x;
    sums[block % 2][1] += part.y;
  }
  sum[0] = sums[0][0] + sums[1][0];
  sum[1] = sums[0][1] + sums[1][1];
}

/// Waits for a tile's parts, and prepares their barrier for the next ones. Parts that come before
/// that count, too. A barrier whose phase is not complete must not be prepared again.
template <typename T, typename Shape>
__device__ void await_parts(RecurrentBackward<T> const& pass,
                            ClusterBackwardPlace<Shape> const& place,
                            ClusterBackwardLayout<Shape> const& layout, std::uint32_t barrier,
                            std::uint32_t parity, bool& expired) {
  std::uint32_t polls = 0;
  while (!expired && !ptx::is_complete(barrier, parity)) {
    if (++polls > pass.most_polls) {
      expired = true;
      *layout.has_expired = 1;
      pass.expire();
    }
  }
  bool const arms = place.warp % Shape::kSetWarps == 0 && place.lane == 0;
  if (arms && !expired) ptx::expect_bytes(barrier, Shape::kParts);
}

#endif

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
