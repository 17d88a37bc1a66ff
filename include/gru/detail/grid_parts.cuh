// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include <gru/detail/device.cuh>
#include <gru/detail/grid_shape.cuh>
#include <gru/detail/ptx.cuh>
#include <gru/detail/recurrence.cuh>
#include <gru/detail/recurrence_backward.cuh>
#include <gru/detail/step_flags.cuh>
#include <gru/detail/stepwise_kernels.cuh>
#include <gru/detail/tensor_core.cuh>

/// What the grid kernels are made of: groups of thread blocks, each of which keeps one copy of R in
/// the registers and shared memory of its blocks and carries some rows of the batch through all
/// steps. The blocks of a group hand each other what multiplies R through the L2 cache; groups
/// never talk.
///
/// Words, beside those of tensor_core.cuh. A *rank* is a block's number in its group; it computes
/// 16 or 32 units. An *operand* is what multiplies R. Forward it is a unit's state, for three sums,
/// one a gate; backward there are three of a unit, its dq for each gate, which multiply R's
/// transpose for one sum. A *word* is 4 bytes of operands.
///
/// A block has 8 product warps, which divide the depth among them, and 4 finishing warps.
/// One step of one tile:
///   1. each product warp polls for the operands of its part of the depth, all units of the layer
///      taken together by the 8 warps; of the next tile they may be asked for *ahead*, while this
///      one is multiplied;
///   2. multiplies them with its part of R, for all units of the block;
///   3. and leaves its sums in shared memory, in one of two buffers.
///   4. The finishing warps add the 8 sums; each lane finishes 2 neighbouring units of one row;
///   5. publishes their operands,
///   6. and writes the outputs, while the product warps wait for the next tile or step.
///
/// The variant that resets before the product has two exchanges a step, each with its own operands,
/// slot and buffers of sums: all the same holds for it where "step" is read as "exchange". See
/// grid_reset_before_kernels.cuh.
///
/// Where operands are many, what L2 delivers bounds the step. Then two blocks are a *team*, a
/// cluster: each multiplies for the units of both, but receives half of the depth alone. It hands
/// its sums of the other's units over to the other's shared memory, so that a buffer gets those of
/// 16 warps.
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
/// in step i + 16 at the latest; poll for step i - 1 + kSlots, not before step i + 18.
///   Not every tile is active in every step; see tile_deal.cuh. Each has words of its own, and the
/// argument holds for each by itself: the steps in which it is active are contiguous, all blocks of
/// the group agree on them, and every warp goes through all steps, with its fences. In a tile's
/// last step nothing is published. A tile that begins late finds the operands of its first step in
/// the slot of that step, where they were put before the kernel; its other slots hold kNothing
/// until its lanes publish.
///
/// Waits. All blocks must be resident at once. A poll that goes on for too long sets the status and
/// ends, all later ones of the warp end at once, and the block publishes NaN from there on, so that
/// all barriers are met and every block comes to its end.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

inline constexpr int kSlots = 20;                       // of the exchange
inline constexpr int kFenceSteps = 8;                   // from fence to fence
inline constexpr std::uint32_t kNothing = 0xffffffffu;  // a word not published yet

/// A word of operands that is not kNothing, although it may hold NaN.
__device__ inline std::uint32_t publishable(std::uint32_t word) {
  return word == kNothing ? 0x7fff7fffu : word;  // NaN in every type
}
__device__ inline uint2 publishable(uint2 words) {
  return {publishable(words.x), publishable(words.y)};
}

/// Publishes a finishing lane's operands of two units.
template <typename Shape>
__device__ void publish(std::byte* to, float const (&operands)[2]) {
  auto const words = operand_words<typename Shape::Value, Shape::kMultiplication>(operands);
  ptx::store_relaxed(to, publishable(words));
}

/// Sets them back to kNothing.
template <typename Shape>
__device__ void withdraw(std::byte* from) {
  decltype(operand_words<typename Shape::Value, Shape::kMultiplication>({})) nothing;
  memset(&nothing, 0xff, sizeof nothing);
  ptx::store_relaxed(from, nothing);
}

/// The operand of the chunk's first step for a unit of a row; backward, of a gate.
template <typename T>
__device__ T first_operand(RecurrentForward<T> const& steps, std::int64_t n, int, int unit) {
  return steps.operand[n * steps.hidden + unit];
}
template <typename T>
__device__ T first_operand(RecurrentBackward<T> const& steps, std::int64_t n, int gate, int unit) {
  return steps.dq[(3 * n + steps.columns.position(gate)) * steps.hidden + unit];
}

/// Fills the exchange: the operands of each tile's first step in the slot of that step, nothing in
/// the others, and zeros for the units that no block computes and for rows beyond the batch.
template <typename Shape>
GRU_KERNEL void start_exchange_kernel(typename Shape::Work work) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  using T = typename Shape::Value;
  constexpr int kPerWord = 4 / static_cast<int>(sizeof(T));
  constexpr int kTileWords = Shape::kTile / 4;
  TileDeal const& deal = work.steps.deal;
  std::int64_t const tiles = std::int64_t{deal.groups} * work.tiles;
  std::int64_t const index = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index >= kSlots * tiles * kTileWords) return;
  int const place = static_cast<int>(index % kTileWords);
  int const slot = static_cast<int>(index / kTileWords / tiles);
  int const group_tile = static_cast<int>(index / kTileWords % tiles);
  TileSpan const span = deal.of_group(group_tile / work.tiles, work.tiles);
  int const tile = group_tile % work.tiles;
  int const first_step = work.steps.ascends() ? 0 : turning_step(work.steps, span.number(tile));
  int const block = place / 128;
  int const gate = block % Shape::kUnitOperands;
  int const unit = (block / Shape::kUnitOperands * 16 + place % 16) * kPerWord;
  int const row_place = span.place(tile, place / 16 % kTileRows);
  std::uint32_t word = 0;
  bool const is_row = row_place < work.steps.batch;
  if (slot == first_step % kSlots) {
    std::int64_t const n = is_row ? deal.row(row_place) : 0;
    T values[kPerWord];
    for (int e = 0; e < kPerWord; ++e) {
      bool const inside = is_row && unit + e < work.steps.hidden;
      values[e] = operand_value<T, Shape::kMultiplication>(
          inside ? convert<float>(first_operand(work.steps, n, gate, unit + e)) : 0.0f);
    }
    memcpy(&word, values, sizeof word);
    word = publishable(word);
  } else if (is_row && unit < work.ranks * Shape::kBlockUnits) {
    word = kNothing;
  }
  reinterpret_cast<std::uint32_t*>(work.exchange)[index] = word;
#endif
}

/// What the two kinds of warps of a block share.
template <typename Shape>
struct GridBlock {
  using Work = typename Shape::Work;

  Work const& work;
  std::byte* shared;
  GridLayout layout;
  int group;
  int rank;
  int member;  // its number in its team

  __device__ GridBlock(Work const& w, std::byte* shared_memory)
      : work{w},
        shared{shared_memory},
        layout{Shape::layout(w.tiles)},
        group{static_cast<int>(blockIdx.x) / w.ranks},
        rank{static_cast<int>(blockIdx.x) % w.ranks},
        member{rank % Shape::kTeam} {}

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
  /// Calls act(i) for the other members of the team.
  template <typename Act>
  __device__ void for_others(Act const& act) const {
    if constexpr (Shape::kTeam > 1) {
      for (int i = 1; i < Shape::kTeam; ++i) act((member + i) % Shape::kTeam);
    }
  }
  /// Leaves a pair of sums at `at` in the shared memory of a member of the team.
  __device__ void leave_pair(int to, std::uint32_t at, std::uint32_t buffer, float first,
                             float second) const {
    if (Shape::kTeam == 1 || to == member) {
      ptx::store_shared_pair(at, first, second);
    } else {
      ptx::store_async(ptx::in_block(at, to),
                       uint2{__float_as_uint(first), __float_as_uint(second)},
                       ptx::in_block(full(buffer), to));
    }
  }
  /// What one lane of a product warp says once the warp has left its sums.
  __device__ void announce(int warp, std::uint32_t buffer) const {
    if (Shape::kTeam > 1 && warp == 0) {
      constexpr int kFromOthers = Shape::kSums - Shape::kProductWarps * Shape::kWarpSums;
      ptx::expect_bytes(full(buffer), kFromOthers);
    } else {
      ptx::arrive(full(buffer));
    }
  }
  /// What one lane of a finishing warp says once the warp has read its sums.
  __device__ void release(std::uint32_t buffer) const {
    ptx::arrive(empty(buffer));
    for_others([&](int other) { ptx::arrive_in_cluster(ptx::in_block(empty(buffer), other)); });
  }
  /// A wait of the block has expired.
  __device__ void expire() const {
    expired() = 1;
    for_others([&](int other) {
      ptx::store_in_cluster(ptx::in_block(shared_at(layout.barriers + 32), other), 1);
    });
    work.steps.expire();
  }
  /// The tiles of the group.
  __device__ TileSpan tiles() const { return work.steps.deal.of_group(group, work.tiles); }
  /// The operands of a tile of the group for the chunk's i-th step.
  __device__ std::byte* operands(int i, int tile) const {
    std::int64_t const row = std::int64_t{i % kSlots} * work.steps.deal.groups + group;
    return work.exchange + (row * work.tiles + tile) * Shape::kTile;
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

/// Walks over the active tiles of a group, step by step: a tile's number in the group, its
/// operands, and how many rows of the batch there are from its first on.
template <typename Shape>
class TileCursor {
 public:
  __device__ TileCursor(typename Shape::Work const& work, int group)
      : work_{work},
        tiles_{work.steps.deal.of_group(group, work.tiles)},
        active_{work.steps, tiles_},
        at_{static_cast<std::uint32_t>(group * work.tiles * Shape::kTile)} {}

  __device__ int tile() const { return tile_; }
  __device__ int rows() const { return work_.steps.batch - tiles_.place(tile_, 0); }
  __device__ std::byte* operands() const { return work_.exchange + at_; }

  /// Whether the step has no tile.
  __device__ bool is_idle() const { return active_.count() == 0; }

  /// Goes on to the next tile, or the next step; true where the tile was the step's last.
  __device__ bool advance() {
    at_ += Shape::kTile;
    if (++tile_ < active_.count()) return false;
    advance_step();
    return true;
  }

  /// Goes on to the next step.
  __device__ void advance_step() {
    std::uint32_t const slot_bytes = work_.steps.deal.groups * work_.tiles * Shape::kTile;
    at_ += slot_bytes - tile_ * Shape::kTile;
    if (at_ >= kSlots * slot_bytes) at_ -= kSlots * slot_bytes;
    tile_ = 0;
    active_.advance();
  }

 private:
  typename Shape::Work const& work_;
  TileSpan tiles_;
  typename Shape::Active active_;
  std::uint32_t at_;  // in the exchange
  int tile_ = 0;
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

/// Loads a lane's words, published or not, of some gates; or takes zeros.
template <typename Gates = AllGates, int kCount>
__device__ void request(ptx::Words4 (&words)[kCount], std::byte const* from, bool loads = true) {
#pragma unroll
  for (ptx::Words4& w : words) w = {};
  if (loads) {
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      if (Gates::has(j)) words[j] = ptx::load_relaxed_16(from + j * 512);
    }
  }
}

/// Waits until none of the requested words is missing; false where the wait expires.
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

/// The sums of a product warp: kCount mma's side by side, of which each kOperands neighbours take
/// different operands for one sum. 3xTF32 keeps those of the small products apart, so that fewer
/// mma's wait for each other.
template <typename T, Multiplication multiplication, int kCount, int kOperands>
class Sums {
 public:
  /// Adds R's fragments r times the operands' words b0, b1, for some gates.
  template <typename Gates>
  __device__ void add(ptx::Words4 const (&r)[kCount], std::uint32_t const (&b0)[kOperands],
                      std::uint32_t const (&b1)[kOperands]) {
#pragma unroll
    for (int m = 0; m < kCount; ++m) {
      if (!Gates::has(m)) continue;
      ptx::multiply_add<T>(sums_[m], r[m], b0[m % kOperands], b1[m % kOperands]);
    }
    if constexpr (kIsSplit) {
      // What a TF32 operand's low 13 bits hold is ignored.
      std::uint32_t rest0[kOperands];
      std::uint32_t rest1[kOperands];
#pragma unroll
      for (int o = 0; o < kOperands; ++o) {
        rest0[o] = ptx::tf32_rest(b0[o]);
        rest1[o] = ptx::tf32_rest(b1[o]);
      }
#pragma unroll
      for (int m = 0; m < kCount; ++m) {
        if (!Gates::has(m)) continue;
        ptx::multiply_add<T>(small_[m], r[m], rest0[m % kOperands], rest1[m % kOperands]);
      }
#pragma unroll
      for (int m = 0; m < kCount; ++m) {
        if (!Gates::has(m)) continue;
        ptx::Words4 const rest = {ptx::tf32_rest(r[m].x), ptx::tf32_rest(r[m].y),
                                  ptx::tf32_rest(r[m].z), ptx::tf32_rest(r[m].w)};
        ptx::multiply_add<T>(small_[m], rest, b0[m % kOperands], b1[m % kOperands]);
      }
    }
  }

  /// A lane's value of the i-th sum.
  __device__ float get(int i, int value) const {
    float sum = of_mma(i * kOperands, value);
#pragma unroll
    for (int o = 1; o < kOperands; ++o) sum += of_mma(i * kOperands + o, value);
    return sum;
  }

 private:
  static constexpr bool kIsSplit = multiplication == Multiplication::kSplit;

  __device__ float of_mma(int m, int value) const {
    if constexpr (kIsSplit) return sums_[m][value] + small_[m][value];
    return sums_[m][value];
  }

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
  constexpr int kParts = Shape::kParts;
  constexpr int kPartBytes = Shape::kPartWords * 512;
  constexpr int kOperands = Shape::kUnitOperands;
  auto const& work = block.work;
  int const warp = static_cast<int>(threadIdx.x) / 32;
  int const team_warp = block.member * Shape::kProductWarps + warp;
  int const lane = static_cast<int>(threadIdx.x) % 32;

  // This warp's part of R.
  ptx::Words4 weights[kInRegisters][kGates][2];
  int const my_weights = warp * kSharedDepth * Shape::kWarpWeights + lane * 16;
  {
    auto const order = Shape::packed_order(work.ranks, work.steps.hidden);
    auto const* const packed = reinterpret_cast<uint4 const*>(work.packed_weights) + lane;
#pragma unroll
    for (int j = 0; j < kDepth; ++j) {
#pragma unroll
      for (int m = 0; m < kGates; ++m) {
#pragma unroll
        for (int second = 0; second < 2; ++second) {
          uint4 const v =
              packed[order.fragment(block.rank / Shape::kTeam, team_warp, j, m, second)];
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

  // Where the operands of the cursor's tile for this lane are. Those of a row beyond the batch are
  // zeros, or the last row's, which take less of L2: what comes of them is not used. 3xTF32
  // backward leaves out their loads instead, by a condition: that makes the compiler wait for the
  // words at once, to move them, and yet is up to 31% faster there, where it is up to 25% slower in
  // the others (H200, CUDA 13.0).
  constexpr bool kLoadsIfRow = Shape::kIsSplit && !Shape::kIsForward;
  bool expired = false;
  TileCursor<Shape> cursor{work, block.group};
  auto const my_operands = [&] {
    int const row = kLoadsIfRow ? lane / 4 : min(lane / 4, max(cursor.rows() - 1, 0));
    return cursor.operands() + team_warp * kParts * kPartBytes + row * 64 + lane % 4 * 16;
  };
  std::byte const* next = my_operands();
  ptx::Words4 parts[Shape::kMostPartsAtOnce][Shape::kPartWords];
  if constexpr (Shape::kAhead) request(parts[0], next);
  BufferTurns<Shape::kSets> turns;
  std::uint32_t const my_sums =
      block.shared_at(block.layout.sums) + team_warp * Shape::kWarpSums + lane * 8;
  // One exchange of all active tiles, and the product for some gates.
  auto const multiply_tiles = [&](auto gates) {
    using Gates = decltype(gates);
    using Received = std::conditional_t<Shape::kIsForward, AllGates, Gates>;
    constexpr int kPartsAtOnce = Shape::parts_at_once(Received::kCount);
    bool is_last = false;
#pragma unroll 1
    while (!is_last) {
      turns.choose(cursor.tile());
      std::byte const* const from = kLoadsIfRow ? my_operands() : next;
      bool const loads = !kLoadsIfRow || lane / 4 < cursor.rows();
      is_last = cursor.advance();
      if constexpr (!kLoadsIfRow) next = my_operands();

      Sums<T, Shape::kMultiplication, kGates, kOperands> sums;
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        // 1. Receive. To begin to poll only once there is a buffer for the sums takes less of L2.
        auto& words = parts[part % kPartsAtOnce];
        std::byte const* const from_part = from + part * kPartBytes;
        if constexpr (!Shape::kAhead) {
          if (part == 0 || kPartsAtOnce == 1) request<Received>(words, from_part, loads);
          if (part == 0) ptx::wait(block.empty(turns.buffer), turns.parity() ^ 1);
        }
        if (!expired && !receive(words, from_part, work.steps.most_polls)) {
          expired = true;
          block.expire();
        }
        // The first part says that the others are about to be there: only now they are asked for.
#pragma unroll
        for (int ahead = 1; ahead < kPartsAtOnce; ++ahead) {
          bool const is_due = part == 0 || ahead == kPartsAtOnce - 1;
          if (is_due && part + ahead < kParts) {
            request<Received>(parts[(part + ahead) % kPartsAtOnce], from_part + ahead * kPartBytes,
                              loads);
          }
        }

        // 2. Multiply.
#pragma unroll
        for (int k = 0; k < Shape::kReceived; ++k) {
          int const j = part * Shape::kReceived + k;
#pragma unroll
          for (int second = 0; second < 2; ++second) {
            ptx::Words4 r[kGates];
#pragma unroll
            for (int m = 0; m < kGates; ++m) {
              int const at = (j - kInRegisters) * Shape::kWarpWeights + (m * 2 + second) * 512;
              r[m] = j < kInRegisters ? weights[j < kInRegisters ? j : 0][m][second]
                                      : ptx::load_shared_16(block.shared_at(my_weights + at));
            }
            std::uint32_t b0[kOperands];
            std::uint32_t b1[kOperands];
#pragma unroll
            for (int o = 0; o < kOperands; ++o) {
              ptx::Words4 const& word = words[k * kOperands + o];
              b0[o] = second == 0 ? word.x : word.z;
              b1[o] = second == 0 ? word.y : word.w;
            }
            sums.template add<Gates>(r, b0, b1);
          }
          if constexpr (Shape::kAhead) {
            std::byte const* const from_ahead = part + 1 < kParts ? from_part + kPartBytes : next;
            words[k] = ptx::load_relaxed_16(from_ahead + k * 512);
          }
        }
      }

      // 3. Leave the sums: rows 2 q, then rows 2 q + 1.
      if constexpr (Shape::kAhead) ptx::wait(block.empty(turns.buffer), turns.parity() ^ 1);
      std::uint32_t const to = my_sums + turns.buffer * Shape::kSums;
#pragma unroll
      for (int m = 0; m < Shape::kTeam * Shape::kBlockSums; ++m) {
        if (Shape::kIsForward && !Gates::has(m)) continue;
        int const of = m / Shape::kBlockSums;
        std::uint32_t const at = to + m % Shape::kBlockSums * 512;
        block.leave_pair(of, at, turns.buffer, sums.get(m, 0), sums.get(m, 2));
        block.leave_pair(of, at + 256, turns.buffer, sums.get(m, 1), sums.get(m, 3));
      }
      __syncwarp();
      if (lane == 0) block.announce(warp, turns.buffer);
      turns.advance();
    }
  };
  // Whether there was a step without tiles to go past.
  auto const skip_step = [&] {
    if (!Shape::kSorts || !cursor.is_idle()) return false;
    cursor.advance_step();
    if (cursor.is_idle()) return true;
    next = my_operands();
    if constexpr (Shape::kAhead) request(parts[0], next);
    return true;
  };
#pragma unroll 1
  for (int i = 0; i < work.steps.steps * Shape::kExchanges; ++i) {
    if constexpr (Shape::kExchanges == 1) {
      if (!skip_step()) multiply_tiles(AllGates{});
    } else if (i % 2 == 0) {
      multiply_tiles(UpdateAndResetGates{});
    } else {
      multiply_tiles(CandidateGate{});
    }
    if (i % kFenceSteps == 0) ptx::fence_device();
  }
}

/// What a lane of the finishing warps finishes.
template <typename Shape>
struct GridPlace {
  int index = static_cast<int>(threadIdx.x) - 32 * Shape::kProductWarps;  // among such lanes
  int set = index / 32 / Shape::kSetWarps;
  int warp = index / 32 % Shape::kSetWarps;  // of the set
  int lane = index % 32;
  int unit;  // and the next one
  int tile_row = lane % 4 * 2 + warp % 2;
  TileSpan tiles;         // that it finishes
  std::uint32_t sums;     // where its sums begin in shared memory: of the first buffer and warp
  std::uint32_t carried;  // where it keeps what it carries of the first tile
  int words;              // where its words begin among the operands of the group's first tile

  __device__ explicit GridPlace(GridBlock<Shape> const& block)
      : unit{block.rank * Shape::kBlockUnits + warp / 2 * kGroupUnits + lane / 4 * 2},
        tiles{block.tiles().of_set(set, Shape::kSets)},
        sums{block.shared_at(block.layout.sums) + warp / 2 * Shape::kUnitSums * 512 +
             warp % 2 * 256 + lane * 8},
        carried{block.shared_at(block.layout.carried) + index * 8},
        words{set * Shape::kTile + Shape::operand_offset(unit, tile_row)} {}

  /// Adds up what the product warps left for the lane in a buffer; forward, for some gates.
  template <typename Gates = AllGates>
  __device__ void add_up(std::uint32_t buffer, float (&totals)[Shape::kUnitSums][2]) const {
    std::uint32_t const from = sums + buffer * Shape::kSums;
#pragma unroll
    for (int i = 0; i < Shape::kUnitSums; ++i) {
      if (!Gates::has(i)) continue;
      totals[i][0] = totals[i][1] = 0;
#pragma unroll
      for (int part = 0; part < Shape::kTeamWarps; ++part) {
        float2 const v = ptx::load_shared_pair(from + part * Shape::kWarpSums + i * 512);
        totals[i][0] += v.x;
        totals[i][1] += v.y;
      }
    }
  }
};

/// The inputs of a finishing lane. The caller fetches one step more, so that as many as there are
/// stages are under way.
template <typename Shape>
__device__ typename Shape::Inputs make_inputs(GridBlock<Shape> const& block,
                                              GridPlace<Shape> const& place) {
  return typename Shape::Inputs{
      block.work.steps, block.shared + block.layout.inputs,  place.index, place.tiles,
      place.tile_row,   Shape::lane_tiles(block.work.tiles), place.unit};
}

/// Puts what a finishing lane carries of its tiles into shared memory.
template <typename Shape, typename Finisher, typename Rows>
__device__ void load_carried(GridPlace<Shape> const& place, Finisher const& finisher,
                             Rows const& rows) {
  for (int k = 0; k < place.tiles.count; ++k) {
    float carried[2];
    finisher.load(rows.row(k), carried);
    ptx::store_shared_pair(place.carried + k * Shape::kCarried, carried[0], carried[1]);
  }
}

/// The life of a block, whose finishing warps do `finish_steps`.
template <typename Shape, typename Finish>
__device__ void run_block(GridBlock<Shape> const& block, Finish const& finish_steps) {
  if (threadIdx.x == 0) {
    for (std::uint32_t buffer = 0; buffer < 2; ++buffer) {
      ptx::init_barrier(block.full(buffer), Shape::kProductWarps);
      ptx::init_barrier(block.empty(buffer), Shape::kTeam * Shape::kSetWarps);
    }
    block.expired() = 0;
    if constexpr (Shape::kTeam > 1) ptx::fence_barriers();
  }
  __syncthreads();
  if constexpr (Shape::kTeam > 1) ptx::meet_cluster();
  if (threadIdx.x < 32 * Shape::kProductWarps) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    ptx::take_registers<Shape::kProductRegisters>();
#endif
    multiply_steps(block);
  } else {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    ptx::give_registers<Shape::kFinishingRegisters>();
#endif
    finish_steps(block);
  }
  // Nobody's shared memory may go while others write to it.
  if constexpr (Shape::kTeam > 1) {
    __syncwarp();
    ptx::meet_cluster();
  }
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
