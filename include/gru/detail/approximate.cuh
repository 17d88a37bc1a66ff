// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gru/cell.hpp>
#include <gru/detail/device_namespace.cuh>

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

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
    if constexpr (kBits == 11) return Approximate{coarse_tanh(a.value_)};
    return Approximate{1 - 2 * reciprocal(1 + power_of_2(2 * kLog2OfE * a.value_))};
  }
  friend __device__ Approximate sigmoid(Approximate a) {
    if constexpr (kBits == 11) return Approximate{0.5f * coarse_tanh(0.5f * a.value_) + 0.5f};
    return Approximate{reciprocal(1 + power_of_2(-kLog2OfE * a.value_))};
  }
  /// One exponential and one reciprocal instead of two each.
  friend __device__ cell::Sigmoids<Approximate> sigmoids(Approximate a) {
    float const power = power_of_2(-kLog2OfE * a.value_);
    float const on = reciprocal(1 + power);
    float const off = a.value_ < 0 ? 1 - on : power * on;
    return {Approximate{on}, Approximate{off}};
  }

 private:
  static constexpr float kLog2OfE = 1.44269504f;

  static __device__ float reciprocal(float x) {
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
  }
  static __device__ float power_of_2(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
  }
  static __device__ float coarse_tanh(float x) {
    float result;
    asm("tanh.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
  }

  float value_;
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
