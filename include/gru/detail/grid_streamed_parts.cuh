// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gru/detail/grid_parts.cuh>
#include <gru/detail/grid_streamed_shape.cuh>
#include <gru/detail/ptx.cuh>

/// What the grid kernels are made of where R does not fit on the device: blocks keep some of their
/// part of R in shared memory and read the rest from the L2 cache, in every step. The words, the
/// exchange and the waits are those of grid_parts.cuh.
///
/// So that R is read once a step, up to four tiles are multiplied together. A block has 8 warps
/// that do both, multiply and finish, and a thread that copies R. One step:
///   1. each warp polls for the operands of its part of the depth, for all tiles, a batch of depth
///      blocks ahead, and multiplies them with its part of R. R is taken by *slices*: of each
///      warp's depth a block backward, half of one forward. Every other slice, kResident of them,
///      is in shared memory for good; the rest come through a ring, some slices ahead.
///   2. The warps leave their sums in shared memory, where the ring is: by now it is empty. They
///      do so in rounds, up to 3 mma's at once.
///   3. Each warp adds up the sums of 8 units, of a tile or two, finishes them and publishes their
///      operands. Once all have read the sums, the ring fills for the next step.
///
/// The first operands of a step are asked for at the end of the last one, before its fence. That a
/// reset comes before the next poll holds all the same: that poll is two steps after the last of
/// the fences that it needs.
///
/// A block computes 8 kEights units. What an mma gives for two neighbouring units, in each gate
/// forward, is a row of its lanes': these *pairs* are dealt to the mma's eight at a time, and the
/// last mma may be half empty.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// The way of R's slices to the warps. Every other one is resident, as long as there is room; the
/// rest come through a ring, copied by a warp of their own. They come through shared memory, since
/// registers can be loaded ahead only so far: the compiler has a thread that waits for one load in
/// a loop wait for all that are under way.
template <typename Shape>
class StreamedWeights {
 public:
  __device__ explicit StreamedWeights(GridBlock<Shape> const& block)
      : from_{reinterpret_cast<std::byte const*>(block.work.packed_weights)},
        slices_{Shape::packed_order(block.work.ranks, block.work.steps.hidden).depth * 2 /
                Shape::kDeep},
        resident_{block.shared_at(0)},
        ring_{block.shared_at(block.layout.sums)},
        barriers_{block.shared_at(block.layout.barriers + 64)} {
    from_ += std::int64_t{block.rank} * slices_ * Shape::kSlice;
  }

  /// For one thread, before the block meets.
  __device__ void init_barriers() const {
    for (int i = 0; i < Shape::kRing; ++i) {
      ptx::init_barrier(full(i));
      ptx::init_barrier(empty(i), Shape::kWarps);
    }
    ptx::init_barrier(loaded());
    ptx::init_barrier(sums_read(), Shape::kWarps);
    ptx::fence_barriers();
  }

  /// The life of the thread that copies.
  __device__ void copy_slices(int steps) const {
    int const resident = min(slices_ / 2, Shape::kResident);
    ptx::expect_bytes(loaded(), resident * Shape::kSlice);
    for (int j = 0; j < resident; ++j) {
      ptx::copy_bulk(resident_ + j * Shape::kSlice, slice(2 * j + 1), Shape::kSlice, loaded());
    }
    int slot = 0;
    std::uint32_t parity = 1;  // the ring is empty
#pragma unroll 1
    for (int i = 0; i < steps; ++i) {
      if (i > 0) ptx::wait(sums_read(), (i - 1) & 1);
#pragma unroll 1
      for (int number = 0; number < slices_; number += number < 2 * resident ? 2 : 1) {
        ptx::wait(empty(slot), parity);
        ptx::expect_bytes(full(slot), Shape::kSlice);
        ptx::copy_bulk(ring_ + slot * Shape::kSlice, slice(number), Shape::kSlice, full(slot));
        if (++slot == Shape::kRing) {
          slot = 0;
          parity ^= 1;
        }
      }
    }
  }

  __device__ void wait_for_resident() const {
    ptx::wait(loaded(), 0);
  }

  __device__ int count() const {
    return slices_;
  }
  /// Where the next slice is, once it is there; beyond the last, one that is.
  __device__ std::uint32_t take(int number) {
    if (!is_in_ring(number)) {
      return resident_ + min(number / 2, Shape::kResident - 1) * Shape::kSlice;
    }
    ptx::wait(full(slot_), parity_);
    std::uint32_t const at = ring_ + slot_ * Shape::kSlice;
    if (++slot_ == Shape::kRing) {
      slot_ = 0;
      parity_ ^= 1;
    }
    return at;
  }
  /// Says that the warp has read a slice; its successor was taken.
  __device__ void give_back(int number) {
    if (!is_in_ring(number)) return;
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::arrive(empty(given_));
    given_ = given_ + 1 == Shape::kRing ? 0 : given_ + 1;
  }
  /// Says that the warp has read the sums, so that the ring may fill.
  __device__ void release_sums() const {
    ptx::fence_copies();
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::arrive(sums_read());
  }

 private:
  __device__ bool is_in_ring(int number) const {
    return number < slices_ && (number % 2 == 0 || number / 2 >= Shape::kResident);
  }
  __device__ std::byte const* slice(int number) const {
    return from_ + std::int64_t{number} * Shape::kSlice;
  }
  __device__ std::uint32_t full(int slot) const {
    return barriers_ + slot * 16;
  }
  __device__ std::uint32_t empty(int slot) const {
    return barriers_ + slot * 16 + 8;
  }
  __device__ std::uint32_t loaded() const {
    return barriers_ + Shape::kRing * 16;
  }
  __device__ std::uint32_t sums_read() const {
    return barriers_ + Shape::kRing * 16 + 8;
  }

  std::byte const* from_;
  int slices_;
  std::uint32_t resident_;
  std::uint32_t ring_;
  std::uint32_t barriers_;
  int slot_ = 0;  // of the slice to be taken next
  std::uint32_t parity_ = 0;
  int given_ = 0;  // slot of the one to be given back next
};

/// A warp's product with its part of R, for the tiles of its group.
template <typename Shape>
class StreamedProduct {
 public:
  using T = typename Shape::Value;

  __device__ StreamedProduct(GridBlock<Shape> const& block, StreamedWeights<Shape>& weights)
      : block_{block},
        weights_{weights},
        blocks_{weights.count() * Shape::kDeep / 2},
        lane_{static_cast<int>(threadIdx.x) % 32} {
    int const warp = static_cast<int>(threadIdx.x) / 32;
    sums_at_ = block.shared_at(block.layout.sums + warp * Shape::kWarpSums + lane_ * 8);
    weights_at_ = warp * Shape::kDeep * Shape::kMma + lane_ * 16;
    TileSpan const span = block.tiles();
#pragma unroll
    for (int t = 0; t < Shape::kTiles; ++t) {
      // Of a row beyond the batch the last row's, of a tile that the group has not its first row's:
      // what comes of them is not used.
      bool const is_tile = t < block.work.tiles;
      int const rows = is_tile ? max(block.work.steps.batch - span.place(t, 0), 1) : 1;
      place_[t] = (is_tile ? t : 0) * Shape::kTile + warp * blocks_ * 512 +
                  min(lane_ / 4, rows - 1) * 64 + lane_ % 4 * 16;
    }
  }

  /// Asks for the first operands of the chunk's i-th step.
  __device__ void begin(int i) {
    operands_ = block_.operands(i, 0);
    ask(batches_[0], 0);
  }

  /// Forms the sums of the step that was begun; false where a wait expires, or has.
  __device__ bool multiply() {
#pragma unroll
    for (int t = 0; t < Shape::kTiles; ++t) {
#pragma unroll
      for (int m = 0; m < Shape::kHeight; ++m) {
#pragma unroll
        for (float& sum : sums_[t][m]) sum = 0;
      }
    }
    Slice slices[2];
    load(slices[0], 0);
#pragma unroll 1
    for (int first = 0; first < blocks_; first += 2 * Shape::kBatch) {
      multiply_batch<0>(first, batches_[0], batches_[1], slices);
      if (first + Shape::kBatch < blocks_) {
        multiply_batch<Shape::kBatch>(first + Shape::kBatch, batches_[1], batches_[0], slices);
      }
    }
    return is_whole_;
  }

  /// Leaves the sums of a round for the warps that add them up.
  __device__ void leave(int round) const {
#pragma unroll
    for (int m = 0; m < Shape::kHeight; ++m) {
      if (m / Shape::kRoundHeight != round) continue;
#pragma unroll
      for (int t = 0; t < Shape::kTiles; ++t) {
        std::uint32_t const at = sums_at_ + (m % Shape::kRoundHeight * Shape::kTiles + t) * 512;
        ptx::store_shared_pair(at, sums_[t][m][0], sums_[t][m][2]);
        ptx::store_shared_pair(at + 256, sums_[t][m][1], sums_[t][m][3]);
      }
    }
  }

 private:
  /// The operands of some depth blocks.
  struct Batch {
    ptx::Words4 words[Shape::kBatch * Shape::kTiles];
  };

  /// A lane's part of a slice.
  struct Slice {
    ptx::Words4 r[Shape::kDeep][Shape::kHeight];
  };

  /// Multiplies the depth blocks of a batch, from the first one on; meanwhile the next batch is on
  /// its way. kBefore: blocks before it in a pair of batches. slices[0] holds the first slice.
  template <int kBefore>
  __device__ __forceinline__ void multiply_batch(int first, Batch& batch, Batch& next,
                                                 Slice (&slices)[2]) {
    constexpr int kHalves = 2 / Shape::kDeep;  // slices of a depth block
    receive(batch, first);
    if (first + Shape::kBatch < blocks_) ask(next, first + Shape::kBatch);
#pragma unroll
    for (int d = 0; d < Shape::kBatch; ++d) {
      if (first + d >= blocks_) break;
#pragma unroll
      for (int i = 0; i < kHalves; ++i) {
        int const parity = ((kBefore + d) * kHalves + i) % 2;
        int const number = (first + d) * kHalves + i;
        load(slices[parity ^ 1], number + 1);
        add(batch.words + d * Shape::kTiles, i, slices[parity]);
        weights_.give_back(number);
      }
    }
  }

  __device__ void load(Slice& slice, int number) {
    std::uint32_t const from = weights_.take(number) + weights_at_;
#pragma unroll
    for (int deep = 0; deep < Shape::kDeep; ++deep) {
#pragma unroll
      for (int m = 0; m < Shape::kHeight; ++m) {
        // Of the last mma, where it is half empty, the upper half of the lanes take what the lower
        // ones do: their sums are not used.
        int const back = m * 8 + 4 == Shape::kPairs ? lane_ & 16 : 0;
        slice.r[deep][m] = ptx::load_shared_16(from + deep * Shape::kMma + m * 512 - back * 16);
      }
    }
  }

  /// Adds what a slice gives, which begins at the first or second half of a depth block.
  __device__ void add(ptx::Words4 const* words, int half, Slice const& slice) {
#pragma unroll
    for (int deep = 0; deep < Shape::kDeep; ++deep) {
      bool const second = half + deep == 1;
#pragma unroll
      for (int t = 0; t < Shape::kTiles; ++t) {
#pragma unroll
        for (int m = 0; m < Shape::kHeight; ++m) {
          ptx::multiply_add<T>(sums_[t][m], slice.r[deep][m], second ? words[t].z : words[t].x,
                               second ? words[t].w : words[t].y);
        }
      }
    }
  }

  /// Loads a batch, published or not. Beyond the last depth block it is that block again.
  __device__ void ask(Batch& batch, int first) const {
#pragma unroll
    for (int d = 0; d < Shape::kBatch; ++d) {
      std::byte const* const from = operands_ + min(first + d, blocks_ - 1) * 512;
#pragma unroll
      for (int t = 0; t < Shape::kTiles; ++t) {
        batch.words[d * Shape::kTiles + t] = ptx::load_relaxed_16(from + place_[t]);
      }
    }
  }

  /// Waits until no word of it is missing.
  __device__ void receive(Batch& batch, int first) {
    std::uint32_t polls = 0;
    while (is_whole_ && __any_sync(0xffffffffu, is_missing(batch.words))) {
      is_whole_ = ++polls <= block_.work.steps.most_polls;
      ask(batch, first);
    }
  }

  GridBlock<Shape> const& block_;
  StreamedWeights<Shape>& weights_;
  int blocks_;  // of the warp's depth
  int lane_;
  std::uint32_t sums_at_;
  std::uint32_t weights_at_;  // where the lane's are in a slice
  int place_[Shape::kTiles];  // of the lane's words among the operands of a step
  std::byte const* operands_ = nullptr;
  bool is_whole_ = true;
  Batch batches_[2];
  float sums_[Shape::kTiles][Shape::kHeight][4];
};

/// What a lane finishes: two neighbouring units of a row in a tile or two.
template <typename Shape>
struct StreamedPlace {
  int warp = static_cast<int>(threadIdx.x) / 32;
  int lane = static_cast<int>(threadIdx.x) % 32;
  int eight = warp * Shape::kEights / Shape::kWarps;  // of the block's units
  int set = warp - first_warp(eight);                 // of the group's tiles
  int sets = first_warp(eight + 1) - first_warp(eight);
  int pair = lane % 4;
  int tile_row = lane / 4;
  int unit;  // and the next one
  TileSpan tiles;
  int words;  // where its words begin among the operands of the group's first tile

  __device__ explicit StreamedPlace(GridBlock<Shape> const& block)
      : unit{block.rank * Shape::kBlockUnits + 8 * eight + 2 * pair},
        tiles{block.tiles().of_set(set, sets)},
        words{set * Shape::kTile + Shape::operand_offset(unit, tile_row)} {}

  /// From a tile of the lane's to the next, in bytes of the exchange.
  __device__ int tile_stride() const { return sets * Shape::kTile; }
  /// The round in which its sums are left.
  __device__ int round() const { return eight * 4 * Shape::kUnitSums / (8 * Shape::kRoundHeight); }

  /// Adds up what the warps left for the lane's k-th tile.
  __device__ void add_up(GridBlock<Shape> const& block, int k,
                         float (&totals)[Shape::kUnitSums][2]) const {
    std::uint32_t const sums = block.shared_at(block.layout.sums) + (set + k * sets) * 512 +
                               tile_row % 2 * 256 + tile_row / 2 * 8;
#pragma unroll
    for (int gate = 0; gate < Shape::kUnitSums; ++gate) {
      int const row = (eight * Shape::kUnitSums + gate) * 4 + pair;
      std::uint32_t const from =
          sums + row / 8 % Shape::kRoundHeight * Shape::kTiles * 512 + row % 8 * 32;
      float2 parts[Shape::kWarps];
#pragma unroll
      for (int part = 0; part < Shape::kWarps; ++part) {
        parts[part] = ptx::load_shared_pair(from + part * Shape::kWarpSums);
      }
#pragma unroll
      for (int distance = 1; distance < Shape::kWarps; distance *= 2) {
#pragma unroll
        for (int part = 0; part < Shape::kWarps; part += 2 * distance) {
          parts[part].x += parts[part + distance].x;
          parts[part].y += parts[part + distance].y;
        }
      }
      totals[gate][0] = parts[0].x;
      totals[gate][1] = parts[0].y;
    }
  }

 private:
  __device__ static int first_warp(int eight) {
    return (eight * Shape::kWarps + Shape::kEights - 1) / Shape::kEights;
  }
};

/// Lets the warps meet, leave their sums and add up those of their units and tiles.
template <typename Shape>
__device__ void exchange_sums(GridBlock<Shape> const& block, StreamedPlace<Shape> const& place,
                              StreamedProduct<Shape> const& product,
                              float (&sums)[Shape::kLaneTiles][Shape::kUnitSums][2]) {
#pragma unroll
  for (int round = 0; round < Shape::kRounds; ++round) {
    ptx::meet(1, Shape::kLanes);
    product.leave(round);
    ptx::meet(1, Shape::kLanes);
    if (place.round() == round) {
#pragma unroll
      for (int k = 0; k < Shape::kLaneTiles; ++k) place.add_up(block, k, sums[k]);
    }
  }
}

/// The life of a block, whose 8 warps do `do_steps`, while a thread copies R.
template <typename Shape, typename DoSteps>
__device__ void run_streamed_block(GridBlock<Shape> const& block, DoSteps const& do_steps) {
  StreamedWeights<Shape> weights{block};
  if (threadIdx.x == 0) {
    weights.init_barriers();
    block.expired() = 0;
  }
  __syncthreads();
  if (threadIdx.x >= Shape::kLanes) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    ptx::give_registers<Shape::kCopyingRegisters>();
#endif
    if (threadIdx.x == Shape::kLanes) weights.copy_slices(block.work.steps.steps);
    return;
  }
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  ptx::take_registers<Shape::kRegisters>();
#endif
  do_steps(block, weights);
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
