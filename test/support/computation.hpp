// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <catch2/catch_test_macros.hpp>

#include "support/device.hpp"
#include "support/options.hpp"

/// Checks of every engine that the device has for a Problem, whichever these are.
namespace gru::test {

/// The ways of computing that engines are made for: a type and, for float, a precision.
struct Half {
  using Type = Eigen::half;
  static constexpr Precision kPrecision = Precision::kFp32;
};
struct Bfloat16 {
  using Type = Eigen::bfloat16;
  static constexpr Precision kPrecision = Precision::kFp32;
};
struct Fp32 {
  using Type = float;
  static constexpr Precision kPrecision = Precision::kFp32;
};
struct Fp32Strict {
  using Type = float;
  static constexpr Precision kPrecision = Precision::kFp32Strict;
};
struct Tf32 {
  using Type = float;
  static constexpr Precision kPrecision = Precision::kTf32;
};

/// A layer with random data, for this way of computing.
template <typename Computation>
Layer make_layer(Choices const& choices, Sizes const& sizes, std::uint64_t seed) {
  using T = typename Computation::Type;
  Layer layer = make_layer(choices, sizes, DataTypeOf<T>::value, seed);
  layer.problem.precision = Computation::kPrecision;
  return layer;
}

/// The layer by the host engine in double, on several threads where that pays.
Results exact(Layer const& layer);

/// Runs the layer by every engine that can, and compares with the host engine in double.
template <typename T>
void check_engines(Layer const& layer);

/// The same for a layer with random data.
template <typename Computation>
void check_engines(Choices const& choices, Sizes const& sizes, std::uint64_t seed) {
  INFO(to_string(sizes) << "; seed " << seed);
  check_engines<typename Computation::Type>(make_layer<Computation>(choices, sizes, seed));
}

}  // namespace gru::test
