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
/// A block has 8 product warps, which divide the depth among them, and 2 or 4 finishing warps.
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
/// kFenceSteps-th step: reset in step i; fence, in step i + 3 at the latest; a word published after
/// that by the same lane, for step i + 5 at the latest; read by the lane that will poll; its fence,
/// in step i + 8 at the latest; poll in step i + 15.
///
/// Waits. All blocks must be resident at once. A poll that goes on for too long sets the status and
/// ends, all later ones of the warp end at once, and the block publishes NaN from there on, so that
/// all barriers are met and every block comes to its end.
namespace gru::detail {

namespace ptx {
inline namespace GRU_DEVICE_NAMESPACE {

/// 16 bytes of global memory that other blocks may be writing: each word is an old or a new one.
__device__ inline Words4 load_relaxed_16(void const* from) {
  Words4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from)
               : "memory");
  return v;
}

/// Words that other blocks may be reading.
__device__ inline void store_relaxed(void* to, std::uint32_t word) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(word) : "memory");
}
__device__ inline void store_relaxed(void* to, uint2 words) {
  asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1,%2};" ::"l"(to), "r"(words.x), "r"(words.y)
               : "memory");
}

/// Orders what this thread did and saw before against what it does after, for all of the device.
__device__ inline void fence_device() {
  asm volatile("fence.acq_rel.gpu;" ::: "memory");
}

/// As copy_async<16>, past the L1 cache, which does not see what other blocks write.
__device__ inline void copy_async_past_l1(std::uint32_t to, void const* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

/// A barrier in shared memory that `arrivals` arrivals complete, again and again.
__device__ inline void init_barrier(std::uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ inline void arrive(std::uint32_t barrier) {
  asm volatile("{ .reg .b64 state; mbarrier.arrive.shared.b64 state, [%0]; }" ::"r"(barrier)
               : "memory");
}

/// Waits for the end of the phase of this parity. For warps of one block, of which all arrive.
__device__ inline void wait(std::uint32_t barrier, std::uint32_t parity) {
  std::uint32_t done = 0;
  while (done == 0) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
#else
    asm volatile(
        "{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
#endif
  }
}

/// Takes registers from, or gives them back to, the block's pool: all warps of a group of four. In
/// builds for sm_90a; others divide them evenly.
template <int kRegisters>
__device__ void take_registers() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
template <int kRegisters>
__device__ void give_registers() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace ptx

inline namespace GRU_DEVICE_NAMESPACE {

/// How a layer is spread over a group of blocks. H is padded to kDepth depth blocks a warp.
template <typename T, Multiplication multiplication, int kGroups_, int kDepth_>
struct GridShape {
  using Value = T;
  static constexpr Multiplication kMultiplication = multiplication;
  static constexpr int kGroups = kGroups_;  // of 16 units a block
  static constexpr int kDepth = kDepth_;    // depth blocks of a product warp

  // Of these, how many have their part of R in shared memory: what 144 registers a lane do not
  // hold, or 96 in a build that cannot give the product warps more registers than the others.
  static constexpr int kLeastSharedDepth = kDepth > 6 / kGroups ? kDepth - 6 / kGroups : 0;
  static constexpr int kMostSharedDepth = kDepth > 4 / kGroups ? kDepth - 4 / kGroups : 0;
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  static constexpr int kSharedDepth = kLeastSharedDepth;
#else
  static constexpr int kSharedDepth = kMostSharedDepth;
#endif

  static constexpr int kProductWarps = 8;
  static constexpr int kFinishingWarps = 2 * kGroups;
  static constexpr int kFinishingLanes = 32 * kFinishingWarps;
  static constexpr int kThreads = 384;  // registers are given and taken by four warps together
  static constexpr int kGates = 3 * kGroups;  // mma's side by side
  static constexpr int kBlockUnits = kGroups * kGroupUnits;
  static constexpr int kUnits = kProductWarps * kDepth * kDepthBlock<T>;  // H, padded

  using Inputs = InputRing<T, 2, kFinishingLanes, kTileRows>;

  // Bytes.
  static constexpr int kTile = kProductWarps * kDepth * 512;  // the operands of a tile
  static constexpr int kWarpSums = kGates * 512;
  static constexpr int kSums = kProductWarps * kWarpSums;  // one buffer
  static constexpr int kStates = kFinishingLanes * 8;      // of a tile
  static constexpr int kWarpWeights = kGates * 1024;       // of a depth block

  // Where things lie in shared memory.
  static constexpr int kWeightsAt = 0;
  static constexpr int kSumsAt = kProductWarps * kMostSharedDepth * kWarpWeights;
  static constexpr int kBarriersAt = kSumsAt + 2 * kSums;
  static constexpr int kAheadAt = kBarriersAt + 64;
  static constexpr int kInputsAt = kAheadAt + 2 * kTile;

  GRU_HOST_DEVICE static constexpr int states_at(int tiles) {
    return kInputsAt + Inputs::shared_bytes(tiles);
  }
  GRU_HOST_DEVICE static constexpr int shared_bytes(int tiles) {
    return states_at(tiles) + tiles * kStates;
  }

  GRU_HOST_DEVICE static PackedOrder packed_order(int ranks) {
    PackedOrder order;
    order.ranks = ranks;
    order.warps = kProductWarps;
    order.split = kProductWarps;
    order.depth = kDepth;
    order.warp_groups = kGroups;
    return order;
  }
};

inline constexpr int kSlots = 16;                       // of the exchange
inline constexpr int kFenceSteps = 4;                   // from fence to fence
inline constexpr std::uint32_t kNothing = 0xffffffffu;  // a word not published yet

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
  int first_poll = 0;  // cycles from a tile's sums to the first poll for the next tile
};

/// Fills the exchange: the first step's operands in the first slot, nothing in the others, and
/// zeros for the units from `published` on, which no block computes.
template <typename Shape>
GRU_KERNEL void start_exchange_kernel(GridForward<typename Shape::Value> pass) {
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
}

/// What the two kinds of warps of a block share.
template <typename Shape>
struct GridBlock {
  using T = typename Shape::Value;

  GridForward<T> const& pass;
  std::byte* shared;
  int group;
  int rank;

  __device__ std::uint32_t shared_at(int offset) const {
    return ptx::shared_address(shared) + offset;
  }
  /// Completed when the product warps have left the sums in this buffer.
  __device__ std::uint32_t full(std::uint32_t buffer) const {
    return shared_at(Shape::kBarriersAt) + buffer * 8;
  }
  /// Completed when the finishing warps have read them.
  __device__ std::uint32_t empty(std::uint32_t buffer) const {
    return shared_at(Shape::kBarriersAt) + 16 + buffer * 8;
  }
  /// Whether a wait of the block has expired.
  __device__ int volatile& expired() const {
    return *reinterpret_cast<int volatile*>(shared + Shape::kBarriersAt + 32);
  }
  /// The operands of a tile of the group for the chunk's i-th step.
  __device__ std::byte* operands(int i, int tile) const {
    std::int64_t const row = std::int64_t{i % kSlots} * pass.groups + group;
    return pass.exchange + (row * pass.tiles + tile) * Shape::kTile;
  }
};

__device__ inline bool is_missing(ptx::Words4 const& words) {
  return words.x == kNothing || words.y == kNothing || words.z == kNothing || words.w == kNothing;
}

/// Waits until none of the lane's words is missing; false where the wait expires.
template <int kCount>
__device__ bool receive(ptx::Words4 (&words)[kCount], std::byte const* from,
                        std::uint32_t most_polls) {
  std::uint32_t polls = 0;
  while (true) {
    bool missing = false;
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      if (is_missing(words[j])) {
        missing = true;
        words[j] = ptx::load_relaxed_16(from + j * 512);
      }
    }
    if (!__any_sync(0xffffffffu, missing)) return true;
    if (++polls > most_polls) return false;
  }
}

/// The life of a product warp.
template <typename Shape>
__device__ void multiply_steps(GridBlock<Shape> const& block) {
  using T = typename Shape::Value;
  constexpr int kDepth = Shape::kDepth;
  constexpr int kGates = Shape::kGates;
  constexpr int kInRegisters = kDepth - Shape::kSharedDepth;
  GridForward<T> const& pass = block.pass;
  int const warp = static_cast<int>(threadIdx.x) / 32;
  int const lane = static_cast<int>(threadIdx.x) % 32;
  int const steps = pass.steps.steps;
  int const tiles = pass.tiles;

  // This warp's part of R.
  ptx::Words4 weights[kInRegisters][kGates][2];
  int const my_weights =
      Shape::kWeightsAt + warp * Shape::kSharedDepth * Shape::kWarpWeights + lane * 16;
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

  int const my_operands = warp * kDepth * 512 + lane * 16;
  std::uint32_t const ahead = block.shared_at(Shape::kAheadAt) + my_operands;
  bool const looks_ahead = tiles > 1;
  auto const look_ahead = [&](int i, int tile, std::uint32_t turn) {
    if (i < steps) {
      std::byte const* const from = block.operands(i, tile) + my_operands;
#pragma unroll
      for (int j = 0; j < kDepth; ++j) {
        ptx::copy_async_past_l1(ahead + (turn & 1) * Shape::kTile + j * 512, from + j * 512);
      }
    }
    ptx::commit_copies();
  };
  if (looks_ahead) look_ahead(0, 0, 0);

  bool expired = false;
  std::uint32_t turn = 0;
#pragma unroll 1
  for (int i = 0; i < steps; ++i) {
#pragma unroll 1
    for (int tile = 0; tile < tiles; ++tile, ++turn) {
      std::byte const* const from = block.operands(i, tile) + my_operands;
      ptx::Words4 operands[kDepth];
      if (looks_ahead) {
        ptx::wait_copies<0>();
#pragma unroll
        for (int j = 0; j < kDepth; ++j) {
          operands[j] = ptx::load_shared_16(ahead + (turn & 1) * Shape::kTile + j * 512);
        }
        bool const wraps = tile + 1 == tiles;
        look_ahead(wraps ? i + 1 : i, wraps ? 0 : tile + 1, turn + 1);
      } else {
        if (pass.first_poll > 0 && i > 0) {
          long long const begin = clock64();
          while (clock64() - begin < pass.first_poll) {
          }
        }
#pragma unroll
        for (int j = 0; j < kDepth; ++j) operands[j] = ptx::load_relaxed_16(from + j * 512);
      }
      if (!expired && !receive(operands, from, pass.steps.most_polls)) {
        expired = true;
        block.expired() = 1;
        *pass.steps.status = kStatusExpired;
      }

      float sums[kGates][4] = {};
#pragma unroll
      for (int j = 0; j < kDepth; ++j) {
#pragma unroll
        for (int second = 0; second < 2; ++second) {
#pragma unroll
          for (int m = 0; m < kGates; ++m) {
            ptx::Words4 r;
            if (j < kInRegisters) {
              r = weights[j < kInRegisters ? j : 0][m][second];
            } else {
              r = ptx::load_shared_16(block.shared_at(my_weights) +
                                      (j - kInRegisters) * Shape::kWarpWeights +
                                      (m * 2 + second) * 512);
            }
            multiply_add<T, Shape::kMultiplication>(sums[m], r,
                                                    second == 0 ? operands[j].x : operands[j].z,
                                                    second == 0 ? operands[j].y : operands[j].w);
          }
        }
      }

      std::uint32_t const buffer = turn & 1;
      if (turn >= 2) ptx::wait(block.empty(buffer), (turn / 2 - 1) & 1);
      std::byte* const to = block.shared + Shape::kSumsAt + buffer * Shape::kSums +
                            warp * Shape::kWarpSums + lane * 8;
#pragma unroll
      for (int m = 0; m < kGates; ++m) {
        // Rows 2 q, then rows 2 q + 1.
        *reinterpret_cast<float2*>(to + m * 512) = make_float2(sums[m][0], sums[m][2]);
        *reinterpret_cast<float2*>(to + m * 512 + 256) = make_float2(sums[m][1], sums[m][3]);
      }
      __syncwarp();
      if (lane == 0) ptx::arrive(block.full(buffer));
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
  int const warp = index / 32;
  int const lane = index % 32;
  int const steps = pass.steps.steps;
  int const tiles = pass.tiles;
  int const unit = block.rank * Shape::kBlockUnits + warp / 2 * kGroupUnits + lane / 4 * 2;
  int const tile_row = lane % 4 * 2 + warp % 2;
  int const first_row = (pass.first_tile + block.group * tiles) * kTileRows + tile_row;
  int const my_sums = Shape::kSumsAt + warp / 2 * 3 * 512 + warp % 2 * 256 + lane * 8;
  int const my_words = unit / kDepthBlock<T> * 512 + tile_row * 64 +
                       unit % kDepthBlock<T> * static_cast<int>(sizeof(T));

  typename Shape::Inputs inputs{
      pass.steps, block.shared + Shape::kInputsAt, index, first_row, tiles, unit};
  inputs.fetch(Shape::Inputs::kStages - 1);
  ForwardLane<T, 2, kTileRows, CellValue<T>> finisher{pass.steps, first_row, unit};
  auto* const states = reinterpret_cast<float2*>(block.shared + Shape::states_at(tiles)) + index;
  for (int tile = 0; tile < tiles; ++tile) {
    float state[2];
    finisher.load(tile, state);
    states[tile * Shape::kFinishingLanes] = make_float2(state[0], state[1]);
  }

  std::uint32_t turn = 0;
#pragma unroll 1
  for (int i = 0; i < steps; ++i) {
    inputs.wait();
#pragma unroll 1
    for (int tile = 0; tile < tiles; ++tile, ++turn) {
      StepInput<2> const input = inputs.read(i, tile);
      float2 const kept = states[tile * Shape::kFinishingLanes];
      float state[2] = {kept.x, kept.y};

      std::uint32_t const buffer = turn & 1;
      ptx::wait(block.full(buffer), turn / 2 & 1);
      std::byte const* const from = block.shared + my_sums + buffer * Shape::kSums;
      float sums[3][2];
#pragma unroll
      for (int gate = 0; gate < 3; ++gate) {
        sums[gate][0] = sums[gate][1] = 0;
#pragma unroll
        for (int part = 0; part < Shape::kProductWarps; ++part) {
          float2 const v =
              *reinterpret_cast<float2 const*>(from + part * Shape::kWarpSums + gate * 512);
          sums[gate][0] += v.x;
          sums[gate][1] += v.y;
        }
      }
      if (block.expired() != 0) finisher.poison();
      StepResult<2> const result = finisher.finish(sums, input, state);
      auto const words = operand_words<T, Shape::kMultiplication>(result.operand);
      if (i + 1 < steps) {
        ptx::store_relaxed(block.operands(i + 1, tile) + my_words, publishable(words));
      }
      __syncwarp();
      if (lane == 0) ptx::arrive(block.empty(buffer));

      // The rest is done in the shadow of the exchange.
      std::remove_const_t<decltype(words)> none;
      memset(&none, 0xff, sizeof none);
      ptx::store_relaxed(block.operands(i + kSlots - 1, tile) + my_words, none);
      finisher.write(result, input, tile, state);
      if (i + 1 == steps) finisher.leave(result, tile, state);
      states[tile * Shape::kFinishingLanes] = make_float2(state[0], state[1]);
    }
    finisher.advance();
    inputs.fetch(i + Shape::Inputs::kStages);
    if (i % kFenceSteps == 0) ptx::fence_device();
  }
}

/// Does the steps of a chunk for pass.groups * pass.tiles tiles, in groups * ranks blocks that must
/// all be resident at once.
template <typename Shape>
GRU_KERNEL void __launch_bounds__(Shape::kThreads, 1)
    grid_forward_kernel(__grid_constant__ GridForward<typename Shape::Value> const pass) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  extern __shared__ __align__(128) std::byte shared[];
  GridBlock<Shape> const block{pass, shared, static_cast<int>(blockIdx.x) / pass.ranks,
                               static_cast<int>(blockIdx.x) % pass.ranks};
  if (threadIdx.x == 0) {
    for (std::uint32_t buffer = 0; buffer < 2; ++buffer) {
      ptx::init_barrier(block.full(buffer), Shape::kProductWarps);
      ptx::init_barrier(block.empty(buffer), Shape::kFinishingWarps);
    }
    block.expired() = 0;
  }
  __syncthreads();
  if (threadIdx.x < 32 * Shape::kProductWarps) {
    ptx::take_registers<208>();
    multiply_steps(block);
  } else {
    ptx::give_registers<88>();
    int const lane = static_cast<int>(threadIdx.x) - 32 * Shape::kProductWarps;
    if (lane < Shape::kFinishingLanes) finish_steps(block);
  }
#endif
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
