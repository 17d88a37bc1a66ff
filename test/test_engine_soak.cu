// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_test_macros.hpp>

#include <cstdlib>
#include <string>

#include "support/computation.hpp"

/// Random problems, as many as GRU_SOAK_PROBLEMS says, from the seed GRU_SOAK_SEED on. Hidden: run
/// it with the tag [.soak]. Several processes with different seeds may share the work.
namespace gru::test {
namespace {

std::uint64_t from_environment(char const* name, std::uint64_t otherwise) {
  char const* const text = std::getenv(name);
  return text == nullptr ? otherwise : std::stoull(text);
}

/// Mostly small, sometimes up to `most`.
std::int64_t draw_size(Dice& dice, std::int64_t least, std::int64_t usual, std::int64_t most) {
  return least + dice.below((dice.below(8) == 0 ? most : usual) - least + 1);
}

Sizes draw_sizes(Dice& dice) {
  Sizes sizes;
  sizes.T = draw_size(dice, 0, 12, 60);
  sizes.N = draw_size(dice, 0, 20, 150);
  sizes.C = draw_size(dice, 1, 20, 100);
  sizes.H = draw_size(dice, 1, 80, 300);
  return sizes;
}

/// A random level of each option.
Choices draw_choices(Dice& dice, std::string& name) {
  Choices choices;
  for (Factor const& factor : factors()) {
    auto const levels = static_cast<std::int64_t>(factor.size());
    // The default half of the time, so that other options show.
    std::int64_t const level = dice.below(2) == 0 ? 0 : dice.below(levels);
    factor[static_cast<std::size_t>(level)].apply(choices);
    if (level != 0)
      name += (name.empty() ? "" : ", ") + factor[static_cast<std::size_t>(level)].name;
  }
  if (dice.below(3) != 0) choices.variant = Variant::kResetAfter;
  return choices;
}

void check_problem(std::uint64_t seed) {
  Dice dice{seed};
  std::string name;
  Choices choices = draw_choices(dice, name);
  Sizes const sizes = draw_sizes(dice);
  // Passes without a step know no least workspace.
  if (sizes.T * sizes.N == 0) choices.small_workspace = false;
  INFO(name);
  switch (dice.below(5)) {
    case 0:
      return check_engines<Half>(choices, sizes, seed);
    case 1:
      return check_engines<Bfloat16>(choices, sizes, seed);
    case 2:
      return check_engines<Fp32>(choices, sizes, seed);
    case 3:
      return check_engines<Fp32Strict>(choices, sizes, seed);
    default:
      return check_engines<Tf32>(choices, sizes, seed);
  }
}

TEST_CASE("Random problems give the host engine's numbers on every engine", "[.soak]") {
  std::uint64_t const count = from_environment("GRU_SOAK_PROBLEMS", 2000);
  std::uint64_t const first = from_environment("GRU_SOAK_SEED", 20140603);
  for (std::uint64_t i = 0; i < count; ++i) check_problem(first + i);
}

}  // namespace
}  // namespace gru::test
