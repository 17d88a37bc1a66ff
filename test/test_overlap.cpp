// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <cstdint>
#include <vector>

#include <gru/detail/overlap.hpp>

namespace gru::test {
namespace {

using Sizes = std::vector<std::int64_t>;

TEST_CASE("Chunks for overlap cover all steps, and none is above the most") {
  std::int64_t const steps = GENERATE(1, 2, 3, 7, 50, 256, 1000, 100003);
  std::int64_t const most = GENERATE(1, 2, 31, 1000, 100003);
  double const input_us = GENERATE(0.0, 0.01, 0.2, 5.0);
  double const idle = GENERATE(0.0, 0.1, 0.5, 1.0);
  INFO("steps " << steps << ", most " << most << ", input " << input_us << ", idle " << idle);
  Sizes const sizes = detail::cut_for_overlap(steps, most, {1.0, input_us, idle});
  std::int64_t sum = 0;
  bool all_fit = true;
  for (std::int64_t const size : sizes) {
    all_fit &= size >= 1 && size <= most;
    sum += size;
  }
  CHECK(all_fit);
  CHECK(sum == steps);
}

TEST_CASE("Steps are cut for overlap where that is predicted to pay, and only there") {
  CHECK(detail::cut_for_overlap(0, 0, {1.0, 0.2, 0.5}).empty());
  CHECK(detail::cut_for_overlap(50, 50, {1.0, 0.1, 0.5}) == Sizes{50});
  CHECK(detail::cut_for_overlap(1000, 1000, {1.0, 0.2, 0.0}) == Sizes{1000});
  // Nothing runs beside the steps where nothing is idle, however little the product takes.
  CHECK(detail::cut_for_overlap(100000, 100000, {1.0, 0.001, 0.0}) == Sizes{100000});
  CHECK(detail::cut_for_overlap(100000, 60000, {1.0, 0.001, 0.0}) == Sizes{60000, 40000});
  detail::OverlapCosts const costs{1.0, 0.2, 0.5};
  Sizes const sizes = detail::cut_for_overlap(1000, 1000, costs);
  REQUIRE(sizes.size() > 1);
  for (std::size_t i = 1; i < sizes.size(); ++i) CHECK(sizes[i] > sizes[i - 1]);
  CHECK(detail::predict_overlap(sizes, costs) < detail::predict_overlap({1000}, costs));
}

}  // namespace
}  // namespace gru::test
