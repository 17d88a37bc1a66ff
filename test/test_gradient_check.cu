// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>

#include <gru/policy.hpp>

#include "support/computation.hpp"
#include "support/device.hpp"
#include "support/properties.hpp"

/// The gradients of every engine of the device beside finite differences, of its own outputs where
/// these are exact enough.
namespace gru::test {
namespace {

struct Double {
  using Type = double;
  static constexpr Precision kPrecision = Precision::kFp32;
};

TEMPLATE_TEST_CASE("Every engine's gradients are the slopes of its outputs, for each option",
                   "[training]", Double, Half, Bfloat16, Fp32, Fp32Strict, Tf32) {
  using T = typename TestType::Type;
  for (gru::Engine const engine : forward_engines<T>()) {
    INFO("engine: " << to_string(engine));
    check_gradients_are_slopes(device_engine<T>(engine), TestType::kPrecision);
  }
}

}  // namespace
}  // namespace gru::test
