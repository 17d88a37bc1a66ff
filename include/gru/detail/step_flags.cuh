// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include <gru/detail/device.cuh>
#include <gru/detail/ptx.cuh>
#include <gru/detail/sequence.hpp>
#include <gru/detail/stepwise_kernels.cuh>
#include <gru/detail/tensor_core.cuh>

/// What the options say of each step, gathered before a persistent kernel runs, so that its steps
/// draw no masks and look up neither lengths nor episode starts: two neighbouring units of a row
/// read a byte a step.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// The flags of one step for one row and two neighbouring units: bits 0 and 1 for the first and the
/// second unit, and so on. Those of backward differ in two bits: what they say of the next step
/// forward, they say of the step itself.
namespace step_flags {

inline constexpr std::uint32_t kTakesNew = 1;      // bits 0, 1: zoneout takes the new state
inline constexpr std::uint32_t kKeepsOperand = 4;  // bits 2, 3: the state enters the next product;
                                                   // backward: recurrent dropout keeps it
inline constexpr std::uint32_t kIsActive = 16;     // the row does this step
inline constexpr std::uint32_t kClearsState = 32;  // the next step begins an episode; backward:
                                                   // this one does
inline constexpr std::uint32_t kKeepsReset = 64;   // bits 6, 7: r * s enters this step's product
inline constexpr std::uint32_t kPlain = 0b11011111;  // without options

/// Bytes of a row's flags: one for two units, in whole words.
inline std::int64_t pitch(std::int64_t hidden) {
  return (hidden + 7) / 8 * 4;
}

/// Where the flags of a unit are in their word.
__device__ inline int shift(int unit) {
  return unit / 2 % 4 * 8 + unit % 2;
}

/// The flags of a lane's kUnits units out of their word. A lane of one unit gets the bits of a
/// first one.
template <int kUnits>
__device__ std::uint32_t of_lane(std::uint32_t word, int shift) {
  word >>= shift;
  if constexpr (kUnits == 2) return word;
  constexpr std::uint32_t kOfUnit = kTakesNew | kKeepsOperand | kKeepsReset;
  constexpr std::uint32_t kOfRow = kIsActive | kClearsState;
  return (word & kOfUnit) | (word << (shift & 1) & kOfRow);
}

}  // namespace step_flags

/// The way of the words of flags through shared memory, where each lane fetches what it will read.
class OwnFlags {
 public:
  /// `lane` counts the block's lanes that need flags.
  __device__ OwnFlags(int lane, int, int) : at_{lane * 4} {}

  /// Where the lane's word is, in bytes from that of the block's first lane.
  __device__ int at() const { return at_; }
  /// Begins the fetch of the lane's word into `words`, those of the block.
  __device__ void fetch(std::uint32_t words, std::uint8_t const* from) const {
    ptx::copy_async<4>(words + at_, from);
  }
  /// Every lane calls it once the words have come, and before others overwrite them.
  __device__ void meet() const {}

 private:
  int at_;
};

/// The same where the lanes of a warp share words: of those that need the same one, the one of the
/// least units fetches it. To copy a word to several places takes as long as to copy several words:
/// 1000 64 512 512 in half, cluster forward, an H200: 20 ns a step.
class SharedFlags {
 public:
  /// Every lane of a warp calls it.
  __device__ SharedFlags(int lane, int tile_row, int unit) {
    unsigned const sharers = __match_any_sync(~0u, unit / 8 * kTileRows + tile_row);
    int const fetcher = __ffs(static_cast<int>(sharers)) - 1;
    fetches_ = lane % 32 == fetcher;
    at_ = (lane - lane % 32 + fetcher) * 4;
  }

  __device__ int at() const { return at_; }
  __device__ void fetch(std::uint32_t words, std::uint8_t const* from) const {
    ptx::copy_async_if<4>(fetches_, words + at_, from);
  }
  __device__ void meet() const { __syncwarp(); }

 private:
  bool fetches_;
  int at_;
};

/// Which way a kernel goes through the steps.
enum class Pass { kForward, kBackward };

/// Whether a run needs flags at all.
inline bool needs_flags(Schedule const& schedule, Masks const& masks) {
  return schedule.lengths != nullptr || schedule.starts != nullptr || masks.zoneout.on ||
         masks.recurrent_dropout.on;
}

/// What all units of a row share in step t: bits kIsActive and kClearsState.
__device__ inline std::uint32_t row_flags(Schedule const& schedule, Pass pass, std::int64_t t,
                                          std::int64_t n) {
  using namespace step_flags;
  std::int64_t const next = schedule.reverse ? t - 1 : t + 1;
  std::int64_t const told_of = pass == Pass::kForward ? next : t;
  bool const exists = told_of >= 0 && told_of < schedule.steps;
  bool const clears = exists && schedule.is_cleared(told_of, n);
  return (schedule.is_active(t, n) ? kIsActive : 0u) | (clears ? kClearsState : 0u);
}

/// A word's 8 units of the caller's mask in one step; `units` of them exist.
__device__ inline uint2 read_mask(std::uint8_t const* mask, int units) {
  uint2 bytes = {};
  if (units == 8 && reinterpret_cast<std::uintptr_t>(mask) % sizeof bytes == 0) {
    return *reinterpret_cast<uint2 const*>(mask);
  }
#pragma unroll 1
  for (int i = 0; i < units; ++i) {
    (i < 4 ? bytes.x : bytes.y) |= std::uint32_t{mask[i]} << 8 * (i % 4);
  }
  return bytes;
}

/// The bits kTakesNew of the same units.
__device__ inline std::uint32_t takes_new_flags(uint2 bytes) {
  std::uint32_t const low = __vsetgtu4(bytes.x, 0);
  std::uint32_t const high = __vsetgtu4(bytes.y, 0);
  return __byte_perm(low | low >> 7, high | high >> 7, 0x6420) & 0x03030303u;
}

/// For four steps, from `first` on, the bits kTakesNew of a word's units out of the caller's mask,
/// in the steps that the row does.
__device__ inline void read_zoneout(Mask const& zoneout, std::int64_t first, std::int64_t n,
                                    int unit, int units, std::uint32_t const (&row)[4],
                                    std::uint32_t (&takes_new)[4]) {
  uint2 bytes[4] = {};
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if ((row[k] & step_flags::kIsActive) == 0) continue;
    bytes[k] = read_mask(zoneout.values + zoneout.rows.at(first + k, n) + unit, units);
  }
#pragma unroll
  for (int k = 0; k < 4; ++k) takes_new[k] = takes_new_flags(bytes[k]);
}

/// The same, drawn, where the four steps share a call of the generator; `counter` is the first
/// unit's.
__device__ inline void draw_zoneout(Masks const& masks, std::uint64_t counter, int units,
                                    std::uint32_t (&takes_new)[4]) {
  std::uint64_t const seed = masks.seed();
  std::uint64_t const offset = masks.offset();
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (i == units) break;
    PhiloxWords const words = philox(seed, offset, counter + i);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      bool const takes = words.word[k] >= masks.zoneout.threshold;
      takes_new[k] |= takes ? step_flags::kTakesNew << (i / 2 * 8 + i % 2) : 0u;
    }
  }
}

/// The bits kKeepsOperand of a word's 8 units; `units` of them exist.
__device__ inline std::uint32_t keeps_flags(Masks const& masks, std::int64_t n, std::int64_t unit,
                                            int units) {
  if (!masks.recurrent_dropout.on) return 0x0C0C0C0Cu;
  std::uint32_t const kept = masks.kept_units(n, unit, units);
  std::uint32_t const pairs =
      (kept & 3) | (kept & 12) << 6 | (kept & 48) << 12 | (kept & 192) << 18;
  return pairs * step_flags::kKeepsOperand;
}

/// Writes the flags of `steps` steps, from time index `first_time` on: [steps, N, pitch]. A block
/// serves one row for the (at most) four steps whose zoneout draws share a call; a thread writes a
/// word, 8 units, of each.
template <typename T>
GRU_KERNEL void step_flags_kernel(LayerView<T> layer, Pass pass, std::int64_t first_time, int steps,
                                  std::uint8_t* flags) {
  using namespace step_flags;
  constexpr std::uint32_t kEachPair = 0x01010101;
  Masks const& masks = layer.masks;
  Mask const& zoneout = masks.zoneout;
  int const N = static_cast<int>(layer.batch);
  int const hidden = static_cast<int>(layer.hidden);
  int const n = static_cast<int>(blockIdx.x % static_cast<unsigned>(N));
  std::int64_t const end = first_time + steps;
  std::int64_t const quad =
      (masks.first_time + first_time) / 4 + blockIdx.x / static_cast<unsigned>(N);
  std::int64_t const first = 4 * quad - masks.first_time;  // may precede the chunk
  // Each lane looks up one of the four steps.
  std::int64_t const looked_up = first + threadIdx.x % 4;
  bool const is_done = looked_up >= first_time && looked_up < end;
  std::uint32_t const own = is_done ? row_flags(layer.schedule, pass, looked_up, n) : 0;
  std::uint32_t row[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) row[k] = __shfl_sync(~0u, own, k);

  std::int64_t const pitch = (hidden + 7) / 8 * 4;
  std::uint8_t* const to = flags + ((first - first_time) * N + n) * pitch;
  for (int unit = 8 * threadIdx.x; unit < hidden; unit += 8 * blockDim.x) {
    int const units = min(8, hidden - unit);
    std::uint32_t const keeps = keeps_flags(masks, n, unit, units);
    std::uint32_t takes_new[4] = {};
    if (zoneout.values != nullptr) {
      read_zoneout(zoneout, first, n, unit, units, row, takes_new);
    } else if (zoneout.on) {
      draw_zoneout(masks, draws::zoneout(4 * quad, n, unit, N, hidden), units, takes_new);
    } else {
      for (std::uint32_t& word : takes_new) word = 3 * kTakesNew * kEachPair;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      std::int64_t const t = first + k;
      if (t < first_time || t >= end) continue;
      bool const clears = pass == Pass::kForward && (row[k] & kClearsState) != 0;
      std::uint32_t const entering = (clears ? 0u : keeps) | keeps * (kKeepsReset / kKeepsOperand);
      *reinterpret_cast<std::uint32_t*>(to + k * N * pitch + unit / 2) =
          takes_new[k] | entering | row[k] * kEachPair;
    }
  }
}

/// Enqueues the kernel.
template <typename T>
void launch_step_flags(cudaStream_t stream, LayerView<T> const& layer, Pass pass,
                       std::int64_t first_time, int steps, std::uint8_t* flags) {
  std::int64_t const offset = layer.masks.first_time;
  std::int64_t const quads = (offset + first_time + steps + 3) / 4 - (offset + first_time) / 4;
  std::int64_t const words = (layer.hidden + 7) / 8;
  // Whole warps, whose lanes tell each other what they looked up.
  unsigned const threads =
      static_cast<unsigned>(std::min<std::int64_t>((words + 31) / 32 * 32, 128));
  step_flags_kernel<T><<<static_cast<unsigned>(quads * layer.batch), threads, 0, stream>>>(
      layer, pass, first_time, steps, flags);
  GRU_CUDA_TRY(cudaGetLastError());
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
