// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

#include <gru/host/execution.hpp>

/// How work is cut into tasks. All cuts depend on sizes alone, never on the number of threads, so
/// that every thread count gives the same bits.
namespace gru::detail::host {

inline std::int64_t divide_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

/// Calls f(i) for i in [0, count), in parallel where the caller gave the means.
template <typename F>
void for_each_task(gru::host::Execution const& execution, std::int64_t count, F const& f) {
  if (count > 1 && execution.parallel_for) {
    execution.parallel_for(count, gru::host::Task{std::cref(f)});
  } else {
    for (std::int64_t i = 0; i < count; ++i) f(i);
  }
}

/// [0, extent) in ranges of nearly equal length, which begin at multiples of `unit`.
struct Ranges {
  std::int64_t extent = 0;
  std::int64_t count = 0;
  std::int64_t unit = 1;

  std::int64_t begin(std::int64_t i) const {
    return std::min(extent, divide_up(extent, unit) * i / count * unit);
  }
  std::int64_t end(std::int64_t i) const { return begin(i + 1); }
};

/// Calls f(begin, end) for ranges of rows of `width` elements that are copied or converted.
template <typename F>
void for_each_row_range(gru::host::Execution const& execution, std::int64_t rows,
                        std::int64_t width, F const& f) {
  constexpr std::int64_t kElementsPerTask = std::int64_t{1} << 16;
  Ranges const ranges{rows, std::min(rows, divide_up(rows * width, kElementsPerTask))};
  for_each_task(execution, ranges.count,
                [&](std::int64_t i) { f(ranges.begin(i), ranges.end(i)); });
}

}  // namespace gru::detail::host
