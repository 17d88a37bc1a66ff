// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gru/detail/device_namespace.cuh>

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// A float whose division and exponential are the hardware's approximations, good to some units in
/// the 22nd bit: the value type with which the persistent engines use the formulas of cell.hpp
/// where the results have 16 bits.
class Approximate {
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
  friend __device__ Approximate operator/(Approximate a, Approximate b) {
    return Approximate{a.value_ * reciprocal(b.value_)};
  }
  friend __device__ Approximate exp(Approximate a) {
    return Approximate{power_of_2(kLog2OfE * a.value_)};
  }
  friend __device__ Approximate tanh(Approximate a) {
    return Approximate{1 - 2 * reciprocal(1 + power_of_2(2 * kLog2OfE * a.value_))};
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

  float value_;
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
