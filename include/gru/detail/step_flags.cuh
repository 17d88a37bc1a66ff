// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include <gru/detail/device.cuh>
#include <gru/detail/sequence.hpp>
#include <gru/detail/stepwise_kernels.cuh>

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

/// Which way a kernel goes through the steps.
enum class Pass { kForward, kBackward };

/// Whether a run needs flags at all.
inline bool needs_flags(Schedule const& schedule, Masks const& masks) {
  return schedule.lengths != nullptr || schedule.starts != nullptr || masks.zoneout.on ||
         masks.recurrent_dropout.on;
}

/// The flags of one row in four steps: what all of its units share, bits kIsActive and
/// kClearsState.
struct RowFlags {
  std::uint32_t step[4];
};

/// A word (8 units) of a row's flags for four steps, from time index `first` on; steps outside
/// [begin, end) are left alone.
template <typename T>
__device__ void write_flags(LayerView<T> const& layer, Pass pass, std::int64_t first,
                            std::int64_t begin, std::int64_t end, std::int64_t n, int column,
                            RowFlags const& row, std::int64_t step_bytes, std::uint8_t* to) {
  using namespace step_flags;
  constexpr std::uint32_t kEachPair = 0x01010101;
  Masks const& masks = layer.masks;
  bool const draws = masks.zoneout.on && masks.zoneout.values == nullptr;
  std::uint32_t takes_new[4];
  for (std::uint32_t& word : takes_new) word = masks.zoneout.on ? 0 : 3 * kTakesNew * kEachPair;
  std::uint32_t keeps = masks.recurrent_dropout.on ? 0 : 3 * kKeepsOperand * kEachPair;
#pragma unroll 1
  for (int i = 0; i < 8 && 8 * column + i < layer.hidden; ++i) {
    std::int64_t const unit = 8 * column + i;
    int const at = i / 2 * 8 + i % 2;  // where the unit's bits are in the word
    if (masks.recurrent_dropout.on) {
      bool const kept = masks.template state_factor<float>(n, unit) != 0;
      keeps |= kept ? kKeepsOperand << at : 0u;
    }
    if (!masks.zoneout.on) continue;
    std::uint32_t const drawn = draws ? masks.zoneout_bits(first, n, unit) : 0u;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      bool takes = (drawn >> k & 1) != 0;
      if (!draws && (row.step[k] & kIsActive) != 0) {
        takes = masks.zoneout.values[masks.zoneout.rows.at(first + k, n) + unit] != 0;
      }
      takes_new[k] |= takes ? kTakesNew << at : 0u;
    }
  }
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if (first + k < begin || first + k >= end) continue;
    bool const clears = pass == Pass::kForward && (row.step[k] & kClearsState) != 0;
    std::uint32_t const entering = (clears ? 0u : keeps) | keeps * (kKeepsReset / kKeepsOperand);
    std::uint32_t const word = takes_new[k] | entering | row.step[k] * kEachPair;
    *reinterpret_cast<std::uint32_t*>(to + k * step_bytes) = word;
  }
}

/// Writes the flags of `steps` steps, from time index `first_time` on: [steps, N, pitch]. A block
/// serves one row for the (at most) four steps whose zoneout draws share a call.
template <typename T>
GRU_KERNEL void step_flags_kernel(LayerView<T> layer, Pass pass, std::int64_t first_time, int steps,
                                  std::uint8_t* flags) {
  using namespace step_flags;
  Schedule const& schedule = layer.schedule;
  int const N = static_cast<int>(layer.batch);
  int const words = static_cast<int>((layer.hidden + 7) / 8);
  std::int64_t const end = first_time + steps;
  std::int64_t const offset = layer.masks.first_time;
  int const n = static_cast<int>(blockIdx.x % static_cast<unsigned>(N));
  std::int64_t const quad = (offset + first_time) / 4 + blockIdx.x / static_cast<unsigned>(N);
  std::int64_t const first = 4 * quad - offset;
  RowFlags row = {};
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    std::int64_t const t = first + k;
    if (t < first_time || t >= end) continue;
    std::int64_t const next = schedule.reverse ? t - 1 : t + 1;
    std::int64_t const told_of = pass == Pass::kForward ? next : t;
    bool const exists = told_of >= 0 && told_of < schedule.steps;
    if (schedule.is_active(t, n)) row.step[k] |= kIsActive;
    if (exists && schedule.is_cleared(told_of, n)) row.step[k] |= kClearsState;
  }
  std::int64_t const step_bytes = std::int64_t{N} * words * 4;
  std::uint8_t* const to = flags + ((first - first_time) * N + n) * words * 4;
  for (int column = threadIdx.x; column < words; column += blockDim.x) {
    write_flags(layer, pass, first, first_time, end, n, column, row, step_bytes, to + 4 * column);
  }
}

/// Enqueues the kernel.
template <typename T>
void launch_step_flags(cudaStream_t stream, LayerView<T> const& layer, Pass pass,
                       std::int64_t first_time, int steps, std::uint8_t* flags) {
  std::int64_t const offset = layer.masks.first_time;
  std::int64_t const quads = (offset + first_time + steps + 3) / 4 - (offset + first_time) / 4;
  std::int64_t const words = (layer.hidden + 7) / 8;
  unsigned const threads = static_cast<unsigned>(std::clamp<std::int64_t>(words, 32, 128));
  step_flags_kernel<T><<<static_cast<unsigned>(quads * layer.batch), threads, 0, stream>>>(
      layer, pass, first_time, steps, flags);
  GRU_CUDA_TRY(cudaGetLastError());
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
