// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gru/detail/device.cuh>
#include <gru/detail/sequence.hpp>
#include <gru/detail/stepwise_kernels.cuh>

/// What the options say of each step, gathered before a persistent kernel runs, so that its steps
/// draw no masks and look up neither lengths nor episode starts: two neighbouring units of a row
/// read a byte a step, a word for four steps.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// The flags of one step for one row and two neighbouring units: bits 0 and 1 for the first and the
/// second unit, and so on.
namespace step_flags {

inline constexpr std::uint32_t kTakesNew = 1;      // bits 0, 1: zoneout takes the new state
inline constexpr std::uint32_t kKeepsOperand = 4;  // bits 2, 3: the state enters the next product
inline constexpr std::uint32_t kIsActive = 16;     // the row does this step
inline constexpr std::uint32_t kClearsState = 32;  // the next step begins an episode
inline constexpr std::uint32_t kPlain = 0b011111;  // without options

}  // namespace step_flags

/// Where the flags of a chunk of steps lie: words [quads, N, pairs] for pairs of units. A quad is
/// the steps whose zoneout draws share a call, in the order in which they are done; the chunk's
/// i-th step is byte (phase + i) % 4 of quad (phase + i) / 4.
struct FlagLayout {
  std::int64_t first_time = 0;  // least time index of the chunk
  std::int64_t steps = 0;
  std::int64_t pairs = 0;
  std::int64_t offset = 0;  // added to the time index where zoneout is drawn
  bool reverse = false;

  /// The time index of the chunk's i-th step.
  GRU_HOST_DEVICE std::int64_t time(std::int64_t i) const {
    return first_time + (reverse ? steps - 1 - i : i);
  }
  GRU_HOST_DEVICE int phase() const {
    int const first = static_cast<int>((offset + time(0)) % 4);
    return reverse ? 3 - first : first;
  }
  GRU_HOST_DEVICE std::int64_t quads() const { return (phase() + steps + 3) / 4; }
};

/// Words of the flags of a chunk, at most.
inline std::int64_t most_flag_words(std::int64_t steps, std::int64_t batch, std::int64_t hidden) {
  return (steps + 6) / 4 * batch * ((hidden + 1) / 2);
}

/// Whether a run needs flags at all.
inline bool needs_flags(Schedule const& schedule, Masks const& masks) {
  return schedule.lengths != nullptr || schedule.starts != nullptr || masks.zoneout.on ||
         masks.recurrent_dropout.on;
}

/// Writes a chunk's flags; a thread serves one word.
template <typename T>
GRU_KERNEL void step_flags_kernel(LayerView<T> layer, FlagLayout layout, std::uint32_t* flags) {
  Schedule const& schedule = layer.schedule;
  Masks const& masks = layer.masks;
  std::int64_t const N = layer.batch;
  std::int64_t const H = layer.hidden;
  bool const draws_zoneout = masks.zoneout.on && masks.zoneout.values == nullptr;
  for_each_element(layout.quads() * N, layout.pairs, [&](std::int64_t row, std::int64_t pair) {
    using namespace step_flags;
    std::int64_t const n = row % N;
    std::int64_t const first = 4 * (row / N) - layout.phase();  // the quad's first step
    std::int64_t const inside = first < 0 ? 0 : first;          // one that the chunk has
    std::uint32_t drawn[2] = {};
    std::uint32_t keeps_operand = 0;
    for (int e = 0; e < 2 && 2 * pair + e < H; ++e) {
      std::int64_t const unit = 2 * pair + e;
      bool const keeps = masks.template state_factor<float>(n, unit) != 0;
      keeps_operand |= keeps ? kKeepsOperand << e : 0u;
      if (draws_zoneout) drawn[e] = masks.zoneout_bits(layout.time(inside), n, unit);
    }
    std::uint32_t word = 0;
    for (int k = 0; k < 4; ++k) {
      std::int64_t const i = first + k;
      if (i < 0 || i >= layout.steps) continue;
      std::int64_t const t = layout.time(i);
      bool const active = schedule.is_active(t, n);
      std::uint32_t value = active ? kIsActive : 0u;
      for (int e = 0; e < 2 && 2 * pair + e < H; ++e) {
        bool takes_new = true;
        if (draws_zoneout) {
          takes_new = (drawn[e] >> (t + layout.offset) % 4 & 1) != 0;
        } else if (masks.zoneout.on && active) {
          takes_new = masks.zoneout.values[masks.zoneout.rows.at(t, n) + 2 * pair + e] != 0;
        }
        value |= takes_new ? kTakesNew << e : 0u;
      }
      std::int64_t const next = schedule.reverse ? t - 1 : t + 1;
      bool const has_next = next >= 0 && next < schedule.steps;
      value |= has_next && schedule.is_cleared(next, n) ? kClearsState : keeps_operand;
      word |= value << 8 * k;
    }
    flags[row * layout.pairs + pair] = word;
  });
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
