// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gru/detail/cluster_parts.cuh>
#include <gru/detail/recurrence_backward.cuh>
#include <gru/detail/tensor_core.cuh>

/// Backward's recurrence in one kernel: a cluster of thread blocks keeps R in registers and shared
/// memory and carries some rows of the batch back through all steps. Clusters never talk to each
/// other.
///
/// A block has some of the units, in groups of 16, for all tiles of 8 rows of its cluster. What it
/// multiplies with are the columns of R of its own units, which forward multiplied with too: from
/// dq of its own units come parts of the sums of all units, which go to the blocks that finish
/// these (a reduce-scatter). Each warp multiplies for one block or two. One step of one tile:
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
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// R as backward multiplies with it: an m is a group of units whose sums are formed, in the order
/// of the cluster's units; the depth is the gates z, r and g of the block's own units.
struct TransposedOrder : FragmentOrder {
  int block_units = 0;

  template <typename T>
  __device__ WeightPlace place(int rank, int warp, int block, int m, int row, int column) const {
    int const along = kDepthBlock<T> * block + column;
    return {(warp * height + m) * kGroupUnits + row, along / block_units,
            rank * block_units + along % block_units};
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

  using Inputs = BackwardInputs<T, 2, kLanes, kTileRows * kSets>;
  using Finisher = BackwardLane<T, 2, kTileRows * kSets>;

  /// The most tiles of a cluster that one lane finishes.
  GRU_HOST_DEVICE static constexpr int lane_tiles(int tiles) { return (tiles + kSets - 1) / kSets; }

  // Bytes of shared memory.
  static constexpr int kOperands = kDepth * 512;          // dq of a tile, one buffer
  static constexpr int kParts = kBlocks * kGroups * 512;  // of a tile's sums, one buffer
  static constexpr int kTile = 2 * (kOperands + kParts);
  static constexpr int kWeights = kWarps * kSharedHalves * kHeight * 512;
  static constexpr int kDirect = kThreads * 8;  // carried gradients of one tile a lane

  static constexpr int shared_bytes(int tiles) {
    return kWeights + tiles * (kTile + 16) + Inputs::shared_bytes(lane_tiles(tiles)) +
           lane_tiles(tiles) * kDirect + 16;
  }

  static TransposedOrder packed_order() {
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
    FragmentOrder const order{Shape::kBlocks, Shape::kWarps, Shape::kDepth, Shape::kHeight};
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

  /// Adds the products with a tile's dq; `from` is where the lane finds the first that it needs.
  __device__ void multiply(std::uint32_t from, float (&sums)[Shape::kHeight][4]) const {
    constexpr int kAhead = Shape::kDepth < 4 ? Shape::kDepth : 4;
    ptx::Words4 operand[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) operand[j] = ptx::load_shared_16(from + j * 512);
#pragma unroll
    for (int j = 0; j < Shape::kDepth; ++j) {
      ptx::Words4 const dq = operand[j % kAhead];
      if (j + kAhead < Shape::kDepth) {
        operand[j % kAhead] = ptx::load_shared_16(from + (j + kAhead) * 512);
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
  int first_row;
  int block_unit = group * kGroupUnits + 2 * g;
  int unit = rank * Shape::kBlockUnits + block_unit;

  __device__ explicit ClusterBackwardPlace(int tiles)
      : first_row(static_cast<int>(blockIdx.x) / Shape::kBlocks * tiles * kTileRows +
                  set * kTileRows + tile_row) {}

  /// How many of the cluster's tiles the lane finishes.
  __device__ int lane_tiles(int tiles) const {
    return set < Shape::kSets ? (tiles - set + Shape::kSets - 1) / Shape::kSets : 0;
  }
};

/// A lane's part of dq, left for its block's warps at `to`, the tile's operands.
template <typename T, Multiplication multiplication, typename Shape>
__device__ void leave_dq(std::uint32_t to, ClusterBackwardPlace<Shape> const& place,
                         cell::Gates<float> const (&dq)[2]) {
  auto const store = [&](int gate, float first, float second) {
    float const pair[2] = {first, second};
    std::uint32_t const byte =
        static_cast<std::uint32_t>(gate * Shape::kBlockUnits + place.block_unit) * sizeof(T);
    ptx::store_shared(to + operand_offset(byte / 32, place.tile_row, byte / 16 % 2) + byte % 16,
                      operand_words<T, multiplication>(pair));
  };
  store(0, dq[0].z, dq[1].z);
  store(1, dq[0].r, dq[1].r);
  store(2, dq[0].g, dq[1].g);
}

#endif

/// kOneTile: for clusters with a single tile, whose carried gradients then stay in registers and
/// whose steps are free of the loops over tiles.
template <typename T, Multiplication multiplication, typename Shape, bool kOneTile>
GRU_KERNEL void __launch_bounds__(Shape::kThreads, 1)
    cluster_backward_kernel(RecurrentBackward<T> const pass, T const* packed_weights, int tiles_) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) std::byte shared[];
  int const tiles = kOneTile ? 1 : tiles_;
  ClusterBackwardPlace<Shape> const place{tiles};
  int const lane_tiles = place.lane_tiles(tiles);
  int const rounds = kOneTile ? 1 : Shape::lane_tiles(tiles);

  // Shared memory: of each tile dq twice, then parts twice; weights, inputs, carried gradients,
  // barriers, whether a wait of the block expired.
  std::byte* const weights_at = shared + tiles * Shape::kTile;
  std::byte* const inputs_at = weights_at + Shape::kWeights;
  std::byte* const direct_at = inputs_at + Shape::Inputs::shared_bytes(rounds);
  std::byte* const barriers_at = direct_at + rounds * Shape::kDirect;
  std::uint32_t const tiles_at = ptx::shared_address(shared);
  std::uint32_t const barriers = ptx::shared_address(barriers_at);
  auto* const stored = reinterpret_cast<float2*>(direct_at) + threadIdx.x;
  auto* const has_expired = reinterpret_cast<int volatile*>(barriers_at + 16 * tiles);

  TransposedWeights<T, multiplication, Shape> const weights{packed_weights, place.rank, place.warp,
                                                            place.lane, weights_at};
  typename Shape::Finisher finisher{pass, place.first_row, place.unit};
  typename Shape::Inputs inputs{pass,
                                inputs_at,
                                static_cast<int>(threadIdx.x),
                                place.first_row,
                                lane_tiles,
                                Shape::lane_tiles(tiles),
                                place.unit};
  // dq beyond the gates' depth stays zero.
  for (int i = threadIdx.x; i < tiles * Shape::kTile / 16; i += Shape::kThreads) {
    reinterpret_cast<uint4*>(shared)[i] = make_uint4(0, 0, 0, 0);
  }
  if (threadIdx.x < 2 * tiles) {
    ptx::init_barrier(barriers + 8 * threadIdx.x);
    ptx::expect_bytes(barriers + 8 * threadIdx.x, Shape::kParts);
  }
  ptx::fence_barriers();
  if (threadIdx.x == 0) *has_expired = 0;
  __syncthreads();
  float direct[2];
  for (int k = lane_tiles - 1; k >= 0; --k) {
    int const tile = k * Shape::kSets + place.set;
    cell::Gates<float> const dq[2] = {finisher.load_dq(k, 0), finisher.load_dq(k, 1)};
    leave_dq<T, multiplication>(tiles_at + tile * Shape::kTile, place, dq);
    finisher.load(k, direct);
    stored[k * Shape::kThreads] = make_float2(direct[0], direct[1]);
  }
  __syncthreads();
  ptx::meet_cluster();

  std::uint32_t read_at =
      tiles_at + operand_offset(place.q >> 1, place.g, place.q & 1);  // dq, of the first tile
  std::uint32_t parts_at = tiles_at + 2 * Shape::kOperands;
  ptx::keep(read_at);
  ptx::keep(parts_at);
  // Multiplies a tile's dq of the step before `step`, and sends the parts of that step's sums.
  auto const multiply = [&](int tile, int step) {
    int const buffer = step & 1;
    float sums[Shape::kHeight][4] = {};
    weights.multiply(read_at + tile * Shape::kTile + buffer * Shape::kOperands, sums);
    std::uint32_t const to = parts_at + tile * Shape::kTile + buffer * Shape::kParts +
                             place.rank * Shape::kGroups * 512 + place.lane * 16;
    std::uint32_t const to_barrier = barriers + 8 * (2 * tile + buffer) - to;
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
  };
  for (int tile = 0; tile < tiles; ++tile) multiply(tile, 0);

  // Where the lane finds the first part of the sums that it finishes.
  std::uint32_t mine_at = parts_at + place.set * Shape::kTile + place.group * 512 +
                          place.lane * 16 + place.warp % 2 * 8;
  ptx::keep(mine_at);
  bool expired = false;
#pragma unroll 1
  for (int i = 0; i < pass.steps; ++i) {
    int const buffer = i & 1;
    bool const ends = i + 1 == pass.steps;
    inputs.fetch(i + Shape::Inputs::kStages - 1);
    inputs.wait();
#pragma unroll 1
    for (int round = 0; round < rounds; ++round) {
      int const tile = round * Shape::kSets + place.set;
      bool const finishes = round < lane_tiles;
      BackwardResult<2> result;
      if (finishes) {
        // 1. Factors.
        BackwardInput<2> const input = inputs.read(i, round);
        BackwardFactors<2> const factors = finisher.prepare(input);

        // 2. Sums.
        std::uint32_t const barrier = barriers + 8 * (2 * tile + buffer);
        std::uint32_t polls = 0;
        while (!expired && !ptx::is_complete(barrier, i >> 1 & 1)) {
          if (++polls > pass.most_polls) {
            expired = true;
            *has_expired = 1;
            pass.expire();
          }
        }
        // For the step after the next. Parts that come before that count, too. A barrier whose
        // phase is not complete must not be armed again.
        bool const arms = place.warp % Shape::kSetWarps == 0 && place.lane == 0;
        if (arms && !expired) ptx::expect_bytes(barrier, Shape::kParts);
        float sums[2][2] = {};  // in two parts, which wait less for one another
        std::uint32_t const from =
            mine_at + round * Shape::kSets * Shape::kTile + buffer * Shape::kParts;
#pragma unroll
        for (int block = 0; block < Shape::kBlocks; ++block) {
          float2 const part = ptx::load_shared_pair(from + block * Shape::kGroups * 512);
          sums[block % 2][0] += part.x;
          sums[block % 2][1] += part.y;
        }
        float const sum[2] = {sums[0][0] + sums[1][0], sums[0][1] + sums[1][1]};

        // 3. Finish.
        if constexpr (!kOneTile) {
          float2 const carried = stored[round * Shape::kThreads];
          direct[0] = carried.x;
          direct[1] = carried.y;
        }
        if (expired) finisher.poison(direct);
        result = finisher.finish(sum, factors, input.flags, direct);
        int const next = (buffer ^ 1) * Shape::kOperands;
        leave_dq<T, multiplication>(tiles_at + tile * Shape::kTile + next, place, result.dq);
      }
      __syncthreads();

      // 4. Multiply.
      expired = *has_expired != 0;
      if (!ends && !expired) {
        int const first = round * Shape::kSets;
        int const end = kOneTile ? 1 : min(first + Shape::kSets, tiles);
#pragma unroll 1
        for (int t = first; t < end; ++t) multiply(t, i + 1);
      }

      // 5. What others see.
      if (finishes) {
        finisher.write(result, round);
        if (ends) finisher.leave(result, round, direct);
        if constexpr (!kOneTile)
          stored[round * Shape::kThreads] = make_float2(direct[0], direct[1]);
      }
    }
    finisher.advance();
  }
  finisher.leave_bias_sums();
  ptx::meet_cluster();
#endif
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
