// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>

#include <cuda_fp16.h>

#include <gru/gru.cuh>

#include "support/device.hpp"
#include "support/host.hpp"
#include "support/options.hpp"
#include "support/reference.hpp"
#include "support/tolerance.hpp"

/// Each engine by its name; the other device tests run the one that the policy chooses.
namespace gru::test {
namespace {

std::vector<Case> all_cases() {
  std::vector<Case> cases = single_option_cases();
  for (Case& c : pairwise_cases()) cases.push_back(std::move(c));
  return cases;
}

/// Whether the device can run the engine's forward pass on a small Problem.
bool can_run(gru::Engine engine) {
  Problem problem;
  problem.steps = problem.batch = problem.input_size = problem.hidden_size = 1;
  ForwardPass<__half> const pass{problem};
  for (Candidate const& c : pass.decision().candidates) {
    if (c.engine == engine) return c.can_run;
  }
  return false;
}

void check_engine(gru::test::Engine const& device, gru::Engine engine, Choices const& choices,
                  Sizes const& sizes, std::uint64_t seed) {
  INFO(to_string(engine) << "; " << to_string(sizes) << "; seed " << seed);
  Layer layer = make_layer(choices, sizes, device.type(), seed);
  layer.problem.engine = engine;
  Results const actual = device.run(layer);
  layer.problem.engine = gru::Engine::kAutomatic;
  check_close(actual, host_engine<double>().run(in_double(layer)), layer, device.type());
}

TEMPLATE_TEST_CASE("The stepwise engine gives the host engine's numbers where others could run", "",
                   Eigen::half, Eigen::bfloat16) {
  auto const& device = device_engine<TestType>();
  std::vector<Sizes> const sizes{{5, 3, 4, 6}, {7, 2, 5, 33}, {9, 5, 33, 17}, {8, 31, 65, 33}};
  std::vector<Case> const cases = all_cases();
  for (std::size_t i = 0; i < cases.size(); ++i) {
    INFO(cases[i].name);
    check_engine(device, gru::Engine::kStepwise, cases[i].choices, sizes[i % sizes.size()], i);
  }
}

TEMPLATE_TEST_CASE("The cluster engine gives the host engine's numbers for all pairs of options",
                   "", Eigen::half, Eigen::bfloat16) {
  auto const& device = device_engine<TestType>();
  if (!can_run(gru::Engine::kCluster)) SKIP("the device has no cluster engine");
  std::vector<Sizes> const sizes{{1, 1, 1, 1},   {2, 7, 3, 15},  {3, 8, 4, 16},   {4, 9, 5, 17},
                                 {5, 16, 2, 33}, {9, 5, 7, 127}, {6, 3, 16, 128}, {4, 17, 3, 129}};
  std::vector<Case> const cases = all_cases();
  for (std::size_t i = 0; i < cases.size(); ++i) {
    INFO(cases[i].name);
    Choices choices = cases[i].choices;
    choices.variant = Variant::kResetAfter;
    choices.keep_for_backward = false;
    check_engine(device, gru::Engine::kCluster, choices, sizes[i % sizes.size()], i);
    check_engine(device, gru::Engine::kCluster, choices, sizes[(i + 3) % sizes.size()], i);
  }
}

TEMPLATE_TEST_CASE("The cluster engine gives the host engine's numbers for every cluster shape", "",
                   Eigen::half, Eigen::bfloat16) {
  auto const& device = device_engine<TestType>();
  if (!can_run(gru::Engine::kCluster)) SKIP("the device has no cluster engine");
  Choices choices;
  choices.keep_for_backward = false;
  choices.lengths = choices.episode_starts = true;
  choices.zoneout = choices.recurrent_dropout = Choices::Masks::kDrawn;
  for (Direction const direction : {Direction::kForward, Direction::kReverse}) {
    choices.direction = direction;
    for (std::int64_t const H : {128, 255, 256, 257, 383, 384, 511, 512, 513, 767, 768}) {
      check_engine(device, gru::Engine::kCluster, choices, {6, 3, 8, H}, 1);
    }
    // More rows than one tile for each cluster, and more than the chip holds at once.
    for (std::int64_t const N : {121, 250, 500}) {
      check_engine(device, gru::Engine::kCluster, choices, {9, N, 5, 33}, 2);
    }
    check_engine(device, gru::Engine::kCluster, choices, {5, 300, 4, 257}, 3);
    check_engine(device, gru::Engine::kCluster, choices, {3, 1500, 2, 385}, 4);
  }
}

TEMPLATE_TEST_CASE("The cluster engine fills the reserve that backward reads", "", Eigen::half,
                   Eigen::bfloat16) {
  auto const& device = device_engine<TestType>();
  if (!can_run(gru::Engine::kCluster)) SKIP("the device has no cluster engine");
  Problem problem;
  problem.steps = 100;
  problem.batch = 9;
  problem.input_size = 40;
  problem.hidden_size = 200;
  problem.keep_for_backward = true;
  REQUIRE(ForwardPass<__half>{problem}.decision().engine == gru::Engine::kCluster);
  Choices choices;
  choices.lengths = choices.episode_starts = true;
  choices.zoneout = Choices::Masks::kDrawn;
  check_engine(device, gru::Engine::kAutomatic, choices, {100, 9, 40, 200}, 5);
}

TEST_CASE("An engine that cannot run says why, and asking for it throws Unsupported") {
  if (!has_device()) SKIP("no CUDA device");
  Problem problem;
  problem.steps = problem.batch = problem.input_size = 4;
  problem.hidden_size = 4000;
  problem.engine = gru::Engine::kCluster;
  CHECK_THROWS_AS(ForwardPass<__half>{problem}, Unsupported);
  problem.hidden_size = 64;
  problem.variant = Variant::kResetBefore;
  CHECK_THROWS_AS(ForwardPass<__half>{problem}, Unsupported);
  CHECK_THROWS_AS(ForwardPass<float>{problem}, Unsupported);
  problem.engine = gru::Engine::kAutomatic;
  Decision const decision = ForwardPass<__half>{problem}.decision();
  CHECK(decision.engine == gru::Engine::kStepwise);
  REQUIRE(decision.candidates.size() == 3);
  for (Candidate const& c : decision.candidates) CHECK_FALSE(c.reason.empty());
}

}  // namespace
}  // namespace gru::test
