// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_test_macros.hpp>
#include <set>

#include "support/options.hpp"
#include "support/reference.hpp"
#include "support/tolerance.hpp"

namespace gru::test {
namespace {

TEST_CASE("The pairwise cases hold every pair of levels of every two options") {
  std::vector<Case> const cases = pairwise_cases();
  CHECK(cases.size() < 100);
  for (std::size_t f = 0; f < factors().size(); ++f) {
    for (std::size_t g = f + 1; g < factors().size(); ++g) {
      std::set<std::pair<std::size_t, std::size_t>> seen;
      for (Case const& c : cases) seen.insert({c.levels[f], c.levels[g]});
      CHECK(seen.size() == factors()[f].size() * factors()[g].size());
    }
  }
}

TEST_CASE("The reference's gradients are those of finite differences") {
  std::vector<Case> const cases = pairwise_cases();
  for (std::size_t i = 0; i < cases.size(); ++i) {
    Choices choices = cases[i].choices;
    choices.adding = Choices::Adding::kNothing;
    choices.asked = Choices::Asked::kEverything;
    Layer const layer = make_layer(choices, {3, 2, 2, 3}, DataType::kDouble, i);
    INFO(cases[i].name << "; seed " << i);
    Results const expected = finite_differences(layer, reference);
    Results const actual = reference(layer);
    for (NamedResult const& result : named_results()) {
      if (!result.is_gradient) continue;
      check_close(result.name, actual.*result.values, expected.*result.values,
                  finite_difference_tolerance(DataType::kDouble));
    }
  }
}

}  // namespace
}  // namespace gru::test
