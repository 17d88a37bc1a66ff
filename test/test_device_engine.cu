// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>

#include <thread>

#include "support/device.hpp"
#include "support/host.hpp"
#include "support/options.hpp"
#include "support/tolerance.hpp"

namespace gru::test {
namespace {

/// The same rounded inputs and masks by the host engine in double.
Results exact(Layer const& layer) {
  static int const threads = static_cast<int>(std::thread::hardware_concurrency());
  return host_engine<double>(threads).run(in_double(layer));
}

void check_against_host(Engine const& device, Choices const& choices, Sizes const& sizes,
                        std::uint64_t seed) {
  INFO(to_string(sizes) << "; seed " << seed);
  Layer const layer = make_layer(choices, sizes, device.type(), seed);
  check_close(device.run(layer), exact(layer), layer, device.type());
}

TEMPLATE_TEST_CASE("Device engine: gives the host engine's numbers for each option alone", "",
                   float, double, Eigen::half, Eigen::bfloat16) {
  Engine const& device = device_engine<TestType>();
  std::vector<Sizes> const sizes{{5, 3, 4, 6}, {7, 2, 5, 33}, {9, 5, 33, 17}, {6, 8, 16, 32}};
  std::vector<Case> const cases = single_option_cases();
  for (std::size_t i = 0; i < cases.size(); ++i) {
    INFO(cases[i].name);
    check_against_host(device, cases[i].choices, sizes[i % sizes.size()], i);
  }
}

TEMPLATE_TEST_CASE("Device engine: gives the host engine's numbers for all pairs of options", "",
                   float, double, Eigen::half, Eigen::bfloat16) {
  Engine const& device = device_engine<TestType>();
  std::vector<Sizes> const sizes{{5, 3, 4, 6}, {8, 31, 65, 33}, {13, 17, 64, 64}};
  std::vector<Case> const cases = pairwise_cases();
  for (std::size_t i = 0; i < cases.size(); ++i) {
    INFO(cases[i].name);
    for (Sizes const& s : sizes) check_against_host(device, cases[i].choices, s, i);
  }
}

TEMPLATE_TEST_CASE("Device engine: gives the host engine's numbers for odd sizes", "", float,
                   double, Eigen::half, Eigen::bfloat16) {
  Engine const& device = device_engine<TestType>();
  std::vector<Sizes> const sizes{{1, 1, 1, 1},     {2, 1, 1, 31},     {3, 7, 1, 1},
                                 {1, 33, 31, 127}, {11, 1, 127, 97},  {37, 5, 2, 63},
                                 {4, 65, 3, 129},  {6, 31, 193, 191}, {5, 257, 32, 32}};
  std::uint64_t seed = 0;
  for (Variant const variant : {Variant::kResetAfter, Variant::kResetBefore}) {
    for (bool const unaligned : {false, true}) {
      Choices choices;
      choices.variant = variant;
      choices.unaligned = unaligned;
      choices.lengths = choices.episode_starts = unaligned;
      INFO((variant == Variant::kResetAfter ? "reset after" : "reset before")
           << (unaligned ? ", unaligned" : ""));
      for (Sizes const& s : sizes) check_against_host(device, choices, s, ++seed);
    }
  }
}

TEMPLATE_TEST_CASE("Device engine: gives the host engine's numbers for larger sizes", "", float,
                   double, Eigen::half, Eigen::bfloat16) {
  Engine const& device = device_engine<TestType>();
  Choices choices;
  choices.lengths = true;
  choices.episode_starts = true;
  choices.zoneout = Choices::Masks::kDrawn;
  choices.dropconnect = Choices::Masks::kDrawn;
  for (Variant const variant : {Variant::kResetAfter, Variant::kResetBefore}) {
    choices.variant = variant;
    INFO((variant == Variant::kResetAfter ? "reset after" : "reset before"));
    check_against_host(device, choices, {20, 64, 256, 512}, 1);
  }
  check_against_host(device, {}, {200, 8, 40, 64}, 2);
}

}  // namespace
}  // namespace gru::test
