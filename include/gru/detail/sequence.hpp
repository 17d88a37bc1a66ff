// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gru/detail/macros.hpp>
#include <gru/problem.hpp>
#include <gru/random.hpp>
#include <gru/tensors.hpp>

/// What host and device share about a sequence besides the cell: where rows lie, in which order the
/// steps are done, what a step receives, and which elements a mask keeps. Plain data, passed to
/// kernels by value.
namespace gru::detail {

/// Where the row of step t and sample n begins, in elements.
struct Rows {
  std::int64_t step = 0;
  std::int64_t sample = 0;

  GRU_HOST_DEVICE std::int64_t at(std::int64_t t, std::int64_t n) const {
    return t * step + n * sample;
  }
};

/// Rows of a sequence tensor in the Problem's layout. A pitch of 0 means `width`.
inline Rows sequence_rows(Problem const& p, std::int64_t pitch, std::int64_t width) {
  std::int64_t const row = pitch_or(pitch, width);
  if (p.layout == Layout::kTimeMajor) return {p.batch * row, row};
  return {row, p.steps * row};
}

/// Rows of a dense time-major buffer, which all internal ones are.
inline Rows dense_rows(std::int64_t batch, std::int64_t width) {
  return {batch * width, width};
}

/// The order of the steps, the true lengths and the episode boundaries.
struct Schedule {
  std::int64_t steps = 0;  // T
  bool reverse = false;
  std::int32_t const* lengths = nullptr;  // [N] or null
  std::uint8_t const* starts = nullptr;   // or null
  Rows start_rows;

  /// The time index of the i-th step done.
  GRU_HOST_DEVICE std::int64_t time(std::int64_t i) const { return reverse ? steps - 1 - i : i; }

  /// lengths[n] clamped to [0, T]; T without lengths.
  GRU_HOST_DEVICE std::int64_t length(std::int64_t n) const {
    if (lengths == nullptr) return steps;
    std::int64_t const given = lengths[n];
    return given < 0 ? 0 : given > steps ? steps : given;
  }

  /// Whether t is the first step that sample n does.
  GRU_HOST_DEVICE bool is_first(std::int64_t t, std::int64_t n) const {
    return reverse ? t == length(n) - 1 : t == 0;
  }

  /// Whether sample n does step t at all.
  GRU_HOST_DEVICE bool is_active(std::int64_t t, std::int64_t n) const { return t < length(n); }

  /// Whether an episode boundary clears the state that enters step t.
  GRU_HOST_DEVICE bool is_cleared(std::int64_t t, std::int64_t n) const {
    if (starts == nullptr) return false;
    std::int64_t const begin = reverse ? t + 1 : t;
    return begin < length(n) && starts[start_rows.at(begin, n)] != 0;
  }
};

/// The schedule of a run over whole sequences; Tensors is ForwardTensors or BackwardTensors.
template <typename Tensors>
Schedule make_schedule(Problem const& p, Tensors const& tensors) {
  Schedule schedule;
  schedule.steps = p.steps;
  schedule.reverse = p.direction == Direction::kReverse;
  schedule.lengths = tensors.lengths;
  schedule.starts = tensors.episode_starts;
  schedule.start_rows = sequence_rows(p, p.pitch.episode_starts, 1);
  return schedule;
}

/// One mask: off, brought by the caller, or drawn.
struct Mask {
  bool on = false;
  std::uint8_t const* values = nullptr;  // brought by the caller; null: drawn
  Rows rows;                             // of `values`
  std::uint32_t threshold = 0;
  double keep = 1;   // 1 - rate
  double scale = 1;  // 1 / (1 - rate)
};

/// The masks of a pass, and what they are drawn from.
struct Masks {
  Random random;
  std::int64_t batch = 0;       // N
  std::int64_t hidden = 0;      // H
  std::int64_t first_time = 0;  // added to t where zoneout is drawn
  Mask zoneout;
  Mask dropconnect;
  Mask recurrent_dropout;
  bool zoneout_expected = false;  // not stochastic, but with a zoneout rate

  GRU_HOST_DEVICE std::uint64_t seed() const {
    return random.state != nullptr ? random.state[0] : random.seed;
  }

  GRU_HOST_DEVICE std::uint64_t offset() const {
    return random.state != nullptr ? random.state[1] : random.offset;
  }

  GRU_HOST_DEVICE PhiloxWords draw_words(std::uint64_t counter) const {
    return philox(seed(), offset(), counter);
  }

  GRU_HOST_DEVICE bool draw(std::uint64_t counter, int word, std::uint32_t threshold) const {
    return draw_words(counter).at(word) >= threshold;
  }

  /// Whether zoneout enters the formulas at all.
  GRU_HOST_DEVICE bool has_zoneout() const { return zoneout.on || zoneout_expected; }

  /// The weight w of the new state in w * c + (1 - w) * s; call where `has_zoneout()`.
  template <typename A>
  GRU_HOST_DEVICE A zoneout_weight(std::int64_t t, std::int64_t n, std::int64_t unit) const {
    if (!zoneout.on) return static_cast<A>(zoneout.keep);
    if (zoneout.values != nullptr) {
      return zoneout.values[zoneout.rows.at(t, n) + unit] != 0 ? A(1) : A(0);
    }
    std::int64_t const time = first_time + t;
    std::uint64_t const counter = draws::zoneout(time, n, unit, batch, hidden);
    return draw(counter, static_cast<int>(time % 4), zoneout.threshold) ? A(1) : A(0);
  }

  /// The factor on the state where it enters R: 0 or 1 / (1 - rate), 1 without recurrent dropout.
  template <typename A>
  GRU_HOST_DEVICE A state_factor(std::int64_t n, std::int64_t unit) const {
    Mask const& mask = recurrent_dropout;
    if (!mask.on) return A(1);
    bool kept = false;
    if (mask.values != nullptr) {
      kept = mask.values[mask.rows.at(0, n) + unit] != 0;
    } else {
      std::uint64_t const e = draws::recurrent_dropout_element(n, unit, hidden);
      kept = draw(draws::kRecurrentDropout + e / 4, static_cast<int>(e % 4), mask.threshold);
    }
    return kept ? static_cast<A>(mask.scale) : A(0);
  }

  /// Which of the units `unit` to `unit + count - 1` recurrent dropout keeps, at most 32 of them:
  /// bit i for unit + i. One call of the generator serves four.
  GRU_HOST_DEVICE std::uint32_t kept_units(std::int64_t n, std::int64_t unit, int count) const {
    Mask const& mask = recurrent_dropout;
    std::uint64_t const first = draws::recurrent_dropout_element(n, unit, hidden);
    std::uint32_t bits = 0;
    PhiloxWords words = {};
    for (int i = 0; i < count; ++i) {
      std::uint64_t const e = first + static_cast<std::uint64_t>(i);
      int const word = static_cast<int>(e % 4);
      bool kept = true;
      if (mask.values != nullptr) {
        kept = mask.values[mask.rows.at(0, n) + unit + i] != 0;
      } else if (mask.on) {
        if (i == 0 || word == 0) words = draw_words(draws::kRecurrentDropout + e / 4);
        kept = words.at(word) >= mask.threshold;
      }
      bits |= kept ? 1u << i : 0u;
    }
    return bits;
  }

  /// Whether DropConnect keeps a weight of R: row k of [H, 3H], gate 0, 1, 2 for z, r, g; `element`
  /// is its place in a tight mask of the caller.
  GRU_HOST_DEVICE bool keeps_weight(std::int64_t k, std::int64_t gate, std::int64_t unit,
                                    std::int64_t element) const {
    Mask const& mask = dropconnect;
    if (mask.values != nullptr) return mask.values[element] != 0;
    std::uint64_t const e = draws::dropconnect_element(k, gate, unit, hidden);
    return draw(draws::kDropConnect + e / 4, static_cast<int>(e % 4), mask.threshold);
  }
};

/// Whether a run brings a mask of the caller's for this option.
inline bool expects_mask(Problem const& p, Dropping const& option) {
  return p.stochastic && option.mask == MaskSource::kCaller;
}

/// Whether the option drops anything in this pass.
inline bool drops(Problem const& p, Dropping const& option) {
  return p.stochastic && (option.rate > 0 || option.mask == MaskSource::kCaller);
}

inline Mask make_mask(Problem const& p, Dropping const& option, std::uint8_t const* values,
                      Rows rows) {
  Mask mask;
  mask.on = drops(p, option);
  mask.values = expects_mask(p, option) ? values : nullptr;
  mask.rows = rows;
  mask.threshold = draws::threshold(option.rate);
  mask.keep = 1 - option.rate;
  mask.scale = 1 / mask.keep;
  return mask;
}

/// The masks of a run; Tensors is ForwardTensors, BackwardTensors or StepTensors.
template <typename Tensors>
Masks make_masks(Problem const& p, Tensors const& tensors) {
  Masks masks;
  masks.random = tensors.random;
  masks.batch = p.batch;
  masks.hidden = p.hidden_size;
  masks.zoneout = make_mask(p, p.zoneout, tensors.zoneout_mask,
                            sequence_rows(p, p.pitch.zoneout_mask, p.hidden_size));
  masks.zoneout_expected = !p.stochastic && p.zoneout.rate > 0;
  masks.dropconnect = make_mask(p, p.dropconnect, tensors.dropconnect_mask, {});
  masks.recurrent_dropout = make_mask(p, p.recurrent_dropout, tensors.recurrent_dropout_mask,
                                      {0, pitch_or(p.pitch.recurrent_dropout_mask, p.hidden_size)});
  return masks;
}

/// Where each gate's block begins among the three, in units of H.
struct GateColumns {
  std::int64_t z = 0;
  std::int64_t r = 1;
  static constexpr std::int64_t g = 2;

  /// 0, 1, 2 for z, r, g: the gate whose block is `position`.
  GRU_HOST_DEVICE std::int64_t gate_at(std::int64_t position) const {
    return position == z ? 0 : position == r ? 1 : 2;
  }

  /// Its inverse.
  GRU_HOST_DEVICE std::int64_t position(int gate) const {
    return gate == 0 ? z : gate == 1 ? r : g;
  }
};

inline GateColumns gate_columns(Problem const& p) {
  bool const update_first = p.weight_format.gates == WeightFormat::GateOrder::kUpdateFirst;
  return update_first ? GateColumns{0, 1} : GateColumns{1, 0};
}

}  // namespace gru::detail
