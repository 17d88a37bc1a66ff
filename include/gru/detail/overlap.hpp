// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

/// How the steps of a pass are cut where the input product of a chunk is to run beside the steps of
/// the chunk before it: a small first chunk, whose product nothing hides, and each next one as much
/// larger as its product is faster than the steps. Few, since each is a launch that loads R anew.
namespace gru::detail {

/// What decides the cut.
struct OverlapCosts {
  double step_us = 0;   // a step, without the input product
  double input_us = 0;  // a step's share of the input product on the whole device
  double idle = 0;      // the share of the device that the steps leave to the product
};

/// H200, cluster engine, half: 6 to 11 us a launch more.
inline constexpr double kChunkStartUs = 9;

/// Predicted time of chunks of these sizes.
inline double predict_overlap(std::vector<std::int64_t> const& sizes, OverlapCosts const& costs) {
  if (sizes.empty()) return 0;
  double us = static_cast<double>(sizes[0]) * costs.input_us;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    double const steps_us = static_cast<double>(sizes[i]) * costs.step_us;
    bool const is_last = i + 1 == sizes.size();
    double const next = is_last ? 0 : static_cast<double>(sizes[i + 1]) * costs.input_us;
    us += std::max(steps_us, next / std::max(costs.idle, 0.01)) + (is_last ? 0 : kChunkStartUs);
  }
  return us;
}

/// Sizes of chunks in the order of the steps, none above `most`: the fastest predicted; as few as
/// can be where nothing is idle.
inline std::vector<std::int64_t> cut_for_overlap(std::int64_t steps, std::int64_t most,
                                                 OverlapCosts const& costs) {
  constexpr int kMostGrowing = 6;
  constexpr double kMostGrowth = 8;
  double const growth =
      std::clamp(costs.step_us * costs.idle / std::max(costs.input_us, 1e-6), 1.0, kMostGrowth);
  std::vector<std::int64_t> best;
  double weight = 0;  // of all chunks, where the first one's is 1
  double next_weight = 1;
  int const most_growing = costs.idle > 0 ? kMostGrowing : 1;
  for (int count = 1; count <= most_growing; ++count) {
    weight += next_weight;
    next_weight *= growth;
    std::vector<std::int64_t> sizes;
    double size = static_cast<double>(steps) / weight;
    for (std::int64_t left = steps; left > 0; left -= sizes.back()) {
      bool const is_rest = static_cast<int>(sizes.size()) + 1 >= count;
      std::int64_t const wanted = is_rest ? left : static_cast<std::int64_t>(size);
      sizes.push_back(std::clamp<std::int64_t>(wanted, 1, std::min(left, most)));
      size *= growth;
    }
    if (best.empty() || predict_overlap(sizes, costs) < predict_overlap(best, costs)) best = sizes;
  }
  return best;
}

}  // namespace gru::detail
