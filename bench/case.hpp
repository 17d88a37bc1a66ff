// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "measure.hpp"
#include "shapes.hpp"

/// How Google Benchmark is used: a case is repeated here, and reported through it.
namespace gru::bench {

/// How long a case is repeated.
struct Budget {
  double milliseconds = 100;
  double warm_up_milliseconds = 10;
  int least_repeats = 20;
  int least_repeats_of_long = 5;
  double long_milliseconds = 50;
  int most_repeats = 200;
};

/// Fills the budget, within the least and most numbers of repeats.
inline int repeats_for(double milliseconds_a_run, Budget const& budget) {
  int const least = milliseconds_a_run < budget.long_milliseconds ? budget.least_repeats
                                                                  : budget.least_repeats_of_long;
  double const fitting = budget.milliseconds / std::max(milliseconds_a_run, 1e-6);
  return std::max(least, static_cast<int>(std::min<double>(fitting, budget.most_repeats)));
}

/// Warms up (twice at least) and repeats `time_once`, which runs the case once and returns
/// milliseconds.
template <typename TimeOnce>
Timing repeat(TimeOnce const& time_once, Budget const& budget) {
  double warm_up = time_once();
  double latest = time_once();
  for (warm_up += latest; warm_up < budget.warm_up_milliseconds; warm_up += latest) {
    latest = time_once();
  }
  int const repeats = repeats_for(latest, budget);
  std::vector<double> milliseconds;
  for (int i = 0; i < repeats; ++i) milliseconds.push_back(time_once());
  return summarize(std::move(milliseconds));
}

/// Hands a measured case to Google Benchmark: its time is the median, the rest are counters.
inline void report(benchmark::State& state, Shape const& shape, Timing const& timing,
                   Memory const& memory) {
  for (auto _ : state) state.SetIterationTime(timing.median * 1e-3);
  auto const steps = static_cast<double>(shape.steps);
  state.counters["us_per_step"] = timing.median * 1e3 / steps;
  state.counters["us_per_step_p10"] = timing.p10 * 1e3 / steps;
  state.counters["us_per_step_p90"] = timing.p90 * 1e3 / steps;
  state.counters["repeats"] = timing.repeats;
  state.counters["workspace_bytes"] = static_cast<double>(memory.workspace);
  state.counters["reserve_bytes"] = static_cast<double>(memory.reserve);
  state.counters["T"] = steps;
  state.counters["N"] = static_cast<double>(shape.batch);
  state.counters["C"] = static_cast<double>(shape.input_size);
  state.counters["H"] = static_cast<double>(shape.hidden_size);
}

/// "gru/bf16/haste-grid-a/training/threads"; `way` is how it is run.
inline std::string case_name(char const* type, Shape const& shape, Work work, char const* way) {
  return std::string{"gru/"} + type + '/' + shape.name + '/' + to_string(work) + '/' + way;
}

/// Registers a case whose time is measured by `run(state)` itself, through `report`.
template <typename Run>
void add_case(std::string const& name, Run run) {
  benchmark::RegisterBenchmark(name.c_str(), run)
      ->UseManualTime()
      ->Iterations(1)
      ->Unit(benchmark::kMillisecond);
}

}  // namespace gru::bench
