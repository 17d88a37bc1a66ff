// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "support/engine.hpp"
#include "support/layer.hpp"

/// Needs no CUDA header: the passes are called in device_*.cu.
namespace gru::test {

bool has_device();

/// The device engine of the current device, on a stream of its own; skips the test where there is
/// no device. T is the host's type with the same bits: float, double, Eigen::half (for __half),
/// Eigen::bfloat16 (for __nv_bfloat16).
template <typename T>
Backend<T> const& device_backend();

/// The same, for canonical layers.
template <typename T>
Engine const& device_engine();

/// The layer by the device engine in T.
template <typename T>
Results run_device(Layer const& layer) {
  return device_engine<T>().run(layer);
}

}  // namespace gru::test
