// SPDX-License-Identifier: Apache-2.0
#include <Eigen/Core>
#include <array>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include <gru/random.hpp>

#include "checks/random.hpp"
#include "support/host.hpp"

using namespace gru::test;

namespace {

PhiloxCounter philox_words(PhiloxCounter counter, PhiloxKey key) {
  auto const join = [](std::uint32_t low, std::uint32_t high) {
    return (std::uint64_t{high} << 32) | low;
  };
  gru::PhiloxWords const w =
      gru::philox(join(key[0], key[1]), join(counter[2], counter[3]), join(counter[0], counter[1]));
  return {w.word[0], w.word[1], w.word[2], w.word[3]};
}

/// Whether a count of successes in so many trials lies within 5 standard deviations of its mean: a
/// right generator leaves that range once in 1.7 million tries.
bool is_binomial(std::int64_t successes, std::int64_t trials, double probability) {
  auto const n = static_cast<double>(trials);
  double const deviation = std::sqrt(n * probability * (1 - probability));
  return std::abs(static_cast<double>(successes) - n * probability) <= 5 * deviation;
}

std::int64_t count_kept(Bytes const& mask) {
  std::int64_t kept = 0;
  for (std::uint8_t const m : mask) kept += m;
  return kept;
}

std::int64_t count_equal(Bytes const& a, Bytes const& b) {
  REQUIRE(a.size() == b.size());
  std::int64_t equal = 0;
  for (std::size_t i = 0; i < a.size(); ++i) equal += a[i] == b[i];
  return equal;
}

/// Masks of one kind, by the library's generator and layout of counters.
struct Kind {
  char const* name;
  Bytes (*draw)(gru::Problem const&, gru::Random const&);
  gru::Dropping gru::Problem::*option;
};

bool keeps(gru::Random const& random, std::uint64_t counter, std::uint64_t word, double rate) {
  return gru::philox(random.seed, random.offset, counter).word[word] >= gru::draws::threshold(rate);
}

Kind const kKinds[] = {
    {"zoneout",
     [](gru::Problem const& p, gru::Random const& random) {
       Bytes mask;
       for (std::int64_t t = 0; t < p.steps; ++t) {
         for (std::int64_t n = 0; n < p.batch; ++n) {
           for (std::int64_t u = 0; u < p.hidden_size; ++u) {
             mask.push_back(keeps(random, gru::draws::zoneout(t, n, u, p.batch, p.hidden_size),
                                  static_cast<std::uint64_t>(t % 4), p.zoneout.rate));
           }
         }
       }
       return mask;
     },
     &gru::Problem::zoneout},
    {"DropConnect",
     [](gru::Problem const& p, gru::Random const& random) {
       Bytes mask;
       for (std::int64_t k = 0; k < p.hidden_size; ++k) {
         for (std::int64_t gate = 0; gate < 3; ++gate) {
           for (std::int64_t u = 0; u < p.hidden_size; ++u) {
             std::uint64_t const e = gru::draws::dropconnect_element(k, gate, u, p.hidden_size);
             mask.push_back(
                 keeps(random, gru::draws::kDropConnect + e / 4, e % 4, p.dropconnect.rate));
           }
         }
       }
       return mask;
     },
     &gru::Problem::dropconnect},
    {"recurrent dropout",
     [](gru::Problem const& p, gru::Random const& random) {
       Bytes mask;
       for (std::int64_t n = 0; n < p.batch; ++n) {
         for (std::int64_t u = 0; u < p.hidden_size; ++u) {
           std::uint64_t const e = gru::draws::recurrent_dropout_element(n, u, p.hidden_size);
           mask.push_back(keeps(random, gru::draws::kRecurrentDropout + e / 4, e % 4,
                                p.recurrent_dropout.rate));
         }
       }
       return mask;
     },
     &gru::Problem::recurrent_dropout},
};

gru::Problem problem_with_rate(Kind const& kind, double rate) {
  gru::Problem p;
  p.steps = 19;
  p.batch = 31;
  p.input_size = 1;
  p.hidden_size = 101;
  p.stochastic = true;
  (p.*kind.option).rate = rate;
  return p;
}

/// A mask without its last or its first elements, to compare it with itself at a distance.
Bytes without_last(Bytes const& mask, std::size_t count) {
  return {mask.begin(), mask.end() - static_cast<std::ptrdiff_t>(count)};
}
Bytes without_first(Bytes const& mask, std::size_t count) {
  return {mask.begin() + static_cast<std::ptrdiff_t>(count), mask.end()};
}

}  // namespace

TEST_CASE("the generator gives the published vectors of Philox4x32-10", "[random]") {
  struct Vector {
    PhiloxCounter counter;
    PhiloxKey key;
    PhiloxCounter result;
  };
  // The first three are kat_vectors of Random123, the fourth is TensorFlow's Philox.
  Vector const vectors[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
       {0xffffffff, 0xffffffff},
       {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
      {{0x11, 0x22, 0x33, 0x44}, {0x5, 0x6}, {0x4d8002e2, 0x90337754, 0x41a23228, 0x4e18e399}},
  };
  for (Vector const& v : vectors) {
    CHECK(philox_words(v.counter, v.key) == v.result);
    CHECK(philox_4x32_10(v.counter, v.key) == v.result);
  }
}

TEST_CASE("a rate's threshold is its part of 2^32, rounded down", "[random]") {
  using gru::draws::threshold;
  CHECK(threshold(0.0) == 0);
  CHECK(threshold(0.25) == 0x40000000u);
  CHECK(threshold(0.5) == 0x80000000u);
  CHECK(threshold(1.0 / 4294967296.0) == 1);
  CHECK(threshold(std::nextafter(1.0 / 4294967296.0, 0.0)) == 0);
  CHECK(threshold(0.1) == 429496729u);
  CHECK(threshold(std::nextafter(1.0, 0.0)) == 0xffffffffu);
}

TEST_CASE("the three masks draw from disjoint ranges of counters, in the defined order",
          "[random]") {
  using namespace gru::draws;
  std::uint64_t const two_to_62 = std::uint64_t{1} << 62;
  CHECK(kDropConnect == 2 * two_to_62);
  CHECK(kRecurrentDropout == 3 * two_to_62);

  CHECK(zoneout(0, 0, 0, 5, 7) == 0);
  CHECK(zoneout(3, 0, 1, 5, 7) == 1);
  CHECK(zoneout(0, 1, 0, 5, 7) == 7);
  CHECK(zoneout(4, 0, 0, 5, 7) == 35);
  CHECK(zoneout(11, 4, 6, 5, 7) == 2 * 35 + 4 * 7 + 6);
  CHECK(dropconnect_element(0, 0, 6, 7) == 6);
  CHECK(dropconnect_element(0, 1, 0, 7) == 7);
  CHECK(dropconnect_element(2, 2, 3, 7) == 2 * 21 + 14 + 3);
  CHECK(recurrent_dropout_element(3, 2, 7) == 23);

  SECTION("at the largest sizes that a Problem may have") {
    std::int64_t const largest = std::numeric_limits<std::int32_t>::max();
    gru::Problem p;
    p.batch = largest;
    p.input_size = 1;
    p.hidden_size = 8;
    p.steps = std::numeric_limits<std::int64_t>::max() / 64 / p.batch / p.hidden_size;
    gru::validate(p);
    CHECK(zoneout(p.steps - 1, p.batch - 1, p.hidden_size - 1, p.batch, p.hidden_size) <
          kDropConnect);
    std::int64_t const widest = 250000000;  // R's own size is near the limit
    p.batch = 1;
    p.steps = 1;
    p.hidden_size = widest;
    gru::validate(p);
    CHECK(dropconnect_element(widest - 1, 2, widest - 1, widest) / 4 < two_to_62);
    CHECK(recurrent_dropout_element(0, widest - 1, widest) / 4 < two_to_62);
  }
}

TEST_CASE("masks drawn by the library's layout are those of the definition", "[random]") {
  gru::Random const random{0x1234567890abcdef, 42, nullptr};
  gru::Problem p = problem_with_rate(kKinds[0], 0.3);
  p.dropconnect.rate = 0.2;
  p.recurrent_dropout.rate = 0.6;
  CHECK(kKinds[0].draw(p, random) == drawn_zoneout_mask(p, random));
  CHECK(kKinds[1].draw(p, random) == drawn_dropconnect_mask(p, random));
  CHECK(kKinds[2].draw(p, random) == drawn_recurrent_dropout_mask(p, random));
}

TEST_CASE("masks drop at their rate", "[random]") {
  double const rate = GENERATE(0.001, 0.1, 0.25, 0.5, 0.9, 0.999);
  std::uint64_t const seed = GENERATE(0, 1, 0xdeadbeefcafef00d);
  for (Kind const& kind : kKinds) {
    CAPTURE(kind.name, rate, seed);
    Bytes const mask = kind.draw(problem_with_rate(kind, rate), {seed, 7, nullptr});
    auto const size = static_cast<std::int64_t>(mask.size());
    CHECK(is_binomial(count_kept(mask), size, 1 - rate));
  }
}

TEST_CASE("a rate of zero drops nothing", "[random]") {
  for (Kind const& kind : kKinds) {
    Bytes const mask = kind.draw(problem_with_rate(kind, 0.0), {3, 7, nullptr});
    CHECK(count_kept(mask) == static_cast<std::int64_t>(mask.size()));
  }
}

TEST_CASE("draws of different seeds, offsets and elements are independent", "[random]") {
  double const rate = GENERATE(0.2, 0.5);
  double const agreement = rate * rate + (1 - rate) * (1 - rate);
  gru::Random const random{123456789, 5, nullptr};
  for (Kind const& kind : kKinds) {
    gru::Problem const p = problem_with_rate(kind, rate);
    Bytes const mask = kind.draw(p, random);
    auto const agrees = [&](Bytes const& a, Bytes const& b) {
      return is_binomial(count_equal(a, b), static_cast<std::int64_t>(a.size()), agreement);
    };
    for (int bit : {0, 1, 31, 32, 63}) {
      CAPTURE(kind.name, rate, bit);
      std::uint64_t const flip = std::uint64_t{1} << bit;
      CHECK(agrees(mask, kind.draw(p, {random.seed ^ flip, random.offset, nullptr})));
      CHECK(agrees(mask, kind.draw(p, {random.seed, random.offset ^ flip, nullptr})));
    }
    // Neighbours: the next unit, and the next sample or gate (and, for zoneout, the next steps).
    auto const row = static_cast<std::size_t>(p.hidden_size);
    auto const step = static_cast<std::size_t>(p.batch * p.hidden_size);
    for (std::size_t distance : {std::size_t{1}, row, 3 * row, step, 4 * step}) {
      if (distance >= mask.size()) continue;
      CAPTURE(kind.name, rate, distance);
      CHECK(agrees(without_last(mask, distance), without_first(mask, distance)));
    }
  }
}

TEST_CASE("masks of one seed but of different kinds are independent", "[random]") {
  gru::Random const random{99, 1, nullptr};
  gru::Problem p = problem_with_rate(kKinds[0], 0.5);
  p.dropconnect.rate = 0.5;
  p.recurrent_dropout.rate = 0.5;
  Bytes masks[3];
  for (int i = 0; i < 3; ++i) masks[i] = kKinds[i].draw(p, random);
  std::size_t const size = masks[2].size();
  for (Bytes& mask : masks) mask.resize(size);
  auto const n = static_cast<std::int64_t>(size);
  CHECK(is_binomial(count_equal(masks[0], masks[1]), n, 0.5));
  CHECK(is_binomial(count_equal(masks[0], masks[2]), n, 0.5));
  CHECK(is_binomial(count_equal(masks[1], masks[2]), n, 0.5));
}

TEMPLATE_TEST_CASE("the host engine draws the defined masks, forward and backward",
                   "[random][host]", float, double, Eigen::half, Eigen::bfloat16) {
  check_drawn_masks_are_the_defined_ones(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("the host engine's threads draw the same masks", "[random][host]", float,
                   double) {
  check_drawn_masks_are_the_defined_ones(host_engine<TestType>(3));
}

TEMPLATE_TEST_CASE("zoneout keeps the state of the host engine where its mask says so",
                   "[random][host]", float, double) {
  check_zoneout_is_seen(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("DropConnect drops the weights of the host engine that its mask names",
                   "[random][host]", float, double) {
  check_dropconnect_is_seen(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("recurrent dropout drops the units of the host engine that its mask names",
                   "[random][host]", float, double) {
  check_recurrent_dropout_is_seen(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("seed and offset choose the masks of the host engine", "[random][host]", float,
                   double) {
  check_seed_and_offset_matter(host_engine<TestType>());
}
