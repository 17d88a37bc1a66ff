// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "support/engine.hpp"
#include "support/layer.hpp"

namespace gru::test {

/// The host engine in T (float, double, Eigen::half, Eigen::bfloat16) on so many threads; 1 is
/// serial, without a pool.
template <typename T>
Backend<T> const& host_backend(int threads = 1);

/// The same, for canonical layers.
template <typename T>
Engine const& host_engine(int threads = 1);

/// The layer by the host engine in T.
template <typename T>
Results run_host(Layer const& layer) {
  return host_engine<T>().run(layer);
}

}  // namespace gru::test
