// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gru/cell.hpp>
#include <gru/detail/device_namespace.cuh>

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// The hardware's approximations: of 1 / x and of 2 to the power of x to about 22 bits, of the
/// hyperbolic tangent to about 11.
__device__ inline float approximate_reciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
__device__ inline float approximate_power_of_2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
__device__ inline float approximate_tanh(float x) {
  float result;
  asm("tanh.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

inline constexpr float kLog2OfE = 1.44269504f;

/// A float whose functions are the hardware's approximations: the value type with which the
/// persistent engines use the formulas of cell.hpp. kBits is about how many bits of a function's
/// value are good: 22, or 11 for results of 16 bits. The update gate has 22 either way: where it is
/// near 1, an error of the state would add up over many steps.
template <int kBits>
class Approximate {
  static_assert(kBits == 22 || kBits == 11, "there are two grades");

 public:
  __device__ explicit Approximate(float value) : value_{value} {}
  __device__ explicit operator float() const { return value_; }

  friend __device__ Approximate operator-(Approximate a) { return Approximate{-a.value_}; }
  friend __device__ Approximate operator+(Approximate a, Approximate b) {
    return Approximate{a.value_ + b.value_};
  }
  friend __device__ Approximate operator-(Approximate a, Approximate b) {
    return Approximate{a.value_ - b.value_};
  }
  friend __device__ Approximate operator*(Approximate a, Approximate b) {
    return Approximate{a.value_ * b.value_};
  }
  friend __device__ Approximate tanh(Approximate a) {
    if constexpr (kBits == 11) return Approximate{approximate_tanh(a.value_)};
    return Approximate{
        1 - 2 * approximate_reciprocal(1 + approximate_power_of_2(2 * kLog2OfE * a.value_))};
  }
  friend __device__ Approximate sigmoid(Approximate a) {
    if constexpr (kBits == 11) return Approximate{0.5f * approximate_tanh(0.5f * a.value_) + 0.5f};
    return Approximate{approximate_reciprocal(1 + approximate_power_of_2(-kLog2OfE * a.value_))};
  }
  /// One exponential and one reciprocal instead of two each.
  friend __device__ cell::Sigmoids<Approximate> sigmoids(Approximate a) {
    float const power = approximate_power_of_2(-kLog2OfE * a.value_);
    float const on = approximate_reciprocal(1 + power);
    float const off = a.value_ < 0 ? 1 - on : power * on;
    return {Approximate{on}, Approximate{off}};
  }

 private:
  float value_;
};

/// The value type of the cell's formulas in the kernels for few rows: a float whose exponential,
/// division and hyperbolic tangent are within some units in the last place, without branches. The
/// sigmoid's absolute error is below 1.5e-7, tanh's relative error below 3e-7. H200, H 128, N 1:
/// 0.64 instead of 0.80 us a step with the exact functions; the state's error is 9.5e-8 instead
/// of 7.8e-8.
class CloseFloat {
 public:
  __device__ explicit CloseFloat(float value) : value_{value} {}
  __device__ explicit operator float() const { return value_; }

  friend __device__ CloseFloat operator-(CloseFloat a) { return CloseFloat{-a.value_}; }
  friend __device__ CloseFloat operator+(CloseFloat a, CloseFloat b) {
    return CloseFloat{a.value_ + b.value_};
  }
  friend __device__ CloseFloat operator-(CloseFloat a, CloseFloat b) {
    return CloseFloat{a.value_ - b.value_};
  }
  friend __device__ CloseFloat operator*(CloseFloat a, CloseFloat b) {
    return CloseFloat{a.value_ * b.value_};
  }
  friend __device__ CloseFloat sigmoid(CloseFloat a) { return sigmoids(a).on; }
  friend __device__ cell::Sigmoids<CloseFloat> sigmoids(CloseFloat a) {
    float const power = approximate_power_of_2(-kLog2OfE * a.value_);
    float const on = approximate_reciprocal(1 + power);
    float const off = a.value_ < 0 ? 1 - on : power * on;
    return {CloseFloat{on}, CloseFloat{off}};
  }
  /// Cephes' polynomial near 0, where 1 - 2 / (1 + exp(2 a)) cancels.
  friend __device__ CloseFloat tanh(CloseFloat a) {
    float const x = a.value_;
    float const square = x * x;
    float series = -5.70498872745e-3f;
    series = fmaf(series, square, 2.06390887954e-2f);
    series = fmaf(series, square, -5.37397155531e-2f);
    series = fmaf(series, square, 1.33314422036e-1f);
    series = fmaf(series, square, -3.33332819422e-1f);
    float const near = fmaf(series * square, x, x);
    float const far =
        fmaf(-2.0f, approximate_reciprocal(1 + approximate_power_of_2(2 * kLog2OfE * x)), 1.0f);
    return CloseFloat{fabsf(x) < 0.625f ? near : far};
  }

 private:
  float value_;
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
