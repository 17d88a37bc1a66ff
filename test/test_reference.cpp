// SPDX-License-Identifier: Apache-2.0
#include <Eigen/Core>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include "support/host.hpp"
#include "support/options.hpp"
#include "support/reference.hpp"
#include "support/tolerance.hpp"

namespace gru::test {
namespace {

std::vector<Case> const& all_cases() {
  static std::vector<Case> const cases = [] {
    std::vector<Case> all = single_option_cases();
    for (Case& c : pairwise_cases()) all.push_back(std::move(c));
    return all;
  }();
  return cases;
}

/// Sizes that take turns over the cases.
Sizes sizes_of(std::size_t i) {
  static std::vector<Sizes> const all{{5, 3, 4, 6},   {1, 1, 1, 1},   {7, 2, 5, 33},
                                      {9, 5, 33, 17}, {3, 4, 31, 32}, {6, 7, 2, 13}};
  return all[i % all.size()];
}

TEST_CASE("The host engine's gradients are those of finite differences of its outputs") {
  Engine const& engine = host_engine<double>();
  auto const forward = [&](Layer const& layer) { return engine.run(layer); };
  for (std::size_t i = 0; i < all_cases().size(); ++i) {
    Choices choices = all_cases()[i].choices;
    choices.adding = Choices::Adding::kNothing;
    choices.asked = Choices::Asked::kEverything;
    Layer const layer = make_layer(choices, {3, 2, 2, 3}, DataType::kDouble, i);
    INFO(all_cases()[i].name << "; seed " << i);
    Results const expected = finite_differences(layer, forward);
    Results const actual = engine.run(layer);
    for (NamedResult const& result : named_results()) {
      if (!result.is_gradient) continue;
      check_close(result.name, actual.*result.values, expected.*result.values,
                  finite_difference_tolerance(DataType::kDouble));
    }
  }
}

TEMPLATE_TEST_CASE("The host engine gives the reference's numbers for each option and all pairs",
                   "", float, double, Eigen::half, Eigen::bfloat16) {
  Engine const& engine = host_engine<TestType>();
  for (std::size_t i = 0; i < all_cases().size(); ++i) {
    Layer const layer = make_layer(all_cases()[i].choices, sizes_of(i), engine.type(), i);
    INFO(all_cases()[i].name << "; " << to_string(sizes_of(i)) << "; seed " << i);
    check_close(engine.run(layer), reference(layer), layer, engine.type());
  }
}

}  // namespace
}  // namespace gru::test
