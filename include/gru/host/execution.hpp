// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>

namespace gru::host {

/// One of the tasks that a `parallel_for` is given, called with its number.
using Task = std::function<void(std::int64_t)>;

/// Where a host pass runs: in the calling thread alone, or through the caller's `parallel_for`.
struct Execution {
  /// Calls task(i) once for each i in [0, count), in any order and in any threads, and returns when
  /// all calls have. Empty: the calling thread does them one by one. How many threads there are
  /// changes no bit of a result; who compiles with OpenMP defines EIGEN_DONT_PARALLELIZE for that,
  /// since Eigen would use threads of its own.
  std::function<void(std::int64_t count, Task const& task)> parallel_for = {};
};

}  // namespace gru::host
