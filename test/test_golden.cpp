// SPDX-License-Identifier: Apache-2.0
#include <Eigen/Core>
#include <catch2/catch_template_test_macros.hpp>

#include "checks/golden.hpp"
#include "support/host.hpp"

using gru::test::check_golden;
using gru::test::host_backend;

TEMPLATE_TEST_CASE("the host engine gives PyTorch's outputs and gradients", "[golden][host]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  check_golden(host_backend<TestType>(), "pytorch");
}

TEMPLATE_TEST_CASE("the host engine gives Keras's outputs and gradients", "[golden][host]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  check_golden(host_backend<TestType>(), "keras");
}

TEMPLATE_TEST_CASE("the host engine gives ONNX's outputs", "[golden][host]", float, double,
                   Eigen::half, Eigen::bfloat16) {
  check_golden(host_backend<TestType>(), "onnx");
}
