// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include <gru/host.hpp>

#include "layer.hpp"

/// What a test of CTest that cannot run here returns.
inline constexpr int kSkipped = 4;

/// The largest difference under --use_fast_math that the documentation names, relative to the
/// largest value of a tensor: the error of tanh.approx.
inline constexpr double kFastMathError = 1.0 / 2048;

inline std::vector<double> draw_values(std::mt19937& generator, std::int64_t count, double scale) {
  std::vector<double> values(static_cast<std::size_t>(count));
  for (double& v : values) {
    // A multiple of 2^-10, the same in float and double.
    int const step = static_cast<int>(generator() % 2048) - 1024;
    v = scale * step / 1024;
  }
  return values;
}

inline Layer make_layer() {
  std::int64_t const T = 6;
  std::int64_t const N = 5;
  std::int64_t const C = 7;
  std::int64_t const H = 33;
  Layer layer;
  layer.problem.steps = T;
  layer.problem.batch = N;
  layer.problem.input_size = C;
  layer.problem.hidden_size = H;
  layer.problem.zoneout.rate = 0.25;
  layer.problem.stochastic = true;
  layer.problem.keep_for_backward = true;
  std::mt19937 generator{7};
  layer.x = draw_values(generator, T * N * C, 1);
  layer.h0 = draw_values(generator, N * H, 1);
  layer.kernel = draw_values(generator, C * 3 * H, 0.5);
  layer.recurrent_kernel = draw_values(generator, H * 3 * H, 0.25);
  layer.bias = draw_values(generator, 3 * H, 0.5);
  layer.recurrent_bias = draw_values(generator, 3 * H, 0.5);
  layer.dh = draw_values(generator, T * N * H, 1);
  return layer;
}

/// The layer by the host engine in double.
inline Results run_on_host(Layer const& layer) {
  gru::host::ForwardPass<double> const forward{layer.problem};
  gru::host::BackwardPass<double> const backward{layer.problem};
  auto const aligned = [](std::vector<unsigned char>& memory, std::size_t bytes) -> void* {
    memory.resize(bytes + 256);
    void* at = memory.data();
    std::size_t room = memory.size();
    return std::align(256, bytes, at, room);
  };
  std::vector<unsigned char> memory, reserve;
  Results r;
  r.h.resize(layer.dh.size());
  r.dx.resize(layer.x.size());
  r.dkernel.resize(layer.kernel.size());
  r.drecurrent_kernel.resize(layer.recurrent_kernel.size());
  r.dbias.resize(layer.bias.size());
  r.drecurrent_bias.resize(layer.recurrent_bias.size());
  r.dh0.resize(layer.h0.size());

  gru::Weights<double> weights;
  weights.kernel = layer.kernel.data();
  weights.recurrent_kernel = layer.recurrent_kernel.data();
  weights.bias = layer.bias.data();
  weights.recurrent_bias = layer.recurrent_bias.data();

  gru::ForwardTensors<double> inputs;
  inputs.x = layer.x.data();
  inputs.h0 = layer.h0.data();
  inputs.random.seed = layer.seed;
  inputs.h = r.h.data();
  inputs.reserve = {aligned(reserve, forward.reserve_bytes()), forward.reserve_bytes()};
  std::size_t bytes = forward.workspace_bytes();
  forward.run({}, weights, inputs, {aligned(memory, bytes), bytes});

  gru::BackwardTensors<double> gradients;
  gradients.x = layer.x.data();
  gradients.h = r.h.data();
  gradients.h0 = layer.h0.data();
  gradients.random = inputs.random;
  gradients.dh = layer.dh.data();
  gradients.reserve = inputs.reserve;
  gradients.dx = r.dx.data();
  gradients.dkernel = r.dkernel.data();
  gradients.drecurrent_kernel = r.drecurrent_kernel.data();
  gradients.dbias = r.dbias.data();
  gradients.drecurrent_bias = r.drecurrent_bias.data();
  gradients.dh0 = r.dh0.data();
  bytes = backward.workspace_bytes();
  backward.run({}, weights, gradients, {aligned(memory, bytes), bytes});
  return r;
}

/// The largest difference that rounding explains, relative to the largest value of a tensor: in
/// each of T steps, sums of C + H products and a pointwise function in a type with `epsilon`.
inline double tolerance(gru::Problem const& p, double epsilon) {
  return 4 * static_cast<double>(p.steps * (p.input_size + p.hidden_size + 1)) * epsilon;
}

/// Prints what differs by more than the tolerance, and returns whether nothing does.
inline bool agree(char const* who, Results const& actual, Results const& expected,
                  double tolerance) {
  bool all_agree = true;
  auto const compare = [&](char const* name, std::vector<double> const& a,
                           std::vector<double> const& e) {
    double largest = 0;
    double difference = a.size() == e.size() ? 0 : std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < std::min(a.size(), e.size()); ++i) {
      largest = std::max(largest, std::abs(e[i]));
      double const d = std::abs(a[i] - e[i]);
      difference = d >= 0 ? std::max(difference, d) : std::numeric_limits<double>::infinity();
    }
    bool const agrees = difference <= tolerance * largest;
    std::printf("%s: %s differs by %.2e of %.2e, %.2e allowed%s\n", who, name, difference, largest,
                tolerance * largest, agrees ? "" : ": WRONG");
    all_agree = all_agree && agrees;
  };
  compare("h", actual.h, expected.h);
  compare("dx", actual.dx, expected.dx);
  compare("dW", actual.dkernel, expected.dkernel);
  compare("dR", actual.drecurrent_kernel, expected.drecurrent_kernel);
  compare("dbx", actual.dbias, expected.dbias);
  compare("dbr", actual.drecurrent_bias, expected.drecurrent_bias);
  compare("dh0", actual.dh0, expected.dh0);
  return all_agree;
}
