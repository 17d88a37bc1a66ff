// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "support/computation.hpp"
#include "support/device.hpp"
#include "support/options.hpp"

/// What is special about the engines for few rows: an exchange through a ring of 64 slots, and the
/// number of blocks, warps and rows that take part in it.
namespace gru::test {
namespace {

TEMPLATE_TEST_CASE("Every engine gives the host engine's numbers for few rows and many steps", "",
                   Fp32, Half) {
  std::int64_t const N = GENERATE(1, 2, 3, 8);
  std::int64_t const H = GENERATE(5, 131, 265, 600);
  Choices choices;
  choices.keep_for_backward = false;
  check_engines<TestType>(choices, {200, N, 3, H}, 1);
  choices.direction = Direction::kReverse;
  choices.lengths = choices.episode_starts = true;
  choices.zoneout = choices.recurrent_dropout = Choices::Masks::kDrawn;
  check_engines<TestType>(choices, {67, N, 3, H}, 2);
}

TEMPLATE_TEST_CASE("Every engine gives the host engine's gradients for few rows and many steps", "",
                   Fp32, Half) {
  std::int64_t const N = GENERATE(1, 2, 3, 8);
  std::int64_t const H = GENERATE(5, 131, 265, 600);
  Choices choices;
  check_engines<TestType>(choices, {200, N, 3, H}, 1);
  choices.direction = Direction::kReverse;
  choices.lengths = choices.episode_starts = true;
  choices.zoneout = choices.recurrent_dropout = Choices::Masks::kDrawn;
  check_engines<TestType>(choices, {67, N, 3, H}, 2);
}

}  // namespace
}  // namespace gru::test
