// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gru/detail/device.cuh>
#include <gru/detail/sequence.hpp>
#include <gru/detail/stepwise_kernels.cuh>

/// What the options say of each step, gathered before a persistent kernel runs, so that its steps
/// read one byte instead of drawing masks and looking up lengths and episode starts. H200, H 512,
/// N 64, 1000 steps: 4 bytes a lane and step through the ring of the input product, and a kernel of
/// its own at full occupancy for the draws.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// The flags of one step for one row and two neighbouring units: bits 0 and 1 for the first and the
/// second unit, and so on.
namespace step_flags {

inline constexpr std::uint32_t kTakesNew = 1;      // bits 0, 1: zoneout takes the new state
inline constexpr std::uint32_t kKeepsOperand = 4;  // bits 2, 3: the state enters the next product
inline constexpr std::uint32_t kIsActive = 16;     // the row does this step
inline constexpr std::uint32_t kClearsState = 32;  // the next step begins an episode
inline constexpr std::uint32_t kPlain = 0b0'01'11'11;  // without options

/// Bytes of a row's flags: one for two units, in whole words.
inline std::int64_t pitch(std::int64_t hidden) {
  return (hidden + 7) / 8 * 4;
}

}  // namespace step_flags

/// Whether a run needs flags at all.
inline bool needs_flags(Schedule const& schedule, Masks const& masks) {
  return schedule.lengths != nullptr || schedule.starts != nullptr || masks.zoneout.on ||
         masks.recurrent_dropout.on;
}

/// Writes the flags of `steps` steps, from time index `first_time` on: [steps, N, pitch]. A thread
/// serves two units of one row for the (at most) four steps whose zoneout draws share a call.
template <typename T>
GRU_KERNEL void step_flags_kernel(LayerView<T> layer, std::int64_t first_time, std::int64_t steps,
                                  std::int64_t pitch, std::uint8_t* flags) {
  Schedule const& schedule = layer.schedule;
  Masks const& masks = layer.masks;
  std::int64_t const N = masks.batch;
  std::int64_t const H = masks.hidden;
  std::int64_t const offset = masks.first_time + first_time;
  std::int64_t const quads = (offset + steps + 3) / 4 - offset / 4;
  for_each_element(quads * N, pitch, [&](std::int64_t row, std::int64_t pair) {
    using namespace step_flags;
    std::int64_t const n = row % N;
    std::int64_t const quad = offset / 4 + row / N;
    std::int64_t const unit = 2 * pair;
    bool const draws_zoneout = masks.zoneout.on && masks.zoneout.values == nullptr;
    std::uint32_t drawn[2] = {};
    std::uint32_t keeps_operand = 0;
    for (int e = 0; e < 2 && unit + e < H; ++e) {
      bool const keeps = masks.template state_factor<float>(n, unit + e) != 0;
      keeps_operand |= keeps ? kKeepsOperand << e : 0u;
      if (draws_zoneout) {
        drawn[e] = masks.zoneout_bits(4 * quad - masks.first_time, n, unit + e);
      }
    }
    for (int i = 0; i < 4; ++i) {
      std::int64_t const t = 4 * quad + i - masks.first_time;
      if (t < first_time || t >= first_time + steps) continue;
      std::uint32_t value = 0;
      if (schedule.is_active(t, n)) value |= kIsActive;
      for (int e = 0; e < 2 && unit + e < H; ++e) {
        bool takes_new = true;
        if (draws_zoneout) {
          takes_new = (drawn[e] >> i & 1) != 0;
        } else if (masks.zoneout.on && schedule.is_active(t, n)) {
          takes_new = masks.zoneout.values[masks.zoneout.rows.at(t, n) + unit + e] != 0;
        }
        value |= takes_new ? kTakesNew << e : 0u;
      }
      std::int64_t const next = schedule.reverse ? t - 1 : t + 1;
      bool const has_next = next >= 0 && next < schedule.steps;
      bool const clears = has_next && schedule.is_cleared(next, n);
      value |= clears ? kClearsState : keeps_operand;
      flags[((t - first_time) * N + n) * pitch + pair] = static_cast<std::uint8_t>(value);
    }
  });
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
