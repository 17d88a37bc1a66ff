// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_template_test_macros.hpp>

#include "checks/golden.hpp"
#include "support/device.hpp"

using gru::test::check_golden;
using gru::test::device_backend;

TEMPLATE_TEST_CASE("the device engine gives PyTorch's outputs and gradients", "[golden][device]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  check_golden(device_backend<TestType>(), "pytorch");
}

TEMPLATE_TEST_CASE("the device engine gives Keras's outputs and gradients", "[golden][device]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  check_golden(device_backend<TestType>(), "keras");
}

TEMPLATE_TEST_CASE("the device engine gives ONNX's outputs", "[golden][device]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  check_golden(device_backend<TestType>(), "onnx");
}
