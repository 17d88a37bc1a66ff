// SPDX-License-Identifier: Apache-2.0
#include "support/properties.hpp"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <limits>

#include "support/host.hpp"
#include "support/options.hpp"
#include "support/reference.hpp"
#include "support/tolerance.hpp"

namespace gru::test {
namespace {

using Masks = Choices::Masks;

std::size_t at(std::int64_t i) {
  return static_cast<std::size_t>(i);
}

/// Calls `check` for both variants and directions.
template <typename Check>
void for_each_kind(Choices choices, Check check) {
  for (Variant const variant : {Variant::kResetAfter, Variant::kResetBefore}) {
    for (Direction const direction : {Direction::kForward, Direction::kReverse}) {
      choices.variant = variant;
      choices.direction = direction;
      INFO((variant == Variant::kResetAfter ? "reset after" : "reset before")
           << ", " << (direction == Direction::kForward ? "forward" : "reverse"));
      check(choices);
    }
  }
}

/// How far states move, roughly, where every element of an input moves by 1 up or down. A gate
/// moves by the root of the number of its terms. Weights and biases act in every step, which
/// doubles it; but those of R multiply states, about half as large as x.
double movement_of_states(Layer const& layer, Values Layer::*input) {
  if (input == &Layer::kernel) return 2 * std::sqrt(static_cast<double>(layer.C()));
  if (input == &Layer::recurrent_kernel) return std::sqrt(static_cast<double>(layer.H()));
  return input == &Layer::bias || input == &Layer::recurrent_bias ? 2 : 1;
}

/// The pairwise cases and sizes that take turns over them.
template <typename Check>
void for_each_pairwise_layer(Engine const& engine, Check check) {
  static std::vector<Sizes> const sizes{{5, 3, 4, 6}, {8, 2, 5, 33}, {3, 4, 31, 32}};
  std::vector<Case> const cases = pairwise_cases();
  for (std::size_t i = 0; i < cases.size(); ++i) {
    INFO(cases[i].name << "; " << to_string(sizes[i % sizes.size()]) << "; seed " << i);
    check(make_layer(cases[i].choices, sizes[i % sizes.size()], engine.type(), i));
  }
}

/// Rows [begin, end) of sample n out of [T, N, width].
template <typename V>
V rows_of(V const& sequence, Layer const& layer, std::int64_t width, std::int64_t n,
          std::int64_t begin, std::int64_t end) {
  V out;
  for (std::int64_t t = begin; t < end && !sequence.empty(); ++t) {
    auto const row = sequence.begin() + (t * layer.N() + n) * width;
    out.insert(out.end(), row, row + width);
  }
  return out;
}

/// Steps [begin, end) of sample n as a layer of their own, without lengths and episode starts.
/// Recurrent dropout and DropConnect keep their masks, which must be brought.
Layer part_of(Layer const& layer, std::int64_t n, std::int64_t begin, std::int64_t end) {
  std::int64_t const H = layer.H();
  Layer part = layer;
  part.problem.steps = end - begin;
  part.problem.batch = 1;
  part.problem.lengths = false;
  part.problem.episode_starts = false;
  part.lengths.clear();
  part.episode_starts.clear();
  part.x = rows_of(layer.x, layer, layer.C(), n, begin, end);
  part.zoneout_mask = rows_of(layer.zoneout_mask, layer, H, n, begin, end);
  part.dh = rows_of(layer.dh, layer, H, n, begin, end);
  auto const row = [&](auto const& states) {
    if (states.empty()) return states;
    return std::decay_t<decltype(states)>(states.begin() + n * H, states.begin() + (n + 1) * H);
  };
  part.h0 = row(layer.h0);
  part.dfinal_state = row(layer.dfinal_state);
  part.recurrent_dropout_mask = row(layer.recurrent_dropout_mask);
  return part;
}

/// Results of all zeros, to which the parts' are added.
Results zeros(Layer const& layer) {
  Results results;
  results.h.assign(at(layer.T() * layer.N() * layer.H()), 0);
  results.final_state.assign(at(layer.N() * layer.H()), 0);
  results.dx.assign(at(layer.T() * layer.N() * layer.C()), 0);
  results.dkernel.assign(at(layer.C() * 3 * layer.H()), 0);
  results.drecurrent_kernel.assign(at(layer.H() * 3 * layer.H()), 0);
  results.dbias.assign(at(3 * layer.H()), 0);
  results.drecurrent_bias.assign(at(3 * layer.H()), 0);
  results.dh0.assign(at(layer.N() * layer.H()), 0);
  return results;
}

/// Puts the rows of a part into the whole and adds its weight gradients.
void join(Results& whole, Results const& part, Layer const& layer, std::int64_t n,
          std::int64_t begin, std::int64_t end) {
  auto const put = [&](Values& to, Values const& from, std::int64_t width) {
    for (std::int64_t t = begin; t < end; ++t) {
      auto const row = from.begin() + (t - begin) * width;
      std::copy(row, row + width, to.begin() + (t * layer.N() + n) * width);
    }
  };
  put(whole.h, part.h, layer.H());
  put(whole.dx, part.dx, layer.C());
  for (Values Results::*const sum : {&Results::dkernel, &Results::drecurrent_kernel,
                                     &Results::dbias, &Results::drecurrent_bias}) {
    for (std::size_t i = 0; i < (part.*sum).size(); ++i) (whole.*sum)[i] += (part.*sum)[i];
  }
}

void put_state(Values& to, Values const& row, Layer const& layer, std::int64_t n) {
  std::copy(row.begin(), row.end(), to.begin() + n * layer.H());
}

/// Runs sample n cut at `cuts` (the first steps of parts, in time order), each part but the one
/// done first from a state of zeros.
void run_parts(Engine const& engine, Layer const& layer, std::int64_t n,
               std::vector<std::int64_t> cuts, bool first_is_cleared, Results& whole) {
  bool const reverse = layer.problem.direction == Direction::kReverse;
  cuts.push_back(layer.length(n));
  std::size_t const parts = cuts.size() - 1;
  for (std::size_t i = 0; i < parts; ++i) {
    bool const is_first = reverse ? i + 1 == parts : i == 0;
    bool const is_last = reverse ? i == 0 : i + 1 == parts;
    Layer part = part_of(layer, n, cuts[i], cuts[i + 1]);
    bool const from_h0 = is_first && !first_is_cleared;
    if (!from_h0) part.h0.clear();
    if (!is_last) part.dfinal_state.clear();
    Results const results = engine.run(part);
    join(whole, results, layer, n, cuts[i], cuts[i + 1]);
    if (from_h0) put_state(whole.dh0, results.dh0, layer, n);
    if (is_last) put_state(whole.final_state, results.final_state, layer, n);
  }
}

/// The order of a sample's steps turned round within its length.
Layer flipped(Layer const& layer) {
  Layer flip = layer;
  flip.problem.direction =
      layer.problem.direction == Direction::kForward ? Direction::kReverse : Direction::kForward;
  auto const flip_rows = [&](auto& to, auto const& from, std::int64_t width) {
    if (from.empty()) return;
    for (std::int64_t n = 0; n < layer.N(); ++n) {
      std::int64_t const length = layer.length(n);
      for (std::int64_t t = 0; t < length; ++t) {
        auto const row = from.begin() + (t * layer.N() + n) * width;
        std::copy(row, row + width, to.begin() + ((length - 1 - t) * layer.N() + n) * width);
      }
    }
  };
  flip_rows(flip.x, layer.x, layer.C());
  flip_rows(flip.dh, layer.dh, layer.H());
  flip_rows(flip.zoneout_mask, layer.zoneout_mask, layer.H());
  flip_rows(flip.held.dx, layer.held.dx, layer.C());
  // A boundary between t - 1 and t becomes one between length - 1 - t and length - t.
  std::fill(flip.episode_starts.begin(), flip.episode_starts.end(), std::uint8_t{0});
  for (std::int64_t n = 0; n < layer.N(); ++n) {
    for (std::int64_t t = 1; t < layer.length(n); ++t) {
      flip.episode_starts[at((layer.length(n) - t) * layer.N() + n)] =
          layer.episode_starts[at(t * layer.N() + n)];
    }
  }
  return flip;
}

double root_mean_square_difference(Values const& a, Values const& b) {
  REQUIRE(a.size() == b.size());
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum / static_cast<double>(a.size()));
}

/// Options of the recurrence for which no batch or time index matters.
Choices with_brought_masks() {
  Choices choices;
  choices.zoneout = Masks::kBrought;
  choices.dropconnect = Masks::kBrought;
  choices.recurrent_dropout = Masks::kBrought;
  return choices;
}

}  // namespace

void check_lengths_equal_truncation(Engine const& engine) {
  Choices choices = with_brought_masks();
  choices.lengths = true;
  for_each_kind(choices, [&](Choices const& c) {
    Layer const layer = make_layer(c, {7, 6, 5, 9}, engine.type(), 1);
    Results expected = zeros(layer);
    for (std::int64_t n = 0; n < layer.N(); ++n) {
      if (layer.length(n) > 0) {
        run_parts(engine, layer, n, {0}, false, expected);
      } else {
        Layer const none = part_of(layer, n, 0, 0);
        put_state(expected.final_state, none.h0, layer, n);
        put_state(expected.dh0, none.dfinal_state, layer, n);
      }
    }
    check_close(engine.run(layer), expected, layer, engine.type());
  });
}

void check_episode_starts_equal_split_sequences(Engine const& engine) {
  Choices choices = with_brought_masks();
  choices.episode_starts = true;
  for_each_kind(choices, [&](Choices const& c) {
    Layer layer = make_layer(c, {9, 5, 4, 7}, engine.type(), 2);
    set_lengths(layer, {9, 8, 7, 6, 5});
    for (std::int64_t n = 0; n < layer.N(); ++n) {
      layer.episode_starts[at(n)] = n % 2 == 0;  // of step 0
    }
    Results expected = zeros(layer);
    for (std::int64_t n = 0; n < layer.N(); ++n) {
      std::vector<std::int64_t> cuts{0};
      for (std::int64_t t = 1; t < layer.length(n); ++t) {
        if (layer.episode_starts[at(t * layer.N() + n)] != 0) cuts.push_back(t);
      }
      bool const cleared = c.direction == Direction::kForward && n % 2 == 0;
      run_parts(engine, layer, n, cuts, cleared, expected);
    }
    check_close(engine.run(layer), expected, layer, engine.type());
  });
}

void check_reverse_equals_flipping(Engine const& engine) {
  for (bool const lengths : {false, true}) {
    Choices choices = with_brought_masks();
    choices.lengths = lengths;
    choices.episode_starts = true;
    choices.direction = Direction::kReverse;
    for (Variant const variant : {Variant::kResetAfter, Variant::kResetBefore}) {
      choices.variant = variant;
      INFO((lengths ? "with" : "without")
           << " lengths, " << (variant == Variant::kResetAfter ? "reset after" : "reset before"));
      Layer const layer = make_layer(choices, {6, 5, 3, 11}, engine.type(), 3);
      Results const actual = engine.run(layer);
      // Without episode starts at step 0, which mean something to forward alone.
      Layer const flip = flipped(layer);
      Results const results = engine.run(flip);
      Results expected = results;
      Layer shape = flip;  // turns the results back
      shape.x = results.dx;
      shape.dh = results.h;
      Layer const back = flipped(shape);
      expected.dx = back.x;
      expected.h = back.dh;
      check_close(actual, expected, layer, engine.type());
    }
  }
}

void check_batch_major_equals_time_major(Engine const& engine) {
  for_each_pairwise_layer(engine, [&](Layer layer) {
    layer.problem.layout = Layout::kTimeMajor;
    Results const expected = engine.run(layer);
    layer.problem.layout = Layout::kBatchMajor;
    check_close(engine.run(layer), expected, layer, engine.type());
  });
}

void check_steps_equal_the_sequence(Engine const& engine) {
  Choices choices;
  choices.keep_for_backward = false;
  choices.episode_starts = true;
  choices.state_type = StateType::kFloat;
  for (Masks const masks : {Masks::kNone, Masks::kDrawn, Masks::kBrought}) {
    for (bool const wide : {false, true}) {
      choices.zoneout = choices.dropconnect = choices.recurrent_dropout = masks;
      choices.h0 = choices.wide_rows = wide;
      choices.layout = wide ? Layout::kBatchMajor : Layout::kTimeMajor;
      for_each_kind(choices, [&](Choices const& c) {
        Layer const layer = make_layer(c, {6, 4, 5, 14}, engine.type(), 4);
        check_close(engine.stream(layer), engine.run(layer), layer, engine.type());
      });
    }
  }
}

void check_float_states_stream_without_loss(Engine const& engine) {
  // Update gates near 1 keep a state for long, so that each rounding of it counts.
  Choices choices;
  choices.keep_for_backward = false;
  choices.update_bias = 4;
  for_each_kind(choices, [&](Choices const& c) {
    Layer layer = make_layer(c, {60, 4, 8, 24}, engine.type(), 5);
    layer.problem.state_type = StateType::kSameAsData;
    Values const by_data_states = engine.stream(layer).h;
    layer.problem.state_type = StateType::kFloat;
    Values const by_float_states = engine.stream(layer).h;
    Values const expected = engine.run(layer).h;
    double const loss = root_mean_square_difference(by_data_states, expected);
    double const difference = root_mean_square_difference(by_float_states, expected);
    INFO("state type as data: " << loss << ", float: " << difference);
    CHECK(loss > 0);
    CHECK(8 * difference < loss);
  });
}

void check_steps_without_h(Engine const& engine) {
  Choices choices;
  choices.keep_for_backward = false;
  choices.zoneout = Masks::kDrawn;
  for_each_kind(choices, [&](Choices const& c) {
    Layer const layer = make_layer(c, {3, 5, 3, 33}, engine.type(), 19);
    Streaming without_h;
    without_h.with_h = false;
    check_same_bits("final_state", engine.stream(layer, without_h).final_state,
                    engine.stream(layer).final_state);
  });
}

void check_steps_in_place(Engine const& engine) {
  Choices choices;
  choices.keep_for_backward = false;
  choices.zoneout = Masks::kDrawn;
  choices.episode_starts = true;
  for (bool const float_states : {false, true}) {
    choices.state_type = float_states ? StateType::kFloat : StateType::kSameAsData;
    for_each_kind(choices, [&](Choices const& c) {
      Layer const layer = make_layer(c, {6, 5, 3, 33}, engine.type(), 6);
      Streaming in_place;
      in_place.in_place = true;
      check_same_bits(engine.stream(layer, in_place), engine.stream(layer));
    });
  }
}

void check_accumulating_twice_equals_twice(Engine const& engine) {
  for_each_pairwise_layer(engine, [&](Layer layer) {
    layer.problem.accumulate = {};
    Results expected = engine.run(layer);
    layer.held = expected;
    layer.problem.accumulate = Accumulate::all();
    Results const actual = engine.run(layer);
    for (NamedResult const& result : named_results()) {
      if (!result.is_gradient) continue;
      for (double& value : expected.*result.values) value *= 2;
    }
    check_close(actual, expected, layer, engine.type());
  });
}

void check_reruns_have_the_same_bits(Engine const& engine) {
  for_each_pairwise_layer(
      engine, [&](Layer const& layer) { check_same_bits(engine.run(layer), engine.run(layer)); });
}

void check_reserve_policies_agree(Engine const& engine) {
  for_each_pairwise_layer(engine, [&](Layer layer) {
    // Chunks of the same size and gradients aligned alike, so that sums have the same order.
    layer.small_workspace = false;
    layer.unaligned = false;
    layer.problem.reserve = ReservePolicy::kKeep;
    Results const kept = engine.run(layer);
    layer.problem.reserve = ReservePolicy::kOverwrite;
    check_same_bits(engine.run(layer), kept);
    layer.problem.reserve = ReservePolicy::kRecompute;
    Results const recomputed = engine.run(layer);
    check_same_bits("h", recomputed.h, kept.h);
    check_close(recomputed, kept, layer, engine.type());
  });
}

void check_chunks_agree(Engine const& engine) {
  for_each_pairwise_layer(engine, [&](Layer layer) {
    layer.small_workspace = false;
    Results const whole = engine.run(layer);
    layer.small_workspace = true;
    check_close(engine.run(layer), whole, layer, engine.type());
  });
}

void check_null_gradients_change_no_other(Engine const& engine) {
  struct One {
    bool Wanted::*wanted;
    Values Results::*values;
  };
  One const all[] = {{&Wanted::final_state, &Results::final_state},
                     {&Wanted::dx, &Results::dx},
                     {&Wanted::dkernel, &Results::dkernel},
                     {&Wanted::drecurrent_kernel, &Results::drecurrent_kernel},
                     {&Wanted::dbias, &Results::dbias},
                     {&Wanted::drecurrent_bias, &Results::drecurrent_bias},
                     {&Wanted::dh0, &Results::dh0}};
  Choices choices;
  choices.dropconnect = Masks::kDrawn;
  for_each_kind(choices, [&](Choices const& c) {
    Layer layer = make_layer(c, {4, 3, 5, 8}, engine.type(), 7);
    Results const whole = engine.run(layer);
    for (One const& one : all) {
      layer.wanted = {};
      layer.wanted.*one.wanted = false;
      Results expected = whole;
      (expected.*one.values).clear();
      check_same_bits(engine.run(layer), expected);

      layer.wanted = {false, false, false, false, false, false, false};
      layer.wanted.*one.wanted = true;
      Results alone;
      alone.h = whole.h;
      alone.*one.values = whole.*one.values;
      check_same_bits(engine.run(layer), alone);
    }
  });
}

void check_no_steps(Engine const& engine) {
  for (bool const h0 : {false, true}) {
    for (bool const accumulates : {false, true}) {
      Choices choices = with_brought_masks();
      choices.h0 = h0;
      choices.lengths = true;
      choices.episode_starts = true;
      choices.adding = accumulates ? Choices::Adding::kEverything : Choices::Adding::kNothing;
      for_each_kind(choices, [&](Choices const& c) {
        Layer const layer = make_layer(c, {0, 3, 4, 5}, engine.type(), 8);
        Results const results = engine.run(layer);
        Results expected = accumulates ? layer.held : zeros(layer);
        expected.h.clear();
        expected.dx.clear();
        expected.final_state = h0 ? layer.h0 : Values(at(3 * 5), 0.0);
        if (accumulates) {
          check_close(results, reference(layer), layer, engine.type());
          expected.dh0 = results.dh0;
        } else {
          expected.dh0 = layer.dfinal_state;
        }
        check_equal(results, expected);
      });
    }
  }
}

void check_no_samples(Engine const& engine) {
  for (bool const accumulates : {false, true}) {
    Choices choices = with_brought_masks();
    choices.lengths = true;
    choices.episode_starts = true;
    choices.adding = accumulates ? Choices::Adding::kEverything : Choices::Adding::kNothing;
    for_each_kind(choices, [&](Choices const& c) {
      for (std::int64_t const T : {0, 4}) {
        Layer const layer = make_layer(c, {T, 0, 4, 5}, engine.type(), 9);
        check_equal(engine.run(layer), accumulates ? layer.held : zeros(layer));
      }
    });
  }
}

void check_lengths_of_zero(Engine const& engine) {
  for (bool const accumulates : {false, true}) {
    Choices choices;
    choices.episode_starts = true;
    choices.adding = accumulates ? Choices::Adding::kEverything : Choices::Adding::kNothing;
    for_each_kind(choices, [&](Choices const& c) {
      Layer layer = make_layer(c, {4, 3, 2, 6}, engine.type(), 10);
      set_lengths(layer, {0, 0, -7});
      Results expected = accumulates ? layer.held : zeros(layer);
      expected.h.assign(layer.dh.size(), 0.0);
      expected.final_state = layer.h0;
      Results const results = engine.run(layer);
      if (accumulates) {
        check_close(results, reference(layer), layer, engine.type());
        expected.dh0 = results.dh0;
      } else {
        expected.dh0 = layer.dfinal_state;
      }
      check_equal(results, expected);
    });
  }
}

void check_not_finite_values_stay_in_their_sample(Engine const& engine) {
  double const nan = std::numeric_limits<double>::quiet_NaN();
  double const infinity = std::numeric_limits<double>::infinity();
  Choices choices;
  choices.zoneout = Masks::kNone;
  for_each_kind(choices, [&](Choices const& c) {
    for (double const odd : {nan, infinity, -infinity}) {
      INFO("value: " << odd);
      std::int64_t const sample = 2;
      std::int64_t const step = 3;
      Layer layer = make_layer(c, {7, 5, 4, 19}, engine.type(), 11);
      Results const before = engine.run(layer);
      layer.x[at((step * layer.N() + sample) * layer.C() + 1)] = odd;
      Results const after = engine.run(layer);
      bool const reverse = c.direction == Direction::kReverse;
      for (std::int64_t n = 0; n < layer.N(); ++n) {
        std::int64_t const H = layer.H();
        if (n != sample) {
          check_same_bits("h", rows_of(after.h, layer, H, n, 0, layer.T()),
                          rows_of(before.h, layer, H, n, 0, layer.T()));
          check_same_bits("dx", rows_of(after.dx, layer, layer.C(), n, 0, layer.T()),
                          rows_of(before.dx, layer, layer.C(), n, 0, layer.T()));
          continue;
        }
        std::int64_t const begin = reverse ? step + 1 : 0;
        std::int64_t const end = reverse ? layer.T() : step;
        check_same_bits("h before the odd value", rows_of(after.h, layer, H, n, begin, end),
                        rows_of(before.h, layer, H, n, begin, end));
        if (!std::isnan(odd)) continue;
        Values const poisoned = reverse ? rows_of(after.h, layer, H, n, 0, step + 1)
                                        : rows_of(after.h, layer, H, n, step, layer.T());
        bool const all_nan =
            std::all_of(poisoned.begin(), poisoned.end(), [](double v) { return std::isnan(v); });
        CHECK(all_nan);
      }
      if (std::isnan(odd)) CHECK(std::isnan(after.drecurrent_kernel[0]));
    }
  });
}

void check_not_finite_states_stay_in_their_sample(Engine const& engine) {
  double const nan = std::numeric_limits<double>::quiet_NaN();
  double const infinity = std::numeric_limits<double>::infinity();
  Choices choices;
  choices.keep_for_backward = false;
  for_each_kind(choices, [&](Choices const& c) {
    for (double const odd : {nan, infinity, -infinity}) {
      INFO("value: " << odd);
      std::int64_t const sample = 1;
      Layer layer = make_layer(c, {7, 5, 4, 19}, engine.type(), 17);
      Values const before = engine.run(layer).h;
      layer.h0[at(sample * layer.H() + 2)] = odd;
      Values const after = engine.run(layer).h;
      for (std::int64_t n = 0; n < layer.N(); ++n) {
        Values const rows = rows_of(after, layer, layer.H(), n, 0, layer.T());
        if (n != sample) {
          check_same_bits("h", rows, rows_of(before, layer, layer.H(), n, 0, layer.T()));
        } else if (std::isnan(odd)) {
          CHECK(std::all_of(rows.begin(), rows.end(), [](double v) { return std::isnan(v); }));
        }
      }
    }
  });
}

void check_weights_that_are_nan_spread(Engine const& engine) {
  Choices choices;
  choices.keep_for_backward = false;
  for_each_kind(choices, [&](Choices const& c) {
    std::int64_t const unit = 2;
    Layer layer = make_layer(c, {7, 5, 4, 19}, engine.type(), 18);
    Values const before = engine.run(layer).h;
    layer.recurrent_kernel[at(5 * 3 * layer.H() + 2 * layer.H() + unit)] =
        std::numeric_limits<double>::quiet_NaN();  // of the candidate gate
    Values const after = engine.run(layer).h;
    std::int64_t const first = c.direction == Direction::kForward ? 0 : layer.T() - 1;
    for (std::int64_t i = 0; i < layer.T() * layer.N() * layer.H(); ++i) {
      bool const in_first = i / (layer.N() * layer.H()) == first;
      bool const of_unit = i % layer.H() == unit;
      INFO("element " << i);
      if (in_first && !of_unit) {
        REQUIRE(after[at(i)] == before[at(i)]);
      } else {
        REQUIRE(std::isnan(after[at(i)]));
      }
    }
    layer.recurrent_kernel[at(5 * 3 * layer.H() + 2 * layer.H() + unit)] =
        std::numeric_limits<double>::infinity();
    engine.run(layer);  // ends
  });
}

void check_drawn_masks_equal_brought_ones(Engine const& engine) {
  for_each_pairwise_layer(engine, [&](Layer layer) {
    Problem& p = layer.problem;
    p.stochastic = true;
    p.zoneout = {0.3, MaskSource::kPhilox};
    p.dropconnect = {0.25, MaskSource::kPhilox};
    p.recurrent_dropout = {0.4, MaskSource::kPhilox};
    Results const drawn = engine.run(layer);
    check_same_bits(engine.run(with_masks_brought(layer)), drawn);
  });
}

void check_saturated_update_gates_keep_their_gradient(Engine const& engine) {
  Choices choices;
  choices.update_bias = 6;
  for (ReservePolicy const reserve :
       {ReservePolicy::kKeep, ReservePolicy::kOverwrite, ReservePolicy::kRecompute}) {
    choices.reserve = reserve;
    for_each_kind(choices, [&](Choices const& c) {
      Layer const layer = make_layer(c, {4, 6, 5, 12}, engine.type(), 12);
      Results const actual = engine.run(layer);
      Results const expected = reference(layer);
      for (NamedResult const& result : named_results()) {
        // These gradients are all as small as 1 - z.
        bool const is_small = result.is_gradient && result.values != &Results::dh0;
        if (!is_small) continue;
        double largest = 0;
        for (double const v : expected.*result.values) largest = std::max(largest, std::abs(v));
        Values scaled_actual = actual.*result.values;
        Values scaled_expected = expected.*result.values;
        for (double& v : scaled_actual) v /= largest;
        for (double& v : scaled_expected) v /= largest;
        check_close(result.name, scaled_actual, scaled_expected,
                    tolerance(layer, result, engine.type()));
      }
    });
  }
}

void check_precisions(Engine const& engine) {
  for (Precision const precision : {Precision::kFp32, Precision::kFp32Strict, Precision::kTf32}) {
    for_each_kind({}, [&](Choices const& c) {
      Layer layer = make_layer(c, {6, 9, 65, 72}, engine.type(), 13);
      layer.problem.precision = precision;
      INFO("precision " << static_cast<int>(precision));
      check_close(engine.run(layer), reference(layer), layer, engine.type());
    });
  }
}

void check_gradients_are_slopes(Engine const& engine, Precision precision) {
  static std::vector<Sizes> const sizes{{5, 3, 4, 6}, {7, 9, 5, 33}, {9, 5, 33, 17}, {6, 4, 8, 64}};
  std::vector<Case> cases = single_option_cases();
  for (Case& c : pairwise_cases()) cases.push_back(std::move(c));
  for (std::size_t i = 0; i < cases.size(); ++i) {
    INFO(cases[i].name << "; " << to_string(sizes[i % sizes.size()]) << "; seed " << i);
    Choices choices = cases[i].choices;
    choices.adding = Choices::Adding::kNothing;
    choices.asked = Choices::Asked::kEverything;
    Layer layer = make_layer(choices, sizes[i % sizes.size()], engine.type(), i);
    layer.problem.precision = precision;
    Results const gradients = engine.run(layer);
    bool const own = product_epsilon(layer.problem, engine.type()) <= epsilon(DataType::kFloat);
    Engine const& values = own ? engine : host_engine<double>();
    Layer const point = prepared_for_slopes(own ? layer : in_double(layer));
    Dice dice{i};
    for (Differentiable const& d : differentiable_inputs()) {
      Values const& gradient = gradients.*d.gradient.values;
      INFO(d.gradient.name << " against values by " << values.name());
      REQUIRE(gradient.size() == (point.*d.input).size());
      Values direction;
      double expected = 0;
      for (double const g : gradient) {
        direction.push_back(dice.below(2) == 0 ? -1 : 1);
        expected += g * direction.back();
      }
      double const distance =
          finite_difference_distance(values.type()) / movement_of_states(layer, d.input);
      double const measured = slope(point, d.input, direction, distance,
                                    [&](Layer const& moved) { return values.run(moved); });
      double const allowed =
          slope_tolerance(layer, d.gradient, gradient, engine.type(), values.type());
      INFO("the gradient says " << expected << ", differences " << measured);
      CHECK(std::abs(measured - expected) <= allowed);
    }
  }
}

void check_bytes(Engine const& engine) {
  std::size_t const value = engine.type() == DataType::kDouble  ? sizeof(double)
                            : engine.type() == DataType::kFloat ? sizeof(float)
                                                                : sizeof(std::uint16_t);
  for_each_kind({}, [&](Choices const& c) {
    Problem p = make_layer(c, {1, 1, 1, 1}, engine.type(), 16).problem;
    p.steps = 100'000;
    p.batch = 64;
    p.input_size = 512;
    p.hidden_size = 384;
    for (ReservePolicy const reserve :
         {ReservePolicy::kKeep, ReservePolicy::kOverwrite, ReservePolicy::kRecompute}) {
      p.reserve = reserve;
      p.workspace_limit = Problem{}.workspace_limit;
      std::size_t const values =
          reserve == ReservePolicy::kRecompute ? 0 : std::size_t{100'000} * 64 * 4 * 384;
      CHECK(engine.forward_bytes(p).reserve == values * value);
      CHECK(engine.backward_bytes(p).reserve == values * value);
      for (std::size_t const limit : {std::size_t{256} << 20, std::size_t{64} << 20}) {
        p.workspace_limit = limit;
        CHECK(engine.forward_bytes(p).workspace <= limit);
        CHECK(engine.backward_bytes(p).workspace <= limit);
      }
      p.workspace_limit = 1000;
      CHECK_THROWS_AS(engine.forward_bytes(p), InvalidArgument);
      CHECK_THROWS_AS(engine.backward_bytes(p), InvalidArgument);
    }
  });
}

template <typename T>
void check_bidirectional_halves(Backend<T> const& backend) {
  DataType const type = DataTypeOf<T>::value;
  for (Layout const layout : {Layout::kTimeMajor, Layout::kBatchMajor}) {
    for (Variant const variant : {Variant::kResetAfter, Variant::kResetBefore}) {
      Choices choices;
      choices.variant = variant;
      choices.layout = layout;
      choices.lengths = true;
      choices.zoneout = Masks::kDrawn;
      Layer const forward = make_layer(choices, {5, 4, 3, 10}, type, 14);
      Layer reverse = make_layer(choices, {5, 4, 3, 10}, type, 15);
      reverse.problem.direction = Direction::kReverse;
      reverse.x = forward.x;
      reverse.lengths = forward.lengths;
      reverse.dh = forward.dh;
      BidirectionalResults const both = run_bidirectional(backend, forward, reverse);
      Results const expected[] = {run_layer(backend, forward), run_layer(backend, reverse)};
      Values dx = expected[0].dx;
      for (std::size_t i = 0; i < dx.size(); ++i) dx[i] += expected[1].dx[i];
      NamedResult const& dx_result = named_results()[2];
      check_close("dx", both.dx, dx, tolerance(forward, dx_result, type));
      for (int half = 0; half < 2; ++half) {
        Results actual = half == 0 ? both.forward : both.reverse;
        Results separate = expected[half];
        separate.dx.clear();
        std::size_t const H = at(forward.H());
        for (std::size_t row = 0; row < both.h.size() / (2 * H); ++row) {
          auto const begin = both.h.begin() + static_cast<std::ptrdiff_t>((2 * row + at(half)) * H);
          actual.h.insert(actual.h.end(), begin, begin + forward.H());
        }
        check_close(actual, separate, forward, type);
      }
    }
  }
}

template void check_bidirectional_halves<float>(Backend<float> const&);
template void check_bidirectional_halves<double>(Backend<double> const&);
template void check_bidirectional_halves<Eigen::half>(Backend<Eigen::half> const&);
template void check_bidirectional_halves<Eigen::bfloat16>(Backend<Eigen::bfloat16> const&);

}  // namespace gru::test
