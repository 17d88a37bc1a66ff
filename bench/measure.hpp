// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

/// What is timed, how often, and what is made of the times.
namespace gru::bench {

/// What is timed. The input product is always part of it.
enum class Work {
  kInference,     ///< forward, nothing kept
  kForward,       ///< forward, with the reserve filled
  kBackward,      ///< all gradients: dx, dW, dR, both biases, dh0
  kTrainingStep,  ///< kForward and kBackward
};

inline constexpr Work kAllWork[] = {Work::kInference, Work::kForward, Work::kBackward,
                                    Work::kTrainingStep};

inline char const* to_string(Work work) {
  switch (work) {
    case Work::kInference:
      return "inference";
    case Work::kForward:
      return "forward";
    case Work::kBackward:
      return "backward";
    case Work::kTrainingStep:
      return "training";
  }
  return "unknown";
}

inline bool goes_backward(Work work) {
  return work == Work::kBackward || work == Work::kTrainingStep;
}

/// Milliseconds of the repeats of a case.
struct Timing {
  double median = 0;
  double p10 = 0;
  double p90 = 0;
  int repeats = 0;
};

inline Timing summarize(std::vector<double> milliseconds) {
  if (milliseconds.empty()) return {};
  std::sort(milliseconds.begin(), milliseconds.end());
  auto const quantile = [&](double q) {  // linear between the two nearest
    double const place = q * static_cast<double>(milliseconds.size() - 1);
    auto const below = static_cast<std::size_t>(place);
    std::size_t const above = std::min(below + 1, milliseconds.size() - 1);
    double const share = place - static_cast<double>(below);
    return milliseconds[below] * (1 - share) + milliseconds[above] * share;
  };
  return {quantile(0.5), quantile(0.1), quantile(0.9), static_cast<int>(milliseconds.size())};
}

/// The bytes of a case, beside inputs, outputs and gradients.
struct Memory {
  std::size_t workspace = 0;
  std::size_t reserve = 0;
};

/// Seconds since some moment.
inline double seconds_now() {
  auto const now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

template <typename Run>
double milliseconds_of(Run const& run) {
  double const begin = seconds_now();
  run();
  return (seconds_now() - begin) * 1e3;
}

/// One of those that take turns.
struct Racer {
  std::function<double()> run_once;  ///< Runs it once, and returns milliseconds.
  std::string group = {};  ///< Where not empty, only the fastest of a group go all the way.
};

/// How long a race goes on.
struct RaceLimits {
  double seconds = 0.2;                                           ///< At least that long,
  int least_rounds = 20;                                          ///< and at least so many rounds,
  int most_rounds = 100;                                          ///< but no more than those,
  double most_seconds = std::numeric_limits<double>::infinity();  ///< nor longer, once there are
  int fewest_rounds = 5;                                          ///< so many.
};

/// Times all racers in turns, one run each a round, and in each round another one begins, so that
/// a drift of clocks meets all alike. Warms up by one round that does not count.
///
/// Of a group, those over 1.1 times slower than its fastest drop out after two rounds, and all but
/// the fastest after five.
inline std::vector<Timing> race(std::vector<Racer> const& racers, RaceLimits const& limits) {
  std::vector<std::vector<double>> milliseconds(racers.size());
  std::vector<bool> dropped(racers.size(), false);
  auto const best_of = [&](std::size_t i) {
    return *std::min_element(milliseconds[i].begin(), milliseconds[i].end());
  };
  auto const drop_slow = [&](double too_slow) {
    for (std::size_t i = 0; i < racers.size(); ++i) {
      for (std::size_t other = 0; other < racers.size(); ++other) {
        bool const rivals = !racers[i].group.empty() && racers[i].group == racers[other].group;
        if (rivals && best_of(i) > too_slow * best_of(other)) dropped[i] = true;
      }
    }
  };
  double const begin = seconds_now();
  auto const goes_on = [&](int rounds) {
    double const passed = seconds_now() - begin;
    if (rounds >= limits.fewest_rounds && passed > limits.most_seconds) return false;
    if (rounds < limits.least_rounds) return true;
    return rounds < limits.most_rounds && passed < limits.seconds;
  };
  for (Racer const& racer : racers) racer.run_once();
  for (int round = 0; goes_on(round); ++round) {
    for (std::size_t turn = 0; turn < racers.size(); ++turn) {
      std::size_t const i = (turn + static_cast<std::size_t>(round)) % racers.size();
      if (!dropped[i]) milliseconds[i].push_back(racers[i].run_once());
    }
    if (round + 1 == 2) drop_slow(1.1);
    if (round + 1 == 5) drop_slow(1);
  }
  std::vector<Timing> timings;
  for (auto& times : milliseconds) timings.push_back(summarize(std::move(times)));
  return timings;
}

}  // namespace gru::bench
