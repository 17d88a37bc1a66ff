// SPDX-License-Identifier: Apache-2.0
#include <Eigen/Core>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <gru/error.hpp>
#include <gru/host.hpp>

#include "checks/bad_input.hpp"
#include "support/host.hpp"

using namespace gru::test;

namespace {

template <typename T>
void check_rejects(gru::Problem const& problem, Words const& words) {
  check_throws<gru::InvalidArgument>([&] { gru::host::ForwardPass<T>{problem}; }, words);
  check_throws<gru::InvalidArgument>([&] { gru::host::BackwardPass<T>{problem}; }, words);
}

}  // namespace

TEST_CASE("docs/bad_input.md has a row for each error that is tested", "[bad-input]") {
  check_rows_are_documented();
}

TEMPLATE_TEST_CASE("the host passes reject Problems that make no sense", "[bad-input][host]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  CHECK_NOTHROW(gru::host::ForwardPass<TestType>{valid_problem()});
  CHECK_NOTHROW(gru::host::BackwardPass<TestType>{valid_problem()});
  for (BadProblem const& bad : bad_problems()) {
    CAPTURE(bad.row, bad.what);
    check_rejects<TestType>(bad.problem, bad.words);
  }
}

TEST_CASE("the host passes reject float states and gradients beside double data",
          "[bad-input][host]") {
  for (BadProblem const& bad : bad_problems_of_double()) {
    CAPTURE(bad.row, bad.what);
    check_rejects<double>(bad.problem, bad.words);
    CHECK_NOTHROW(gru::host::ForwardPass<float>{bad.problem});
    CHECK_NOTHROW(gru::host::BackwardPass<Eigen::half>{bad.problem});
  }
}

TEST_CASE("the host backward pass needs a Problem that keeps for backward", "[bad-input][host]") {
  gru::Problem problem = valid_problem();
  problem.keep_for_backward = false;
  CHECK_NOTHROW(gru::host::ForwardPass<float>{problem});
  check_throws<gru::InvalidArgument>([&] { gru::host::BackwardPass<float>{problem}; },
                                     {"keep_for_backward"});
}

TEST_CASE("the host passes do not take a device engine", "[bad-input][host]") {
  gru::Problem problem = valid_problem();
  problem.engine = gru::Engine::kHost;
  CHECK_NOTHROW(gru::host::ForwardPass<float>{problem});
  CHECK_NOTHROW(gru::host::BackwardPass<float>{problem});
  problem.engine = gru::Engine::kStepwise;
  check_throws<gru::Unsupported>([&] { gru::host::ForwardPass<float>{problem}; }, {"stepwise"});
  check_throws<gru::Unsupported>([&] { gru::host::BackwardPass<float>{problem}; }, {"stepwise"});
}

TEMPLATE_TEST_CASE("the host passes name a workspace limit that is too small", "[bad-input][host]",
                   float, double, Eigen::half) {
  check_small_workspace_limit(host_backend<TestType>());
}

TEMPLATE_TEST_CASE("the host passes reject runs that do not fit their Problem and touch no output",
                   "[bad-input][host]", float, double, Eigen::half) {
  check_bad_runs(host_backend<TestType>());
}

TEMPLATE_TEST_CASE("the host engine takes sequences without steps", "[bad-input][host]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  check_empty_sequences(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("the host engine takes a batch without samples", "[bad-input][host]", float,
                   double, Eigen::half, Eigen::bfloat16) {
  check_empty_batch(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("the host engine clamps lengths, and takes lengths of 0", "[bad-input][host]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  check_odd_lengths(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("the host engine takes masks of the caller at a rate of 0", "[bad-input][host]",
                   float, double, Eigen::half, Eigen::bfloat16) {
  check_masks_at_rate_zero(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("NaN and infinity pass through the host engine as the formulas say",
                   "[bad-input][host]", float, double, Eigen::half, Eigen::bfloat16) {
  check_values_that_are_not_finite(host_engine<TestType>());
}
