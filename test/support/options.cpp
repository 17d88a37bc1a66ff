// SPDX-License-Identifier: Apache-2.0
#include "support/options.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <sstream>
#include <utility>

namespace gru::test {
namespace {

using Masks = Choices::Masks;
using Adding = Choices::Adding;
using Incoming = Choices::Incoming;
using Asked = Choices::Asked;

/// A level that sets one field.
template <typename V>
Level level(std::string name, V Choices::*field, V value) {
  return {std::move(name), [field, value](Choices& c) { c.*field = value; }};
}

Factor masks(std::string const& name, Masks Choices::*field) {
  return {level("no " + name, field, Masks::kNone), level(name, field, Masks::kDrawn),
          level("mask of " + name, field, Masks::kBrought)};
}

Factor flag(std::string const& name, bool Choices::*field, bool by_default = false) {
  return {level((by_default ? "" : "no ") + name, field, by_default),
          level((by_default ? "no " : "") + name, field, !by_default)};
}

Case make_case(std::vector<std::size_t> levels) {
  Case made;
  made.levels = std::move(levels);
  for (std::size_t f = 0; f < factors().size(); ++f) {
    Level const& chosen = factors()[f][made.levels[f]];
    chosen.apply(made.choices);
    if (made.levels[f] != 0) made.name += (made.name.empty() ? "" : ", ") + chosen.name;
  }
  if (made.name.empty()) made.name = "defaults";
  return made;
}

/// Two levels of two different factors, the lower factor first.
struct Pair {
  std::size_t factor_a, level_a, factor_b, level_b;

  bool operator<(Pair const& o) const {
    return std::tie(factor_a, level_a, factor_b, level_b) <
           std::tie(o.factor_a, o.level_a, o.factor_b, o.level_b);
  }
};

Pair make_pair_of(std::size_t f, std::size_t level_f, std::size_t g, std::size_t level_g) {
  return f < g ? Pair{f, level_f, g, level_g} : Pair{g, level_g, f, level_f};
}

constexpr std::size_t kOpen = std::numeric_limits<std::size_t>::max();

/// Fixes the open levels one by one, each time the one that covers most pairs still uncovered.
void complete(std::vector<std::size_t>& levels, std::set<Pair> const& uncovered, Dice& dice) {
  std::vector<std::size_t> order(levels.size());
  for (std::size_t f = 0; f < order.size(); ++f) order[f] = f;
  for (std::size_t f = order.size(); f > 1; --f) {
    std::swap(order[f - 1],
              order[static_cast<std::size_t>(dice.below(static_cast<std::int64_t>(f)))]);
  }
  for (std::size_t const f : order) {
    if (levels[f] != kOpen) continue;
    std::size_t best_level = 0;
    std::size_t best_count = 0;
    auto const count_of = static_cast<std::int64_t>(factors()[f].size());
    auto const first = static_cast<std::size_t>(dice.below(count_of));
    for (std::size_t i = 0; i < factors()[f].size(); ++i) {
      std::size_t const candidate = (first + i) % factors()[f].size();
      std::size_t count = 1;
      for (std::size_t g = 0; g < levels.size(); ++g) {
        if (g == f || levels[g] == kOpen) continue;
        count += uncovered.count(make_pair_of(f, candidate, g, levels[g]));
      }
      if (count > best_count) {
        best_count = count;
        best_level = candidate;
      }
    }
    levels[f] = best_level;
  }
}

std::set<Pair> all_pairs() {
  std::set<Pair> pairs;
  for (std::size_t f = 0; f < factors().size(); ++f) {
    for (std::size_t g = f + 1; g < factors().size(); ++g) {
      for (std::size_t i = 0; i < factors()[f].size(); ++i) {
        for (std::size_t j = 0; j < factors()[g].size(); ++j) pairs.insert({f, i, g, j});
      }
    }
  }
  return pairs;
}

Dropping dropping(Masks masks, double rate) {
  switch (masks) {
    case Masks::kNone:
      return {};
    case Masks::kDrawn:
      return {rate, MaskSource::kPhilox};
    case Masks::kBrought:
      return {rate, MaskSource::kCaller};
  }
  return {};
}

Accumulate accumulate(Adding adding) {
  Accumulate add;
  if (adding == Adding::kEverything) add = Accumulate::all();
  if (adding == Adding::kSome) add.dx = add.drecurrent_kernel = add.dbias = true;
  return add;
}

/// Every pitch another odd or even amount above the row's width.
RowPitches wide_pitches(Sizes const& s) {
  RowPitches pitch;
  pitch.x = s.C + 3;
  pitch.h = 2 * s.H;
  pitch.dx = s.C + 1;
  pitch.dh = s.H + 5;
  pitch.h0 = s.H + 2;
  pitch.final_state = s.H + 7;
  pitch.dh0 = s.H + 1;
  pitch.dfinal_state = s.H + 4;
  pitch.episode_starts = 3;
  pitch.zoneout_mask = s.H + 9;
  pitch.recurrent_dropout_mask = s.H + 6;
  return pitch;
}

Problem make_problem(Choices const& c, Sizes const& s, DataType type) {
  Problem p;
  p.steps = s.T;
  p.batch = s.N;
  p.input_size = s.C;
  p.hidden_size = s.H;
  p.variant = c.variant;
  p.direction = c.direction;
  p.layout = c.layout;
  p.weight_format.shape = c.weight_shape;
  p.weight_format.gates = c.gate_order;
  if (c.wide_weights) {
    bool const by_input = c.weight_shape == WeightFormat::Shape::kInputByGates;
    p.weight_format.kernel_pitch = (by_input ? 3 * s.H : s.C) + 5;
    p.weight_format.recurrent_kernel_pitch = (by_input ? 3 * s.H : s.H) + 2;
  }
  if (c.wide_rows) p.pitch = wide_pitches(s);
  p.lengths = c.lengths;
  p.episode_starts = c.episode_starts;
  p.zoneout = dropping(c.zoneout, 0.3);
  p.dropconnect = dropping(c.dropconnect, 0.25);
  p.recurrent_dropout = dropping(c.recurrent_dropout, 0.4);
  p.stochastic = c.stochastic;
  p.keep_for_backward = c.keep_for_backward;
  p.reserve = c.reserve;
  p.accumulate = accumulate(c.adding);
  if (type != DataType::kDouble) {
    p.state_type = c.state_type;
    p.weight_gradient_type = c.weight_gradient_type;
  }
  return p;
}

Wanted wanted(Choices const& c) {
  Wanted w;
  w.final_state = c.final_state;
  bool const all = c.asked == Asked::kEverything;
  bool const weights = all || c.asked == Asked::kWeightsOnly;
  bool const data = all || c.asked == Asked::kDataOnly;
  bool const some = c.asked == Asked::kSome;
  w.dx = data;
  w.dh0 = data || some;
  w.dkernel = weights || some;
  w.drecurrent_kernel = weights;
  w.dbias = weights;
  w.drecurrent_bias = weights || some;
  return w;
}

}  // namespace

Values Dice::values(std::int64_t count, double magnitude) {
  Values out(static_cast<std::size_t>(count));
  for (double& value : out) value = uniform(-magnitude, magnitude);
  return out;
}

Bytes Dice::bits(std::int64_t count, double probability_of_one) {
  Bytes out(static_cast<std::size_t>(count));
  for (std::uint8_t& bit : out) bit = uniform(0, 1) < probability_of_one ? 1 : 0;
  return out;
}

std::string to_string(Sizes const& s) {
  std::ostringstream out;
  out << "T " << s.T << ", N " << s.N << ", C " << s.C << ", H " << s.H;
  return out.str();
}

std::vector<Factor> const& factors() {
  static std::vector<Factor> const all{
      {level("reset after", &Choices::variant, Variant::kResetAfter),
       level("reset before", &Choices::variant, Variant::kResetBefore)},
      {level("forward", &Choices::direction, Direction::kForward),
       level("reverse", &Choices::direction, Direction::kReverse)},
      {level("time-major", &Choices::layout, Layout::kTimeMajor),
       level("batch-major", &Choices::layout, Layout::kBatchMajor)},
      flag("wide rows", &Choices::wide_rows),
      {level("[in, 3H]", &Choices::weight_shape, WeightFormat::Shape::kInputByGates),
       level("[3H, in]", &Choices::weight_shape, WeightFormat::Shape::kGatesByInput)},
      {level("z, r, g", &Choices::gate_order, WeightFormat::GateOrder::kUpdateFirst),
       level("r, z, g", &Choices::gate_order, WeightFormat::GateOrder::kResetFirst)},
      flag("wide weights", &Choices::wide_weights),
      flag("h0", &Choices::h0, true),
      flag("bias", &Choices::bias, true),
      flag("recurrent bias", &Choices::recurrent_bias, true),
      flag("lengths", &Choices::lengths),
      flag("episode starts", &Choices::episode_starts),
      masks("zoneout", &Choices::zoneout),
      masks("DropConnect", &Choices::dropconnect),
      masks("recurrent dropout", &Choices::recurrent_dropout),
      {level("stochastic", &Choices::stochastic, true),
       level("not stochastic", &Choices::stochastic, false)},
      {level("reserve kept", &Choices::reserve, ReservePolicy::kKeep),
       level("reserve overwritten", &Choices::reserve, ReservePolicy::kOverwrite),
       level("recomputed", &Choices::reserve, ReservePolicy::kRecompute)},
      {level("states as data", &Choices::state_type, StateType::kSameAsData),
       level("float states", &Choices::state_type, StateType::kFloat)},
      {level("weight gradients as data", &Choices::weight_gradient_type,
             WeightGradientType::kSameAsData),
       level("float weight gradients", &Choices::weight_gradient_type, WeightGradientType::kFloat)},
      {level("overwriting", &Choices::adding, Adding::kNothing),
       level("accumulating", &Choices::adding, Adding::kEverything),
       level("accumulating some", &Choices::adding, Adding::kSome)},
      {level("dh and dfinal", &Choices::incoming, Incoming::kBoth),
       level("dh only", &Choices::incoming, Incoming::kSequenceOnly),
       level("dfinal only", &Choices::incoming, Incoming::kFinalOnly)},
      {level("all gradients", &Choices::asked, Asked::kEverything),
       level("weight gradients only", &Choices::asked, Asked::kWeightsOnly),
       level("data gradients only", &Choices::asked, Asked::kDataOnly),
       level("some gradients", &Choices::asked, Asked::kSome)},
      flag("final state", &Choices::final_state, true),
      flag("small workspace", &Choices::small_workspace),
      flag("unaligned", &Choices::unaligned),
      flag("random by pointer", &Choices::random_by_pointer),
  };
  return all;
}

std::vector<Case> single_option_cases() {
  std::vector<Case> cases;
  for (std::size_t variant = 0; variant < 2; ++variant) {
    std::vector<std::size_t> const defaults = [&] {
      std::vector<std::size_t> levels(factors().size(), 0);
      levels[0] = variant;
      return levels;
    }();
    cases.push_back(make_case(defaults));
    for (std::size_t f = 1; f < factors().size(); ++f) {
      for (std::size_t i = 1; i < factors()[f].size(); ++i) {
        std::vector<std::size_t> levels = defaults;
        levels[f] = i;
        cases.push_back(make_case(std::move(levels)));
      }
    }
  }
  return cases;
}

std::vector<Case> pairwise_cases() {
  constexpr std::uint64_t kSeed = 20140603;
  Dice dice{kSeed};
  std::set<Pair> uncovered = all_pairs();
  std::vector<Case> cases;
  while (!uncovered.empty()) {
    Pair const first = *uncovered.begin();
    std::vector<std::size_t> levels(factors().size(), kOpen);
    levels[first.factor_a] = first.level_a;
    levels[first.factor_b] = first.level_b;
    complete(levels, uncovered, dice);
    for (std::size_t f = 0; f < levels.size(); ++f) {
      for (std::size_t g = f + 1; g < levels.size(); ++g) {
        uncovered.erase({f, levels[f], g, levels[g]});
      }
    }
    cases.push_back(make_case(std::move(levels)));
  }
  return cases;
}

Layer make_layer(Choices const& c, Sizes const& s, DataType type, std::uint64_t seed) {
  Dice dice{seed};
  Layer layer;
  Problem& p = layer.problem;
  p = make_problem(c, s, type);
  double const kernel_size = 1 / std::sqrt(static_cast<double>(s.C));
  double const recurrent_size = 1.5 / std::sqrt(static_cast<double>(s.H));
  layer.x = dice.values(s.T * s.N * s.C, 1.5);
  layer.kernel = dice.values(s.C * 3 * s.H, kernel_size);
  layer.recurrent_kernel = dice.values(s.H * 3 * s.H, recurrent_size);
  Values const h0 = dice.values(s.N * s.H, 1);
  Values bias = dice.values(3 * s.H, 0.5);
  for (std::int64_t u = 0; u < s.H; ++u) bias[static_cast<std::size_t>(u)] += c.update_bias;
  Values const recurrent_bias = dice.values(3 * s.H, 0.5);
  if (c.h0) layer.h0 = h0;
  if (c.bias) layer.bias = bias;
  if (c.recurrent_bias) layer.recurrent_bias = recurrent_bias;

  // From below 0 to above T: the device clamps.
  std::vector<std::int32_t> lengths;
  for (std::int64_t n = 0; n < s.N; ++n) {
    lengths.push_back(static_cast<std::int32_t>(dice.below(s.T + 4) - 1));
  }
  layer.episode_starts = dice.bits(s.T * s.N, 0.25);
  layer.zoneout_mask = dice.bits(s.T * s.N * s.H, 0.7);
  layer.dropconnect_mask = dice.bits(s.H * 3 * s.H, 0.75);
  layer.recurrent_dropout_mask = dice.bits(s.N * s.H, 0.6);
  layer.random.seed = seed * 0x9E3779B97F4A7C15u + 1;
  layer.random.offset = seed ^ 0x123456789u;

  Values const dh = dice.values(s.T * s.N * s.H, 1);
  Values const dfinal_state = dice.values(s.N * s.H, 1);
  if (c.incoming != Incoming::kFinalOnly) layer.dh = dh;
  if (c.incoming != Incoming::kSequenceOnly) layer.dfinal_state = dfinal_state;
  if (c.lengths) set_lengths(layer, std::move(lengths));
  layer.held.dx = dice.values(s.T * s.N * s.C, 1);
  layer.held.dkernel = dice.values(s.C * 3 * s.H, 1);
  layer.held.drecurrent_kernel = dice.values(s.H * 3 * s.H, 1);
  layer.held.dbias = dice.values(3 * s.H, 1);
  layer.held.drecurrent_bias = dice.values(3 * s.H, 1);
  layer.held.dh0 = dice.values(s.N * s.H, 1);

  layer.wanted = wanted(c);
  layer.random_by_pointer = c.random_by_pointer;
  layer.unaligned = c.unaligned;
  layer.small_workspace = c.small_workspace;
  return rounded(std::move(layer), type);
}

void set_lengths(Layer& layer, std::vector<std::int32_t> lengths) {
  layer.problem.lengths = true;
  layer.lengths = std::move(lengths);
  for (std::int64_t n = 0; n < layer.N() && !layer.dh.empty(); ++n) {
    for (std::int64_t t = layer.length(n); t < layer.T(); ++t) {
      auto const row = layer.dh.begin() + (t * layer.N() + n) * layer.H();
      std::fill(row, row + layer.H(), std::numeric_limits<double>::quiet_NaN());
    }
  }
}

Layer in_double(Layer layer) {
  layer.problem.state_type = StateType::kSameAsData;
  layer.problem.weight_gradient_type = WeightGradientType::kSameAsData;
  return layer;
}

}  // namespace gru::test
