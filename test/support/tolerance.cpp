// SPDX-License-Identifier: Apache-2.0
#include "support/tolerance.hpp"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstring>
#include <limits>

namespace gru::test {
namespace {

/// Roundings that meet in one value: of operands, gates, the stored value and what it came from.
constexpr double kRoundings = 4;

/// Data are of order 1; smaller results are measured against this.
constexpr double kLeastScale = 0.125;

double accumulation_epsilon(DataType type) {
  return epsilon(type == DataType::kDouble ? DataType::kDouble : DataType::kFloat);
}

/// How many terms are summed, one behind the other, for one element of a result.
double sum_length(Layer const& layer, NamedResult const& result) {
  double const step = static_cast<double>(layer.C() + 3 * layer.H());
  double const sequence = static_cast<double>(layer.T());
  bool const over_batch =
      result.values == &Results::dkernel || result.values == &Results::drecurrent_kernel ||
      result.values == &Results::dbias || result.values == &Results::drecurrent_bias;
  return step + sequence + (over_batch ? sequence * static_cast<double>(layer.N()) : 0);
}

}  // namespace

double epsilon(DataType type) {
  switch (type) {
    case DataType::kFloat:
      return std::numeric_limits<float>::epsilon();
    case DataType::kDouble:
      return std::numeric_limits<double>::epsilon();
    case DataType::kHalf:
      return std::ldexp(1.0, -10);
    case DataType::kBfloat16:
      return std::ldexp(1.0, -7);
  }
  return 0;
}

double product_epsilon(Problem const& problem, DataType type) {
  bool const tf32 = type == DataType::kFloat && problem.precision == Precision::kTf32;
  return tf32 ? std::ldexp(1.0, -10) : epsilon(type);
}

double tolerance(Layer const& layer, NamedResult const& result, DataType type) {
  double const sums = std::sqrt(sum_length(layer, result));
  return kRoundings * (product_epsilon(layer.problem, type) + accumulation_epsilon(type) * sums);
}

double finite_difference_distance(DataType type) {
  // Where distance^4 = eps / distance.
  return std::pow(epsilon(type), 0.2);
}

double finite_difference_tolerance(DataType type) {
  return kRoundings * 16 * std::pow(finite_difference_distance(type), 4);
}

double slope_tolerance(Layer const& layer, NamedResult const& gradient, Values const& values,
                       DataType type, DataType values_type) {
  // Errors and values alike add up along the signs as their root mean square times this.
  double const root = std::sqrt(static_cast<double>(values.size()));
  double largest = kLeastScale;
  double squares = 0;
  for (double const value : values) {
    largest = std::max(largest, std::abs(value));
    squares += value * value;
  }
  double const length = std::max(kLeastScale * root, std::sqrt(squares));
  return tolerance(layer, gradient, type) * largest * root +
         finite_difference_tolerance(values_type) * length;
}

void check_close(std::string const& name, Values const& actual, Values const& expected,
                 double relative) {
  INFO("result: " << name);
  REQUIRE(actual.size() == expected.size());
  double scale = kLeastScale;
  for (double const value : expected) scale = std::max(scale, std::abs(value));
  double worst = 0;
  std::size_t where = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    double const difference = std::abs(actual[i] - expected[i]);
    bool const is_worse = !(difference <= worst);  // also where it is NaN
    if (is_worse && !std::isnan(worst)) {
      worst = difference;
      where = i;
    }
  }
  INFO("largest difference at element " << where << " of " << actual.size() << ": "
                                        << (actual.empty() ? 0 : actual[where]) << " against "
                                        << (actual.empty() ? 0 : expected[where]));
  CHECK(worst <= relative * scale);
}

void check_same_bits(std::string const& name, Values const& actual, Values const& expected) {
  INFO("result: " << name);
  REQUIRE(actual.size() == expected.size());
  std::size_t different = 0;
  std::size_t where = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (std::memcmp(&actual[i], &expected[i], sizeof(double)) == 0) continue;
    if (different++ == 0) where = i;
  }
  INFO("first at element " << where << ": " << (actual.empty() ? 0 : actual[where]) << " against "
                           << (actual.empty() ? 0 : expected[where]));
  CHECK(different == 0);
}

void check_close(Results const& actual, Results const& expected, Layer const& layer,
                 DataType type) {
  for (NamedResult const& result : named_results()) {
    check_close(result.name, actual.*result.values, expected.*result.values,
                tolerance(layer, result, type));
  }
}

void check_equal(Results const& actual, Results const& expected) {
  for (NamedResult const& result : named_results()) {
    check_close(result.name, actual.*result.values, expected.*result.values, 0);
  }
}

void check_same_bits(Results const& actual, Results const& expected) {
  for (NamedResult const& result : named_results()) {
    check_same_bits(result.name, actual.*result.values, expected.*result.values);
  }
}

}  // namespace gru::test
