// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include <gru/error.hpp>
#include <gru/problem.hpp>

namespace gru::detail {

/// The steps of a pass cut into chunks of nearly equal size, numbered in the order of the steps.
struct Chunks {
  std::int64_t steps = 0;  // T
  std::int64_t size = 0;   // steps in every chunk but the last
  std::int64_t count = 0;
  bool reverse = false;

  /// The steps of the last chunk.
  std::int64_t last_size() const { return count == 0 ? 0 : steps - (count - 1) * size; }

  std::int64_t size_of(std::int64_t chunk) const { return chunk == count - 1 ? last_size() : size; }

  /// The least time index of a chunk.
  std::int64_t first_time(std::int64_t chunk) const {
    return reverse ? steps - chunk * size - size_of(chunk) : chunk * size;
  }
};

/// Problem::workspace_limit is too small for the steps to be done one by one.
struct LimitTooSmall : InvalidArgument {
  LimitTooSmall(std::string const& what, std::size_t bytes)
      : InvalidArgument{what}, least_bytes{bytes} {}

  std::size_t least_bytes;  // that would do
};

/// The fewest chunks whose buffers fit in Problem::workspace_limit beside `fixed_bytes`, and whose
/// rows a matrix product can count. Throws LimitTooSmall where not even one step fits.
inline Chunks cut_into_chunks(Problem const& p, std::size_t fixed_bytes,
                              std::size_t bytes_per_step) {
  Chunks chunks;
  chunks.steps = p.steps;
  chunks.reverse = p.direction == Direction::kReverse;
  if (p.steps == 0 || p.batch == 0) return chunks;
  std::size_t const least = fixed_bytes + bytes_per_step;
  if (least > p.workspace_limit) {
    throw LimitTooSmall{message(__FILE__, __LINE__, "workspace_limit is ", p.workspace_limit,
                                " bytes, this Problem needs at least ", least),
                        least};
  }
  std::int64_t fitting = p.steps;
  if (bytes_per_step > 0) {
    std::size_t const room = (p.workspace_limit - fixed_bytes) / bytes_per_step;
    fitting = static_cast<std::int64_t>(std::min<std::size_t>(room, std::size_t(p.steps)));
  }
  fitting = std::min(fitting, std::max<std::int64_t>(1, kLargestExtent / p.batch));
  chunks.count = (p.steps + fitting - 1) / fitting;
  chunks.size = (p.steps + chunks.count - 1) / chunks.count;
  chunks.count = (p.steps + chunks.size - 1) / chunks.size;
  return chunks;
}

}  // namespace gru::detail
