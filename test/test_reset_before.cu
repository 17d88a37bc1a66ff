// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "support/computation.hpp"
#include "support/options.hpp"

/// The variant that resets before the product, where it has kernels of its own, on clusters and on
/// the grid: two exchanges a step, and operands of two kinds.
namespace gru::test {
namespace {

/// Reset before, with or without what makes steps, rows and units differ.
Choices reset_before(bool rich, Direction direction = Direction::kForward) {
  Choices choices;
  choices.variant = Variant::kResetBefore;
  choices.keep_for_backward = rich;
  choices.direction = direction;
  choices.lengths = choices.episode_starts = rich;
  if (rich) choices.zoneout = choices.recurrent_dropout = Choices::Masks::kDrawn;
  return choices;
}

TEMPLATE_TEST_CASE("Reset before gives the host engine's numbers for sizes at every limit", "",
                   Half, Bfloat16, Fp32, Tf32) {
  std::int64_t const H =
      GENERATE(1, 15, 16, 17, 33, 127, 128, 129, 256, 257, 384, 385, 512, 513, 768, 769);
  check_engines<TestType>(reset_before(false), {4, 3, 5, H}, 1);
  check_engines<TestType>(reset_before(true), {5, 3, 5, H}, 1);
}

TEMPLATE_TEST_CASE("Reset before gives the host engine's numbers where R fills the chip", "", Half,
                   Bfloat16, Fp32, Tf32) {
  // More steps than the grid's exchange has slots, and more tiles than groups of blocks.
  std::int64_t const H = GENERATE(1023, 1024, 1025, 2048, 2049);
  Direction const direction = H % 2 == 0 ? Direction::kForward : Direction::kReverse;
  check_engines<TestType>(reset_before(true, direction), {13, 11, 5, H}, 1);
}

TEMPLATE_TEST_CASE("Reset before gives the host engine's numbers where groups have many tiles", "",
                   Half, Fp32, Tf32) {
  check_engines<TestType>(reset_before(true), {12, 150, 3, 1024}, 2);
  check_engines<TestType>(reset_before(true, Direction::kReverse), {25, 77, 3, 800}, 2);
  check_engines<TestType>(reset_before(true), {70, 19, 3, 530}, 2);
}

TEMPLATE_TEST_CASE("Reset before gives the host engine's numbers for rows and steps in turns", "",
                   Half, Bfloat16, Fp32, Tf32) {
  std::int64_t const N = GENERATE(0, 1, 2, 7, 8, 9, 17, 64, 121, 250, 700);
  std::int64_t const T = GENERATE(0, 1, 2, 3, 4, 5, 9);
  check_engines<TestType>(reset_before(false), {T, N, 3, 40}, 2);
  check_engines<TestType>(reset_before(true, Direction::kReverse), {T, N, 3, 33}, 2);
}

TEMPLATE_TEST_CASE("Reset before drops the state's units in episodes and before them", "", Half,
                   Bfloat16, Fp32, Tf32) {
  // The dropout's factor is on r * s in the steps where an episode begins, too.
  Choices choices = reset_before(true, GENERATE(Direction::kForward, Direction::kReverse));
  choices.zoneout = {};
  choices.recurrent_dropout = GENERATE(Choices::Masks::kDrawn, Choices::Masks::kBrought);
  choices.dropconnect = Choices::Masks::kDrawn;
  check_engines<TestType>(choices, {40, 20, 6, 70}, 3);
}

}  // namespace
}  // namespace gru::test
