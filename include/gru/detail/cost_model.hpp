// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include <gru/problem.hpp>

/// Predicted times, in microseconds, fitted to measurements on one H200 (132 multiprocessors,
/// driver 580), replayed from a CUDA graph. They serve to compare engines; launch costs of the host
/// are not in them.
namespace gru::detail {

/// Up to so many rows a step's products are cut into parts of the depth; see recurrent_parts.
inline constexpr std::int64_t kFewRows = 16;

/// A step's time as base + weights * H^2 / 1e6 + product * N H^2 / 1e8 + cell * N H / 1e5, without
/// the products of whole sequences: for these see predict_input_product and
/// predict_gradient_products.
struct StepCosts {
  double base;
  double weights;
  double product;
  double cell;
};

// Fitted to 100 steps of the policy test's shapes and 50 steps of 1024 and 4096 rows (worst 23%).
// Few rows are kFewRows of float, or one of TF32.
inline constexpr StepCosts kForward16 = {4.6, 1.0, 0.4, 1.4};
inline constexpr StepCosts kBackward16 = {5.8, 1.0, 0.5, 1.8};
inline constexpr StepCosts kForwardFloat = {7.1, 3.4, 12.6, 1.4};
inline constexpr StepCosts kBackwardFloat = {11.4, 1.4, 16.9, 1.3};
inline constexpr StepCosts kForwardFewRows = {4.5, 2.5, 41, 0};
inline constexpr StepCosts kBackwardFewRows = {5.4, 2.7, 63, 0};
inline constexpr StepCosts kForwardTf32 = {6.1, 3.0, 0.8, 1.9};
inline constexpr StepCosts kBackwardTf32 = {7.7, 2.5, 3.3, 2.4};

/// A step's share of the input product of floats by FFMA.
inline double predict_plain_product(Problem const& p) {
  double const T = static_cast<double>(p.steps);
  double const N = static_cast<double>(p.batch);
  double const C = static_cast<double>(p.input_size);
  double const H = static_cast<double>(p.hidden_size);
  return 4 / T + N * (12.0 * C * H / 1e8 + 7.0 * H / 1e6);
}

/// The same by parts, as split_product.cuh says: the launches and W's parts once, x's parts, P and
/// the product for each row. Fitted to 110 shapes of 200 to 64000 rows.
inline double predict_split_product(Problem const& p) {
  double const T = static_cast<double>(p.steps);
  double const N = static_cast<double>(p.batch);
  double const C = static_cast<double>(p.input_size);
  double const H = static_cast<double>(p.hidden_size);
  double const once = 9 + 24 * C * H / 1e6;
  return once / T + N * (5.2 * C * H / 1e8 + (4.0 * C + 1.5 * H) / 1e6);
}

/// Products of backward that are by parts; the others are plain.
struct GradientsByParts {
  bool dx = false;
  bool dkernel = false;
  bool drecurrent = false;

  bool any() const { return dx || dkernel || drecurrent; }
};

/// The time of dx, dW and dR of float for a chunk of so many rows. Not fitted: multiplying costs
/// what it was measured to cost in forward's input product, memory 4 TB/s, a launch 3 us.
inline double predict_gradients(Problem const& p, double rows, GradientsByParts by_parts) {
  constexpr double kLaunch = 3;
  constexpr double kPlain = 4e-8;       // a multiplication and addition by FFMA
  constexpr double kParts = 1.73e-8;    // the same by parts
  constexpr double kSplitValue = 3e-6;  // to read a value and write its parts
  constexpr double kSumValue = 2e-6;    // to read and write a value of D
  double const C = static_cast<double>(p.input_size);
  double const H = static_cast<double>(p.hidden_size);
  auto const plain = [&](double in, double out) { return kLaunch + kPlain * rows * in * out; };
  auto const split = [&](double values) { return kLaunch + kSplitValue * values; };
  auto const parts = [&](double in, double out, double values, double passes) {
    return kParts * rows * in * out + passes * (kLaunch + kSumValue * values);
  };
  auto const weights = [&](double in, double out) {
    constexpr double kFullDevice = 4.3e6;  // values of D that occupy all multiprocessors
    double const sums = std::max(1.0, std::min(16.0, kFullDevice / (in * out)));
    return parts(in, out, in * out * sums, 4 + std::max(1.0, std::sqrt(rows) / 12 / sums));
  };
  double time = by_parts.any() ? split(rows * (by_parts.drecurrent ? 4 : 3) * H) : 0;
  time += by_parts.dx ? split(3 * C * H) + parts(C, 3 * H, rows * C, 2 + std::ceil(3 * H / 512))
                      : plain(C, 3 * H);
  time += by_parts.dkernel ? split(rows * C) + weights(C, 3 * H) : plain(C, 3 * H);
  time += by_parts.drecurrent ? split(rows * H) + weights(H, 2 * H) + weights(H, H)
                              : plain(H, 2 * H) + plain(H, H);
  return time;
}

/// A step's share of the input product. Where it is plain and on tensor cores, either they or
/// memory bound it.
template <typename T>
double predict_input_product(Problem const& p) {
  if (p.steps == 0) return 0;
  bool const tf32 = p.precision == Precision::kTf32;
  if (std::is_same_v<T, float> && !tf32) {
    double const plain = predict_plain_product(p);
    bool const may_split = p.precision == Precision::kFp32 && p.hidden_size % 8 == 0;
    return may_split ? std::min(plain, predict_split_product(p)) : plain;
  }
  double const N = static_cast<double>(p.batch);
  double const C = static_cast<double>(p.input_size);
  double const H = static_cast<double>(p.hidden_size);
  double const multiply = N * C * H / 1e8 * (std::is_same_v<T, float> ? 1.9 : 1.0);
  double const write = N * H * 6 / 1e6;
  return std::max(multiply, write);
}

/// What starts a persistent pass: the kernels before it, and R's way onto the chip. Fitted to runs
/// of one step. The engines without tensor cores keep floats whatever the type.
template <typename T>
double predict_recurrence_start(Problem const& p, Engine engine) {
  bool const keeps_floats = engine == Engine::kClusterFma || engine == Engine::kGridFma;
  double const per_weight = keeps_floats ? 2.6 : std::is_same_v<T, float> ? 1.8 : 1.0;
  double const H = static_cast<double>(p.hidden_size);
  return 12 + per_weight * H * H / 1e5;
}

/// What starts a stepwise pass, beside the input product and R's way into the L2 cache, and what a
/// backward pass does more than a forward pass before its first step and after its last one.
inline constexpr double kStepwiseStartUs = 7;
inline constexpr double kBackwardFrameUs = 18;
inline constexpr double kMemoryBytesPerUs = 4e6;  // by which R gets there

/// What starts a backward pass of the grid engine beside its frame: it fills its exchange.
inline double predict_backward_exchange(Problem const& p) {
  return 2.5e-4 * static_cast<double>(p.batch) * static_cast<double>(p.hidden_size);
}

/// What a step of the cluster or the grid engine takes more for the rows beyond 512, whose inputs
/// and outputs other tiles no longer hide. Fitted to 1024 and 4096 rows of H 64 to 1024.
template <typename T>
double predict_many_rows(Problem const& p, Engine engine, bool backward) {
  bool const is_grid = engine == Engine::kGrid;
  if (!is_grid && engine != Engine::kCluster) return 0;
  double per_million = backward ? (is_grid ? 90 : 18) : (is_grid ? 45 : 15);
  if (sizeof(T) == 2) per_million = backward ? (is_grid ? 20 : 0) : (is_grid ? 10 : 24);
  double const rows = std::max(0.0, static_cast<double>(p.batch) - 512);
  double const units = std::max(128.0, static_cast<double>(p.hidden_size));
  return per_million * rows * units / 1e6;
}

/// What each chunk but one costs a backward pass that sums weight gradients in its workspace, for
/// each of their values: 375 32 2816 2816 in 16 bits, an H200.
inline constexpr double kChunkUsPerSum = 4.4e-6;

/// A step's share of the products that follow backward's steps: dx, dW and dR.
template <typename T>
double predict_gradient_products(Problem const& p) {
  if (p.steps == 0 || p.batch == 0) return 0;
  Problem square = p;
  square.input_size = p.hidden_size;
  if (!std::is_same_v<T, float> || p.precision == Precision::kTf32) {
    return 2 * predict_input_product<T>(p) + predict_input_product<T>(square);
  }
  // Of a chunk of about as many rows as the workspace usually has room for.
  double const N = static_cast<double>(p.batch);
  double const rows = std::max(N, std::min(32768.0, static_cast<double>(p.steps) * N));
  double time = predict_gradients(p, rows, {});
  bool const may_split = p.precision == Precision::kFp32 && p.hidden_size % 8 == 0 &&
                         p.input_size % 8 == 0 && rows >= 2048;
  if (may_split) time = std::min(time, predict_gradients(p, rows, {true, true, true}));
  return time / rows * N;
}

/// The stepwise engine's time for a pass; 0, no prediction, for double, which was not measured.
template <typename T>
double predict_stepwise(Problem const& p, bool backward) {
  bool const resets_before = p.variant == Variant::kResetBefore;
  if (std::is_same_v<T, double>) return 0;
  bool const tf32 = p.precision == Precision::kTf32;
  StepCosts c = backward ? kBackward16 : kForward16;
  if (std::is_same_v<T, float>) c = backward ? kBackwardFloat : kForwardFloat;
  if (std::is_same_v<T, float> && tf32) c = backward ? kBackwardTf32 : kForwardTf32;
  if (std::is_same_v<T, float> && p.batch <= (tf32 ? 1 : kFewRows)) {
    c = backward ? kBackwardFewRows : kForwardFewRows;
  }
  double const N = static_cast<double>(p.batch);
  double const H = static_cast<double>(p.hidden_size);
  double const input = backward ? predict_gradient_products<T>(p) : predict_input_product<T>(p);
  // Reset before: two products and two kernels a step, which together are about as large as one.
  double const products = c.weights * H * H / 1e6 + c.product * N * H * H / 1e8;
  double const cell = c.cell * N * H / 1e5;
  double const own = resets_before ? 2.1 * c.base + 1.1 * products + (backward ? 1 : 1.3) * cell
                                   : c.base + products + cell;
  double const step = own + input;
  double const frame = kStepwiseStartUs + 3 * H * H * sizeof(T) / kMemoryBytesPerUs +
                       (backward ? kBackwardFrameUs : 0);
  return frame + static_cast<double>(p.steps) * step;
}

}  // namespace gru::detail
