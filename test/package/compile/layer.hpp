// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include <gru/problem.hpp>

/// A small layer with everything switched on that a rounding mode or a link error could touch, as
/// plain data that crosses the border of a shared library.
struct Layer {
  gru::Problem problem;
  std::vector<double> x, h0, kernel, recurrent_kernel, bias, recurrent_bias, dh;
  std::uint64_t seed = 20261123;
};

/// What forward and backward give.
struct Results {
  std::vector<double> h, dx, dkernel, drecurrent_kernel, dbias, drecurrent_bias, dh0;
};

/// What a shared library or a translation unit with device code exports: runs the layer forward and
/// backward on the current device.
using RunOnDevice = void(Layer const&, Results&);
