// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include <gru/problem.hpp>

/// Predicted times, in microseconds, fitted to measurements on one H200 (132 multiprocessors,
/// driver 580): the stepwise engine to the 18 shapes of bench/shapes.hpp, replayed from a CUDA
/// graph. They serve to compare engines; launch costs of the host are not in them.
namespace gru::detail {

/// A step's time as base + weights * H^2 / 1e6 + product * N H^2 / 1e8 + cell * N H / 1e5, and that
/// of the input product as input * N C H / 1e8.
struct StepCosts {
  double base;
  double weights;
  double product;
  double cell;
  double input;
};

// Least squares of the relative error. Worst shape: 16 bits 12% forward and 23% backward, float 37%
// and 54%, TF32 22% and 25%.
inline constexpr StepCosts kForward16 = {4.5, 1.27, 0, 2.2, 0.11};
inline constexpr StepCosts kBackward16 = {6.8, 2.05, 0.36, 4.5, 0.43};
inline constexpr StepCosts kForwardFloat = {5.0, 3.2, 6.0, 12, 14.2};
inline constexpr StepCosts kBackwardFloat = {6.3, 3.8, 9.2, 23, 32};
inline constexpr StepCosts kForwardTf32 = {5.0, 3.0, 1.1, 4.9, 1.6};
inline constexpr StepCosts kBackwardTf32 = {6.4, 3.6, 0, 10.9, 4.2};

/// The costs of forward in the type and precision of a Problem.
template <typename T>
StepCosts forward_costs(Problem const& p) {
  if (!std::is_same_v<T, float>) return kForward16;
  return p.precision == Precision::kTf32 ? kForwardTf32 : kForwardFloat;
}

/// A step's share of the input product.
template <typename T>
double predict_input_product(Problem const& p) {
  return forward_costs<T>(p).input * static_cast<double>(p.batch) *
         static_cast<double>(p.input_size) * static_cast<double>(p.hidden_size) / 1e8;
}

/// What starts a persistent pass: the kernels before it, and R's way onto the chip.
inline constexpr double kRecurrenceStartUs = 20;

/// The stepwise engine's time for a pass; 0, no prediction, for what was not measured (double,
/// reset before).
template <typename T>
double predict_stepwise(Problem const& p, bool backward) {
  if (std::is_same_v<T, double> || p.variant == Variant::kResetBefore) return 0;
  bool const tf32 = p.precision == Precision::kTf32;
  StepCosts c = backward ? kBackward16 : kForward16;
  if (std::is_same_v<T, float>) c = backward ? kBackwardFloat : kForwardFloat;
  if (std::is_same_v<T, float> && tf32) c = backward ? kBackwardTf32 : kForwardTf32;
  double const N = static_cast<double>(p.batch);
  double const C = static_cast<double>(p.input_size);
  double const H = static_cast<double>(p.hidden_size);
  double const step = c.base + c.weights * H * H / 1e6 + c.product * N * H * H / 1e8 +
                      c.cell * N * H / 1e5 + c.input * N * C * H / 1e8;
  return static_cast<double>(p.steps) * step;
}

}  // namespace gru::detail
