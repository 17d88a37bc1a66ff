// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include <gru/problem.hpp>

namespace gru::bench {

/// Rates of what is dropped where an option drops.
inline constexpr double kDropRate = 0.1;
/// How often an episode starts.
inline constexpr double kEpisodeStartShare = 0.02;

/// An option, or several, as they are timed beside a layer without.
struct OptionSet {
  std::string name = {};              ///< Empty for a layer without options.
  void (*apply)(Problem&) = nullptr;  ///< Sets the options.
  bool full_lengths = false;          ///< The lengths are all T; otherwise uniform in 1..T.
};

/// Each option by itself, then those that do not change the formulas' order of work together.
inline std::vector<OptionSet> option_sets() {
  return {
      {},
      {"zoneout drawn",
       [](Problem& p) {
         p.stochastic = true;
         p.zoneout = {kDropRate, MaskSource::kPhilox};
       }},
      {"zoneout mask",
       [](Problem& p) {
         p.stochastic = true;
         p.zoneout = {kDropRate, MaskSource::kCaller};
       }},
      {"DropConnect",
       [](Problem& p) {
         p.stochastic = true;
         p.dropconnect = {kDropRate, MaskSource::kPhilox};
       }},
      {"recurrent dropout",
       [](Problem& p) {
         p.stochastic = true;
         p.recurrent_dropout = {kDropRate, MaskSource::kPhilox};
       }},
      {"lengths uniform in 1..T", [](Problem& p) { p.lengths = true; }},
      {"episode starts", [](Problem& p) { p.episode_starts = true; }},
      {"reserve", [](Problem& p) { p.keep_for_backward = true; }},
      {"reserve overwritten", [](Problem& p) { p.reserve = ReservePolicy::kOverwrite; }},
      {"recomputed", [](Problem& p) { p.reserve = ReservePolicy::kRecompute; }},
      {"reset before", [](Problem& p) { p.variant = gru::Variant::kResetBefore; }},
      {"batch-major", [](Problem& p) { p.layout = Layout::kBatchMajor; }},
      {"reverse", [](Problem& p) { p.direction = Direction::kReverse; }},
      {"all but reset before",
       [](Problem& p) {
         p.stochastic = true;
         p.zoneout = {kDropRate, MaskSource::kPhilox};
         p.dropconnect = {kDropRate, MaskSource::kPhilox};
         p.recurrent_dropout = {kDropRate, MaskSource::kPhilox};
         p.lengths = true;
         p.episode_starts = true;
         p.keep_for_backward = true;
         p.layout = Layout::kBatchMajor;
         p.direction = Direction::kReverse;
       }},
  };
}

inline std::vector<OptionSet> length_sets() {
  return {
      {},
      {"lengths all T", [](Problem& p) { p.lengths = true; }, true},
      {"lengths uniform in 1..T", [](Problem& p) { p.lengths = true; }},
      {"lengths uniform in 1..T, on the host too",
       [](Problem& p) { p.lengths = p.host_lengths = true; }},
  };
}

}  // namespace gru::bench
