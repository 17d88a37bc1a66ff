// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "support/engine.hpp"
#include "support/layer.hpp"

/// Needs no CUDA header: the passes are called in device_*.cu.
namespace gru::test {

bool has_device();

/// The passes of the current device, on a stream of their own; skips the test where there is no
/// device. T is the host's type with the same bits: float, double, Eigen::half (for __half),
/// Eigen::bfloat16 (for __nv_bfloat16). A pass runs by the engine that is named here where that can
/// run the Problem, and by the policy's choice elsewhere.
template <typename T>
Backend<T> const& device_backend(gru::Engine engine = gru::Engine::kAutomatic);

/// The same, for canonical layers.
template <typename T>
Engine const& device_engine(gru::Engine engine = gru::Engine::kAutomatic);

/// The engines of the current device that can run a Problem's forward pass in T; skips the test
/// where there is no device.
template <typename T>
std::vector<gru::Engine> forward_engines(Problem problem);

/// Those that can run the smallest of Problems.
template <typename T>
std::vector<gru::Engine> forward_engines();

/// The layer by the device engine in T.
template <typename T>
Results run_device(Layer const& layer) {
  return device_engine<T>().run(layer);
}

}  // namespace gru::test
