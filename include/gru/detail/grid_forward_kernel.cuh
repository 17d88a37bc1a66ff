// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include <gru/detail/device.cuh>
#include <gru/detail/ptx.cuh>
#include <gru/detail/recurrence.cuh>
#include <gru/detail/stepwise_kernels.cuh>
#include <gru/detail/tensor_core.cuh>

/// The recurrence in one kernel: groups of thread blocks, each of which keeps one copy of R in the
/// registers and shared memory of its blocks and carries some rows of the batch through all steps.
/// The blocks of a group hand the state to each other through the L2 cache; groups never talk.
///
/// Words, beside those of tensor_core.cuh. A *rank* is a block's number in its group; it computes
/// 16 or 32 units. An *operand* is the state as it multiplies R. A *word* is 4 bytes of operands.
///
/// A block has 8 product warps, which divide the depth among them, and 4 finishing warps.
/// One step of one tile:
///   1. each product warp polls for the operands of its part of the depth, all units of the layer
///      taken together by the 8 warps;
///   2. multiplies them with its part of R, for all units of the block;
///   3. and leaves its sums in shared memory, in one of two buffers.
///   4. The finishing warps add the 8 sums; each lane finishes 2 neighbouring units of one row;
///   5. publishes their operands,
///   6. and writes the outputs, while the product warps wait for the next tile or step.
///
/// The exchange. Operands lie in the order in which product lanes load them, 16 bytes a lane and
/// depth block, in a ring of kSlots slots, one for each step. There are no flags: a word that was
/// not published yet holds kNothing, a pattern that no operand has, so that the word itself is
/// polled.
///   Who has received all operands of step i knows that all blocks of the group have finished step
/// i - 1, and so that everyone has read what was published for it. In step i each finishing lane
/// therefore sets the words that it published for step i - 1 back to kNothing. They are polled
/// again in step i - 1 + kSlots.
///   Words are written and read by relaxed operations, which order nothing but one word. That a
/// word's reset comes before its next poll follows from fences that every warp executes in each
/// kFenceSteps-th step: reset in step i; fence, in step i + 7 at the latest; a word published after
/// that by the same lane, for step i + 9 at the latest; read by the lane that will poll; its fence,
/// in step i + 16 at the latest; poll for step i - 1 + kSlots, after step i + 18.
///
/// Waits. All blocks must be resident at once. A poll that goes on for too long sets the status and
/// ends, all later ones of the warp end at once, and the block publishes NaN from there on, so that
/// all barriers are met and every block comes to its end.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

inline constexpr int kSlots = 20;                       // of the exchange
inline constexpr int kFenceSteps = 8;                   // from fence to fence
inline constexpr std::uint32_t kNothing = 0xffffffffu;  // a word not published yet

/// Where things lie in a block's shared memory, and its size, in bytes.
struct GridLayout {
  int sums;      // of the product warps, after their part of R
  int barriers;  // and the mark of a wait that expired
  int inputs;
  int states;
  int bytes;
};

/// How a layer is spread over a group of blocks. H is padded to kDepth depth blocks a warp.
///
/// The finishing warps of a tile are a *set*: 2 warps for 16 units, 4 for 32. There are 4 finishing
/// warps, so that for 16 units a second set takes the odd tiles.
template <typename T, Multiplication multiplication, int kGroups_, int kDepth_>
struct GridShape {
  using Value = T;
  static constexpr Multiplication kMultiplication = multiplication;
  static constexpr int kGroups = kGroups_;  // of 16 units a block
  static constexpr int kDepth = kDepth_;    // depth blocks of a product warp
  static constexpr int kProductWarps = 8;
  static constexpr int kSetWarps = 2 * kGroups;
  static constexpr int kSets = 2 / kGroups;
  static constexpr int kThreads = 32 * (kProductWarps + kSets * kSetWarps);
  static constexpr int kGates = 3 * kGroups;  // mma's side by side
  static constexpr int kBlockUnits = kGroups * kGroupUnits;
  static constexpr int kUnits = kProductWarps * kDepth * kDepthBlock<T>;  // H, padded

  static constexpr int kReceived = kDepth <= 8 ? kDepth : 6;  // depth blocks received together
  static_assert(kDepth % kReceived == 0, "the depth is received in equal parts");

  // How many of a warp's depth blocks have their part of R in registers: as many as `registers`
  // hold beside the operands and the sums, and at least what shared memory has no room for. The
  // rest is in shared memory. In builds for sm_90a the product warps have more registers, since
  // they take some from the finishing warps.
  GRU_HOST_DEVICE static constexpr int depth_in_registers(int registers) {
    constexpr int kSumRegisters = (multiplication == Multiplication::kSplit ? 8 : 4) * kGates;
    constexpr int kMostInShared = 7 / kGroups;
    int depth = (registers - 4 * kReceived - kSumRegisters) / (8 * kGates);
    if (depth < kDepth - kMostInShared) depth = kDepth - kMostInShared;
    return depth < kDepth ? depth : kDepth;
  }
  static constexpr int kMostSharedDepth = kDepth - depth_in_registers(148);
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  static constexpr int kSharedDepth = kDepth - depth_in_registers(188);
#else
  static constexpr int kSharedDepth = kMostSharedDepth;
#endif

  // Bytes.
  static constexpr int kTile = kProductWarps * kDepth * 512;  // the operands of a tile
  static constexpr int kWarpSums = kGates * 512;
  static constexpr int kSums = kProductWarps * kWarpSums;     // one buffer
  static constexpr int kWarpWeights = kGates * 1024;          // of a depth block
  static constexpr int kStates = 32 * kSetWarps * kSets * 8;  // of a tile of each set

  using Inputs = InputRing<T, 2, 32 * kSetWarps * kSets, kTileRows * kSets>;

  /// The most tiles of one set.
  GRU_HOST_DEVICE static constexpr int lane_tiles(int tiles) {
    return (tiles + kSets - 1) / kSets;
  }

  GRU_HOST_DEVICE static constexpr GridLayout layout(int tiles) {
    GridLayout layout = {};
    layout.sums = kProductWarps * kMostSharedDepth * kWarpWeights;
    layout.barriers = layout.sums + 2 * kSums;
    layout.inputs = layout.barriers + 64;
    layout.states = layout.inputs + Inputs::shared_bytes(lane_tiles(tiles));
    layout.bytes = layout.states + lane_tiles(tiles) * kStates;
    return layout;
  }

  GRU_HOST_DEVICE static PackedOrder packed_order(int ranks) {
    return {ranks, kProductWarps, kProductWarps, kDepth, kGroups};
  }
};

/// A word of operands that is not kNothing, although it may hold NaN.
__device__ inline std::uint32_t publishable(std::uint32_t word) {
  return word == kNothing ? 0x7fff7fffu : word;  // NaN in every type
}
__device__ inline uint2 publishable(uint2 words) {
  return {publishable(words.x), publishable(words.y)};
}

/// What a launch of the kernel does: some tiles of the batch, for the steps of a chunk.
template <typename T>
struct GridForward {
  RecurrentForward<T> steps;
  T const* packed_weights = nullptr;
  std::byte* exchange = nullptr;  // [kSlots, groups * tiles, tile]
  int ranks = 0;                  // blocks of a group
  int groups = 0;
  int tiles = 0;       // of a group
  int first_tile = 0;  // of the launch
};

/// Fills the exchange: the first step's operands in the first slot, nothing in the others, and
/// zeros for the units that no block computes.
template <typename Shape>
GRU_KERNEL void start_exchange_kernel(GridForward<typename Shape::Value> pass) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  using T = typename Shape::Value;
  constexpr int kPerWord = 4 / static_cast<int>(sizeof(T));
  constexpr int kTileWords = Shape::kTile / 4;
  std::int64_t const tiles = std::int64_t{pass.groups} * pass.tiles;
  std::int64_t const index = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index >= kSlots * tiles * kTileWords) return;
  int const place = static_cast<int>(index % kTileWords);
  std::int64_t const tile = index / kTileWords % tiles;
  bool const is_first = index / kTileWords < tiles;
  int const unit = (place / 128 * 16 + place % 16) * kPerWord;
  std::int64_t const n = (pass.first_tile + tile) * kTileRows + place / 16 % kTileRows;
  std::uint32_t word = 0;
  if (is_first) {
    T values[kPerWord];
    for (int e = 0; e < kPerWord; ++e) {
      bool const inside = n < pass.steps.batch && unit + e < pass.steps.hidden;
      std::int64_t const at = n * pass.steps.hidden + unit + e;
      values[e] = operand_value<T, Shape::kMultiplication>(
          inside ? convert<float>(pass.steps.operand[at]) : 0.0f);
    }
    memcpy(&word, values, sizeof word);
    word = publishable(word);
  } else if (unit < pass.ranks * Shape::kBlockUnits) {
    word = kNothing;
  }
  reinterpret_cast<std::uint32_t*>(pass.exchange)[index] = word;
#endif
}

/// What the two kinds of warps of a block share.
template <typename Shape>
struct GridBlock {
  using T = typename Shape::Value;

  GridForward<T> const& pass;
  std::byte* shared;
  GridLayout layout;
  int group;
  int rank;

  __device__ GridBlock(GridForward<T> const& p, std::byte* shared_memory)
      : pass{p},
        shared{shared_memory},
        layout{Shape::layout(p.tiles)},
        group{static_cast<int>(blockIdx.x) / p.ranks},
        rank{static_cast<int>(blockIdx.x) % p.ranks} {}

  __device__ std::uint32_t shared_at(int offset) const {
    return ptx::shared_address(shared) + offset;
  }
  /// Completed when the product warps have left the sums in this buffer.
  __device__ std::uint32_t full(std::uint32_t buffer) const {
    return shared_at(layout.barriers) + buffer * 8;
  }
  /// Completed when the finishing warps have read them.
  __device__ std::uint32_t empty(std::uint32_t buffer) const {
    return shared_at(layout.barriers) + 16 + buffer * 8;
  }
  /// Whether a wait of the block has expired.
  __device__ int volatile& expired() const {
    return *reinterpret_cast<int volatile*>(shared + layout.barriers + 32);
  }
  /// The first row of a tile of the group.
  __device__ int first_row(int tile) const {
    return (pass.first_tile + group * pass.tiles + tile) * kTileRows;
  }
  /// The operands of a tile of the group for the chunk's i-th step.
  __device__ std::byte* operands(int i, int tile) const {
    std::int64_t const row = std::int64_t{i % kSlots} * pass.groups + group;
    return pass.exchange + (row * pass.tiles + tile) * Shape::kTile;
  }
};

/// The buffers of sums in the order in which a warp uses them, and the parity of their uses. Sets
/// have a buffer each; where there is one set, it uses them in turns.
template <int kSets>
struct BufferTurns {
  std::uint32_t buffer = 0;
  std::uint32_t parities = 0;

  __device__ void choose(int tile) {
    if constexpr (kSets == 2) buffer = tile & 1;
  }
  __device__ std::uint32_t parity() const { return parities >> buffer & 1; }
  __device__ void advance() {
    parities ^= 1u << buffer;
    if constexpr (kSets == 1) buffer ^= 1;
  }
};

/// Walks over the tiles of a group, step by step: a tile's number, its operands, and how many rows
/// of the batch there are from its first on.
template <typename Shape>
class TileCursor {
 public:
  template <typename T>
  __device__ TileCursor(GridForward<T> const& pass, int group)
      : tiles_{pass.tiles},
        rows_of_group_{pass.steps.batch - (pass.first_tile + group * pass.tiles) * kTileRows},
        slot_bytes_{pass.groups * pass.tiles * Shape::kTile},
        at_{pass.exchange + group * pass.tiles * Shape::kTile},
        rows_{rows_of_group_} {}

  __device__ int tile() const { return tile_; }
  __device__ int rows() const { return rows_; }
  __device__ std::byte* operands() const { return at_; }

  /// Goes on; true where the tile was the step's last.
  __device__ bool advance() {
    at_ += Shape::kTile;
    rows_ -= kTileRows;
    if (++tile_ < tiles_) return false;
    tile_ = 0;
    rows_ = rows_of_group_;
    at_ += slot_bytes_ - tiles_ * Shape::kTile;
    if (++slot_ == kSlots) {
      slot_ = 0;
      at_ -= kSlots * slot_bytes_;
    }
    return true;
  }

 private:
  int tiles_;
  int rows_of_group_;
  int slot_bytes_;
  std::byte* at_;
  int rows_;
  int tile_ = 0;
  int slot_ = 0;
};

/// Whether any word was not published yet: the greatest tells.
template <int kCount>
__device__ bool is_missing(ptx::Words4 const (&words)[kCount]) {
  std::uint32_t greatest[kCount];
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    greatest[j] = max(max(words[j].x, words[j].y), max(words[j].z, words[j].w));
  }
#pragma unroll
  for (int distance = 1; distance < kCount; distance *= 2) {
#pragma unroll
    for (int j = 0; j + distance < kCount; j += 2 * distance) {
      greatest[j] = max(greatest[j], greatest[j + distance]);
    }
  }
  return greatest[0] == kNothing;
}

/// Waits until none of the lane's words is missing; false where the wait expires. A lane whose row
/// is beyond the batch has no words.
template <int kCount>
__device__ bool receive(ptx::Words4 (&words)[kCount], std::byte const* from,
                        std::uint32_t most_polls) {
  std::uint32_t polls = 0;
  while (__any_sync(0xffffffffu, is_missing(words))) {
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      ptx::Words4 const& w = words[j];
      if (max(max(w.x, w.y), max(w.z, w.w)) == kNothing) {
        words[j] = ptx::load_relaxed_16(from + j * 512);
      }
    }
    if (++polls > most_polls) return false;
  }
  return true;
}

/// The sums of a product warp. 3xTF32 keeps those of the small products apart, so that fewer mma's
/// wait for each other.
template <typename T, Multiplication multiplication, int kCount>
class Sums {
 public:
  /// Adds R's fragments r times the operand's words b0, b1.
  __device__ void add(ptx::Words4 const (&r)[kCount], std::uint32_t b0, std::uint32_t b1) {
#pragma unroll
    for (int m = 0; m < kCount; ++m) ptx::multiply_add<T>(sums_[m], r[m], b0, b1);
    if constexpr (kIsSplit) {
      // What a TF32 operand's low 13 bits hold is ignored.
      std::uint32_t const rest0 = ptx::tf32_rest(b0);
      std::uint32_t const rest1 = ptx::tf32_rest(b1);
#pragma unroll
      for (int m = 0; m < kCount; ++m) ptx::multiply_add<T>(small_[m], r[m], rest0, rest1);
#pragma unroll
      for (int m = 0; m < kCount; ++m) {
        ptx::Words4 const rest = {ptx::tf32_rest(r[m].x), ptx::tf32_rest(r[m].y),
                                  ptx::tf32_rest(r[m].z), ptx::tf32_rest(r[m].w)};
        ptx::multiply_add<T>(small_[m], rest, b0, b1);
      }
    }
  }

  __device__ float get(int m, int value) const {
    if constexpr (kIsSplit) return sums_[m][value] + small_[m][value];
    return sums_[m][value];
  }

 private:
  static constexpr bool kIsSplit = multiplication == Multiplication::kSplit;

  float sums_[kCount][4] = {};
  float small_[kIsSplit ? kCount : 1][4] = {};
};

/// The life of a product warp.
template <typename Shape>
__device__ void multiply_steps(GridBlock<Shape> const& block) {
  using T = typename Shape::Value;
  constexpr int kDepth = Shape::kDepth;
  constexpr int kGates = Shape::kGates;
  constexpr int kSharedDepth = Shape::kSharedDepth;
  constexpr int kInRegisters = kDepth - kSharedDepth;
  GridForward<T> const& pass = block.pass;
  int const warp = static_cast<int>(threadIdx.x) / 32;
  int const lane = static_cast<int>(threadIdx.x) % 32;
  int const steps = pass.steps.steps;

  // This warp's part of R.
  ptx::Words4 weights[kInRegisters][kGates][2];
  int const my_weights = warp * kSharedDepth * Shape::kWarpWeights + lane * 16;
  {
    PackedOrder const order = Shape::packed_order(pass.ranks);
    auto const* const packed = reinterpret_cast<uint4 const*>(pass.packed_weights) + lane;
#pragma unroll
    for (int j = 0; j < kDepth; ++j) {
#pragma unroll
      for (int m = 0; m < kGates; ++m) {
#pragma unroll
        for (int second = 0; second < 2; ++second) {
          uint4 const v = packed[order.fragment(block.rank, warp, j, m, second)];
          if (j < kInRegisters) {
            weights[j][m][second] = {v.x, v.y, v.z, v.w};
          } else {
            int const at = (j - kInRegisters) * Shape::kWarpWeights + (m * 2 + second) * 512;
            *reinterpret_cast<uint4*>(block.shared + my_weights + at) = v;
          }
        }
      }
    }
  }

  bool expired = false;
  TileCursor<Shape> cursor{pass, block.group};
  BufferTurns<Shape::kSets> turns;
  std::uint32_t const my_sums =
      block.shared_at(block.layout.sums) + warp * Shape::kWarpSums + lane * 8;
#pragma unroll 1
  for (int i = 0; i < steps; ++i) {
    bool is_last = false;
#pragma unroll 1
    while (!is_last) {
      turns.choose(cursor.tile());
      std::byte const* const from = cursor.operands() + warp * kDepth * 512 + lane * 16;
      bool const is_row = lane / 4 < cursor.rows();
      is_last = cursor.advance();

      Sums<T, Shape::kMultiplication, kGates> sums;
#pragma unroll
      for (int first = 0; first < kDepth; first += Shape::kReceived) {
        // 1. Receive.
        ptx::Words4 operands[Shape::kReceived] = {};
        if (is_row) {
#pragma unroll
          for (int k = 0; k < Shape::kReceived; ++k) {
            operands[k] = ptx::load_relaxed_16(from + (first + k) * 512);
          }
        }
        if (first == 0) ptx::wait(block.empty(turns.buffer), turns.parity() ^ 1);
        if (!expired && !receive(operands, from + first * 512, pass.steps.most_polls)) {
          expired = true;
          block.expired() = 1;
          pass.steps.expire();
        }

        // 2. Multiply.
#pragma unroll
        for (int k = 0; k < Shape::kReceived; ++k) {
          int const j = first + k;
#pragma unroll
          for (int second = 0; second < 2; ++second) {
            ptx::Words4 r[kGates];
#pragma unroll
            for (int m = 0; m < kGates; ++m) {
              int const at = (j - kInRegisters) * Shape::kWarpWeights + (m * 2 + second) * 512;
              r[m] = j < kInRegisters ? weights[j < kInRegisters ? j : 0][m][second]
                                      : ptx::load_shared_16(block.shared_at(my_weights + at));
            }
            ptx::Words4 const& o = operands[k];
            sums.add(r, second == 0 ? o.x : o.z, second == 0 ? o.y : o.w);
          }
        }
      }

      // 3. Leave the sums: rows 2 q, then rows 2 q + 1.
      std::uint32_t const to = my_sums + turns.buffer * Shape::kSums;
#pragma unroll
      for (int m = 0; m < kGates; ++m) {
        ptx::store_shared_pair(to + m * 512, sums.get(m, 0), sums.get(m, 2));
        ptx::store_shared_pair(to + m * 512 + 256, sums.get(m, 1), sums.get(m, 3));
      }
      __syncwarp();
      if (lane == 0) ptx::arrive(block.full(turns.buffer));
      turns.advance();
    }
    if (i % kFenceSteps == 0) ptx::fence_device();
  }
}

/// The life of a finishing warp.
template <typename Shape>
__device__ void finish_steps(GridBlock<Shape> const& block) {
  using T = typename Shape::Value;
  GridForward<T> const& pass = block.pass;
  int const index = static_cast<int>(threadIdx.x) - 32 * Shape::kProductWarps;
  int const set = index / 32 / Shape::kSetWarps;
  int const warp = index / 32 % Shape::kSetWarps;
  int const lane = index % 32;
  int const steps = pass.steps.steps;
  int const tiles = pass.tiles;
  int const lane_tiles = (tiles - set + Shape::kSets - 1) / Shape::kSets;
  int const unit = block.rank * Shape::kBlockUnits + warp / 2 * kGroupUnits + lane / 4 * 2;
  int const tile_row = lane % 4 * 2 + warp % 2;
  int const first_row = block.first_row(set) + tile_row;

  typename Shape::Inputs inputs{pass.steps, block.shared + block.layout.inputs, index, first_row,
                                lane_tiles, Shape::lane_tiles(tiles),           unit};
  inputs.fetch(Shape::Inputs::kStages - 1);
  ForwardLane<T, 2, kTileRows * Shape::kSets, CellValue<T>> finisher{pass.steps, first_row, unit};
  std::uint32_t const states = block.shared_at(block.layout.states) + index * 8;
  for (int k = 0; k < lane_tiles; ++k) {
    float state[2];
    finisher.load(k, state);
    ptx::store_shared_pair(states + k * Shape::kStates, state[0], state[1]);
  }

  std::uint32_t const my_sums =
      block.shared_at(block.layout.sums) + warp / 2 * 3 * 512 + warp % 2 * 256 + lane * 8;
  int const my_words = set * Shape::kTile + unit / kDepthBlock<T> * 512 + tile_row * 64 +
                       unit % kDepthBlock<T> * static_cast<int>(sizeof(T));
  BufferTurns<Shape::kSets> turns;
  turns.choose(set);
#pragma unroll 1
  for (int i = 0; i < steps; ++i) {
    std::byte* next = block.operands(i + 1, 0) + my_words;
    std::byte* past = block.operands(i + kSlots - 1, 0) + my_words;
    inputs.wait();
#pragma unroll 1
    for (int k = 0; k < lane_tiles; ++k) {
      StepInput<2> const input = inputs.read(i, k);
      float2 const kept = ptx::load_shared_pair(states + k * Shape::kStates);
      float state[2] = {kept.x, kept.y};

      ptx::wait(block.full(turns.buffer), turns.parity());
      float sums[3][2];
      std::uint32_t const from = my_sums + turns.buffer * Shape::kSums;
#pragma unroll
      for (int gate = 0; gate < 3; ++gate) {
        sums[gate][0] = sums[gate][1] = 0;
#pragma unroll
        for (int part = 0; part < Shape::kProductWarps; ++part) {
          float2 const v = ptx::load_shared_pair(from + part * Shape::kWarpSums + gate * 512);
          sums[gate][0] += v.x;
          sums[gate][1] += v.y;
        }
      }
      if (block.expired() != 0) finisher.poison();
      StepResult<2> const result = finisher.finish(sums, input, state);
      auto const words = operand_words<T, Shape::kMultiplication>(result.operand);
      bool const is_row = first_row + k * (kTileRows * Shape::kSets) < pass.steps.batch;
      if (is_row && i + 1 < steps) ptx::store_relaxed(next, publishable(words));
      __syncwarp();
      if (lane == 0) ptx::arrive(block.empty(turns.buffer));

      // The rest is done in the shadow of the exchange.
      std::remove_const_t<decltype(words)> nothing;
      memset(&nothing, 0xff, sizeof nothing);
      if (is_row) ptx::store_relaxed(past, nothing);
      finisher.write(result, input, k, state);
      if (i + 1 == steps) finisher.leave(result, k, state);
      ptx::store_shared_pair(states + k * Shape::kStates, state[0], state[1]);
      next += Shape::kSets * Shape::kTile;
      past += Shape::kSets * Shape::kTile;
      turns.advance();
    }
    if (i % kFenceSteps == 0) ptx::fence_device();
    finisher.advance();
    inputs.fetch(i + Shape::Inputs::kStages);
  }
}

/// Does the steps of a chunk for pass.groups * pass.tiles tiles, in groups * ranks blocks that must
/// all be resident at once.
template <typename Shape>
GRU_KERNEL void __launch_bounds__(Shape::kThreads, 1)
    grid_forward_kernel(__grid_constant__ GridForward<typename Shape::Value> const pass) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  extern __shared__ __align__(128) std::byte shared[];
  GridBlock<Shape> const block{pass, shared};
  if (threadIdx.x == 0) {
    for (std::uint32_t buffer = 0; buffer < 2; ++buffer) {
      ptx::init_barrier(block.full(buffer), Shape::kProductWarps);
      ptx::init_barrier(block.empty(buffer), Shape::kSetWarps);
    }
    block.expired() = 0;
  }
  __syncthreads();
  if (threadIdx.x < 32 * Shape::kProductWarps) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    ptx::take_registers<208>();
#endif
    multiply_steps(block);
  } else {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    ptx::give_registers<88>();
#endif
    finish_steps(block);
  }
#endif
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
