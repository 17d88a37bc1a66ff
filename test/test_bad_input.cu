// SPDX-License-Identifier: Apache-2.0
#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <gru/error.hpp>
#include <gru/gru.cuh>
#include <string>

#include "checks/bad_input.hpp"
#include "support/device.hpp"

using namespace gru::test;

namespace {

template <typename T>
void check_rejects(gru::Problem const& problem, Words const& words) {
  check_throws<gru::InvalidArgument>([&] { gru::ForwardPass<T>{problem}; }, words);
  check_throws<gru::InvalidArgument>([&] { gru::BackwardPass<T>{problem}; }, words);
}

}  // namespace

// A Problem is validated before the device is asked for, so these run without one.

TEMPLATE_TEST_CASE("the device passes reject Problems that make no sense", "[bad-input][device]",
                   float, double, __half, __nv_bfloat16) {
  for (BadProblem const& bad : bad_problems()) {
    CAPTURE(bad.row, bad.what);
    check_rejects<TestType>(bad.problem, bad.words);
  }
}

TEST_CASE("the device passes reject float states and gradients beside double data",
          "[bad-input][device]") {
  for (BadProblem const& bad : bad_problems_of_double()) {
    CAPTURE(bad.row, bad.what);
    check_rejects<double>(bad.problem, bad.words);
  }
}

TEST_CASE("the device backward pass needs a Problem that keeps for backward",
          "[bad-input][device]") {
  gru::Problem problem = valid_problem();
  problem.keep_for_backward = false;
  check_throws<gru::InvalidArgument>([&] { gru::BackwardPass<float>{problem}; },
                                     {"keep_for_backward"});
}

TEST_CASE("without a CUDA device the device passes throw a DeviceError", "[bad-input][device]") {
  if (has_device()) SKIP("there is a CUDA device");
  check_throws<gru::DeviceError>([] { gru::ForwardPass<float>{valid_problem()}; }, {"cuda"});
  check_throws<gru::DeviceError>([] { gru::BackwardPass<float>{valid_problem()}; }, {"cuda"});
  try {
    gru::ForwardPass<float>{valid_problem()};
  } catch (gru::DeviceError const& e) {
    CHECK(e.status != cudaSuccess);
  }
}

TEST_CASE("a device before sm_75, or a build without code for the device, cannot run",
          "[bad-input][device]") {
  gru::Problem const problem = valid_problem();
  auto const decide = [&](int compute_capability, int code_capability) {
    gru::detail::DeviceFacts facts;
    facts.compute_capability = compute_capability;
    facts.code_capability = code_capability;
    return gru::detail::decide(problem, {gru::detail::stepwise_candidate(facts)});
  };
  CHECK_NOTHROW(decide(75, 75));
  CHECK_NOTHROW(decide(90, 75));
  check_throws<gru::Unsupported>([&] { decide(70, 70); }, {"stepwise", "7.5", "7.0"});
  check_throws<gru::Unsupported>([&] { decide(90, 0); }, {"stepwise", "built without code", "9.0"});
}

TEST_CASE("persistent engines want code for what they need, on whatever device",
          "[bad-input][device]") {
  gru::detail::DeviceFacts facts;
  facts.compute_capability = 90;
  for (int const code : {75, 80, 90}) {
    facts.code_capability = code;
    for (int const least : {75, 80, 90}) {
      INFO("code for " << code << ", needed " << least);
      CHECK(gru::detail::lacking_code(facts, least).empty() == (code >= least));
    }
  }
  facts.code_capability = 75;
  CHECK(gru::detail::lacking_code(facts, 80) ==
        "needs compute capability 8.0, the build has code for 7.5 alone");
}

TEST_CASE("the device passes do not take the host engine", "[bad-input][device]") {
  if (!has_device()) SKIP("no CUDA device");
  gru::Problem problem = valid_problem();
  problem.engine = gru::Engine::kStepwise;
  CHECK_NOTHROW(gru::ForwardPass<float>{problem});
  CHECK_NOTHROW(gru::BackwardPass<float>{problem});
  problem.engine = gru::Engine::kHost;
  check_throws<gru::Unsupported>([&] { gru::ForwardPass<float>{problem}; }, {"host"});
  check_throws<gru::Unsupported>([&] { gru::BackwardPass<float>{problem}; }, {"host"});
}

TEST_CASE("the device passes need a cuBLAS handle", "[bad-input][device]") {
  if (!has_device()) SKIP("no CUDA device");
  gru::Problem problem = valid_problem();
  gru::ForwardPass<float> const forward{problem};
  gru::BackwardPass<float> const backward{problem};
  Words const words{"execution.blas is null"};
  check_throws<gru::InvalidArgument>([&] { forward.run({}, {}, {}, {}); }, words);
  check_throws<gru::InvalidArgument>([&] { backward.run({}, {}, {}, {}); }, words);
  problem.steps = 1;
  problem.keep_for_backward = false;
  gru::ForwardPass<float> const step{problem};
  check_throws<gru::InvalidArgument>([&] { step.step({}, {}, {}, {}); }, words);
}

TEST_CASE("a device pass runs on the device of its construction alone", "[bad-input][device]") {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices < 2) SKIP("no two CUDA devices");
  REQUIRE(cudaSetDevice(0) == cudaSuccess);
  cublasHandle_t blas = nullptr;
  REQUIRE(cublasCreate(&blas) == CUBLAS_STATUS_SUCCESS);
  gru::Execution const execution{blas, nullptr};
  gru::ForwardPass<float> const forward{valid_problem()};
  gru::BackwardPass<float> const backward{valid_problem()};
  REQUIRE(cudaSetDevice(1) == cudaSuccess);
  Words const words{"current device is 1", "constructed on device 0"};
  check_throws<gru::InvalidArgument>([&] { forward.run(execution, {}, {}, {}); }, words);
  check_throws<gru::InvalidArgument>([&] { backward.run(execution, {}, {}, {}); }, words);
  CHECK(cudaSetDevice(0) == cudaSuccess);
  CHECK(cublasDestroy(blas) == CUBLAS_STATUS_SUCCESS);
}

TEMPLATE_TEST_CASE("the device passes name a workspace limit that is too small",
                   "[bad-input][device]", float, double, Eigen::half) {
  check_small_workspace_limit(device_backend<TestType>());
}

TEMPLATE_TEST_CASE(
    "the device passes reject runs that do not fit their Problem and touch no output",
    "[bad-input][device]", float, double, Eigen::half) {
  check_bad_runs(device_backend<TestType>());
}

TEMPLATE_TEST_CASE("the device engine takes sequences without steps", "[bad-input][device]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  check_empty_sequences(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("the device engine takes a batch without samples", "[bad-input][device]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  check_empty_batch(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("the device engine clamps lengths, and takes lengths of 0",
                   "[bad-input][device]", float, double, Eigen::half, Eigen::bfloat16) {
  check_odd_lengths(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("the device engine takes masks of the caller at a rate of 0",
                   "[bad-input][device]", float, double, Eigen::half, Eigen::bfloat16) {
  check_masks_at_rate_zero(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("NaN and infinity pass through the device engine as the formulas say",
                   "[bad-input][device]", float, double, Eigen::half, Eigen::bfloat16) {
  check_values_that_are_not_finite(device_engine<TestType>());
}
