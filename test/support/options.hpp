// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "support/layer.hpp"

/// Layers with random data for chosen options: each option alone, and all pairs of options.
namespace gru::test {

struct Sizes {
  std::int64_t T = 5;
  std::int64_t N = 3;
  std::int64_t C = 4;
  std::int64_t H = 6;
};

std::string to_string(Sizes const& sizes);

/// What a layer is made with.
struct Choices {
  enum class Masks { kNone, kDrawn, kBrought };
  enum class Adding { kNothing, kEverything, kSome };
  enum class Incoming { kBoth, kSequenceOnly, kFinalOnly };
  enum class Asked { kEverything, kWeightsOnly, kDataOnly, kSome };

  Variant variant = Variant::kResetAfter;
  Direction direction = Direction::kForward;
  Layout layout = Layout::kTimeMajor;
  bool wide_rows = false;
  WeightFormat::Shape weight_shape = WeightFormat::Shape::kInputByGates;
  WeightFormat::GateOrder gate_order = WeightFormat::GateOrder::kUpdateFirst;
  bool wide_weights = false;
  bool h0 = true;
  bool bias = true;
  bool recurrent_bias = true;
  bool lengths = false;
  bool episode_starts = false;
  Masks zoneout = Masks::kNone;
  Masks dropconnect = Masks::kNone;
  Masks recurrent_dropout = Masks::kNone;
  bool stochastic = true;
  bool keep_for_backward = true;
  ReservePolicy reserve = ReservePolicy::kKeep;
  StateType state_type = StateType::kSameAsData;
  WeightGradientType weight_gradient_type = WeightGradientType::kSameAsData;
  Adding adding = Adding::kNothing;
  Incoming incoming = Incoming::kBoth;
  Asked asked = Asked::kEverything;
  bool final_state = true;
  bool small_workspace = false;
  bool unaligned = false;
  bool random_by_pointer = false;
  double update_bias = 0;  ///< Added to bx of the update gate.
};

/// One value of an option, and what sets it.
struct Level {
  std::string name;
  std::function<void(Choices&)> apply;
};

/// An option; its first level is the default.
using Factor = std::vector<Level>;

std::vector<Factor> const& factors();

/// Choices, and their name for messages.
struct Case {
  std::string name;
  Choices choices;
  std::vector<std::size_t> levels;  ///< one for each factor
};

/// The defaults, and each other level of each option alone, in both variants.
std::vector<Case> single_option_cases();

/// A few dozen cases in which every pair of levels of every two options occurs. The same ones in
/// every run.
std::vector<Case> pairwise_cases();

/// A layer with random data, rounded to `type`. Options that the type does not know (float states
/// for double) are left out. Values beyond the lengths that must not be read are NaN.
Layer make_layer(Choices const& choices, Sizes const& sizes, DataType type, std::uint64_t seed);

/// Announces lengths; what lies beyond them in dh, and must not be read, becomes NaN.
void set_lengths(Layer& layer, std::vector<std::int32_t> lengths);

/// The layer as an engine in double takes it.
Layer in_double(Layer layer);

/// Numbers that are the same with every standard library.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : engine_{seed} {}

  /// In [low, high).
  double uniform(double low, double high) {
    double const unit = static_cast<double>(engine_() >> 11) * 0x1p-53;
    return low + (high - low) * unit;
  }
  std::int64_t below(std::int64_t end) {
    return static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(end));
  }
  Values values(std::int64_t count, double magnitude);
  Bytes bits(std::int64_t count, double probability_of_one);

 private:
  std::mt19937_64 engine_;
};

}  // namespace gru::test
