// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "options.hpp"

namespace char_model {

/// How far a run has come; it ends at the first of its limits.
class RunLength {
 public:
  static constexpr double kDefaultSeconds = 75;
  static constexpr double kDefaultEpochs = 10;

  RunLength(Options const& options, std::int64_t iterations_per_epoch) {
    bool const given = options.seconds || options.epochs || options.iterations;
    seconds_ = options.seconds.value_or(given ? kUnlimited : kDefaultSeconds);
    double const epochs = options.epochs.value_or(given ? kUnlimited : kDefaultEpochs);
    iterations_ = std::ceil(epochs * static_cast<double>(iterations_per_epoch));
    if (options.iterations) {
      iterations_ = std::min(iterations_, static_cast<double>(*options.iterations));
    }
  }

  /// 0 to 1.
  double fraction(double seconds, double iterations) const {
    return std::min(1.0, std::max(seconds / seconds_, iterations / iterations_));
  }

  double seconds_left(double seconds, double iterations) const {
    double const by_iterations = (iterations_ - iterations) * seconds / std::max(iterations, 1.0);
    return std::max(0.0, std::min(seconds_ - seconds, by_iterations));
  }

  /// Whether the command line asks for no training at all.
  static bool is_zero(Options const& options) {
    return options.seconds == 0.0 || options.epochs == 0.0 || options.iterations == 0;
  }

 private:
  static constexpr double kUnlimited = std::numeric_limits<double>::infinity();

  double seconds_;
  double iterations_;
};

}  // namespace char_model
