// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <cstdint>
#include <string>
#include <type_traits>

#include <cuda_fp16.h>

#include <gru/gru.cuh>

#include "support/computation.hpp"
#include "support/device.hpp"
#include "support/options.hpp"
#include "support/tolerance.hpp"

/// Every engine of the device, each asked for by name, over shapes and options. What is special
/// about a size: a tile has 8 rows, units come in groups of 16, and each engine keeps R on the chip
/// up to some multiple of 128 units.
namespace gru::test {
namespace {

/// Stands for the grid engine.
struct GridDouble {
  static constexpr gru::Engine kEngine = gru::Engine::kGrid;
  bool streams() const { return false; }
};

/// Forward alone, nothing optional.
Choices plain() {
  Choices choices;
  choices.keep_for_backward = false;
  return choices;
}

/// Forward alone, with what makes steps, rows and units differ.
Choices rich(Direction direction) {
  Choices choices;
  choices.keep_for_backward = false;
  choices.direction = direction;
  choices.lengths = choices.episode_starts = true;
  choices.zoneout = choices.recurrent_dropout = Choices::Masks::kDrawn;
  return choices;
}

/// With gradients, and what makes steps, rows and units differ.
Choices trained(Direction direction) {
  Choices choices = rich(direction);
  choices.keep_for_backward = true;
  return choices;
}

template <typename Computation>
void check_plain_and_rich(Sizes const& sizes, std::uint64_t seed) {
  check_engines<Computation>(plain(), sizes, seed);
  check_engines<Computation>(rich(Direction::kForward), sizes, seed);
  check_engines<Computation>(rich(Direction::kReverse), sizes, seed);
}

TEMPLATE_TEST_CASE("Every engine gives the host engine's numbers for all pairs of options", "",
                   Half, Bfloat16, Fp32, Fp32Strict, Tf32) {
  std::vector<Sizes> const sizes{{5, 3, 4, 6},   {7, 2, 5, 33},  {9, 5, 33, 17},  {1, 1, 1, 1},
                                 {2, 7, 3, 15},  {3, 8, 4, 16},  {4, 9, 5, 31},   {5, 16, 2, 32},
                                 {9, 5, 7, 127}, {6, 3, 3, 128}, {4, 17, 3, 129}, {5, 1, 4, 255}};
  std::vector<Case> const cases = pairwise_cases();
  for (std::size_t i = 0; i < cases.size(); ++i) {
    INFO(cases[i].name);
    Choices choices = cases[i].choices;
    check_engines<TestType>(choices, sizes[i % sizes.size()], i);
    choices.variant = Variant::kResetAfter;
    check_engines<TestType>(choices, sizes[(i + 5) % sizes.size()], i);
  }
}

TEMPLATE_TEST_CASE("Every engine gives the host engine's numbers for every hidden size", "", Half,
                   Bfloat16, Fp32, Fp32Strict, Tf32) {
  std::int64_t const H = GENERATE(1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 97, 127,
                                  128, 129, 191, 193, 255, 256, 257);
  check_plain_and_rich<TestType>({5, 3, 4, H}, 1);
}

TEMPLATE_TEST_CASE("Every engine gives the host engine's numbers for every batch", "", Half,
                   Bfloat16, Fp32, Fp32Strict, Tf32) {
  std::int64_t const N =
      GENERATE(1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 33, 63, 64, 65, 127, 250);
  check_plain_and_rich<TestType>({6, N, 3, 40}, 2);
  check_engines<TestType>(plain(), {3, N, 4, 200}, 2);
}

TEMPLATE_TEST_CASE("Every engine gives the host engine's numbers for every number of steps", "",
                   Half, Bfloat16, Fp32, Fp32Strict, Tf32) {
  std::int64_t const T = GENERATE(0, 1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 300);
  check_plain_and_rich<TestType>({T, 9, 3, 48}, 3);
  check_engines<TestType>(rich(Direction::kForward), {T, 1, 2, 130}, 3);
  check_engines<TestType>(plain(), {T, 0, 2, 16}, 3);
}

TEMPLATE_TEST_CASE("Every engine gives the host engine's numbers where the engines' limits are", "",
                   Half, Bfloat16, Fp32, Fp32Strict, Tf32) {
  std::int64_t const H = GENERATE(383, 384, 385, 511, 512, 513, 767, 768, 769, 1024, 1025);
  Choices choices = H < 1000 ? rich(Direction::kForward) : plain();
  if (H < 1000) choices.dropconnect = Choices::Masks::kDrawn;
  check_engines<TestType>(choices, {4, 3, 5, H}, 4);
}

TEMPLATE_TEST_CASE("Every engine gives the host engine's numbers where the largest limits are", "",
                   Half, Fp32, Tf32) {
  std::int64_t const H = GENERATE(1535, 1536, 1537, 2048, 2049, 3072, 3073);
  check_engines<TestType>(plain(), {4, 3, 5, H}, 4);
}

TEMPLATE_TEST_CASE("Every engine gives the host engine's numbers where R does not fit on the chip",
                   "", Half, Bfloat16, Tf32) {
  std::int64_t const H = std::is_same_v<TestType, Tf32> ? 1551 : 2065;
  std::int64_t const N = GENERATE(8, 23, 35);  // 35 takes two launches
  Choices choices = rich(Direction::kReverse);
  choices.dropconnect = Choices::Masks::kDrawn;
  check_engines<TestType>(choices, {24, N, 3, H}, 4);
}

TEMPLATE_TEST_CASE("Every engine gives the host engine's numbers where the batch takes turns", "",
                   Half, Bfloat16, Fp32, Fp32Strict, Tf32) {
  // More rows than the chip has room for at once.
  check_plain_and_rich<TestType>({5, 500, 3, 33}, 5);
  check_plain_and_rich<TestType>({4, 300, 3, 257}, 5);
  check_engines<TestType>(plain(), {3, 1500, 2, 100}, 5);
  check_engines<TestType>(rich(Direction::kReverse), {3, 700, 2, 385}, 5);
  check_engines<TestType>(plain(), {3, 190, 3, 800}, 5);
}

TEMPLATE_TEST_CASE("Every engine gives the host engine's numbers where steps come in chunks", "",
                   Half, Bfloat16, Fp32, Fp32Strict, Tf32) {
  using T = typename TestType::Type;
  std::int64_t const chunk = GENERATE(2, 3, 4, 5, 17);
  Direction const direction = GENERATE(Direction::kForward, Direction::kReverse);
  Layer layer = make_layer<TestType>(rich(direction), {40, 11, 5, 70}, 6);
  Results const expected = exact(layer);
  for (gru::Engine const engine : forward_engines<T>(layer.problem)) {
    INFO("engine: " << to_string(engine) << "; about " << chunk << " steps a chunk");
    Problem one_chunk = layer.problem;
    one_chunk.workspace_limit = Problem{}.workspace_limit;
    one_chunk.steps = chunk;
    std::size_t const limit = device_engine<T>(engine).forward_bytes(one_chunk).workspace;
    layer.problem.workspace_limit = limit;
    Results const actual = device_engine<T>(engine).run(layer);
    check_close(actual, expected, layer, DataTypeOf<T>::value);
  }
}

TEMPLATE_TEST_CASE("Every engine fills the reserve that backward reads", "", Half, Bfloat16, Fp32,
                   Fp32Strict, Tf32) {
  Choices choices;
  choices.direction = GENERATE(Direction::kForward, Direction::kReverse);
  choices.lengths = choices.episode_starts = true;
  choices.zoneout = choices.dropconnect = Choices::Masks::kDrawn;
  check_engines<TestType>(choices, {60, 9, 40, 200}, 7);
  check_engines<TestType>(choices, {20, 33, 8, 65}, 7);
  check_engines<TestType>({}, {30, 5, 8, 384}, 7);
}

TEMPLATE_TEST_CASE("Every engine gives the host engine's gradients where the engines' limits are",
                   "", Half, Bfloat16, Fp32, Tf32) {
  std::int64_t const H = GENERATE(384, 385, 511, 512, 513, 768, 769, 1024, 1025, 1536, 1537, 2048);
  check_engines<TestType>(trained(Direction::kForward), {4, 11, 5, H}, 9);
}

TEMPLATE_TEST_CASE("Every engine gives the host engine's gradients where the batch takes turns", "",
                   Half, Bfloat16, Fp32, Tf32) {
  Direction const direction = GENERATE(Direction::kForward, Direction::kReverse);
  check_engines<TestType>(trained(direction), {5, 500, 3, 33}, 10);
  check_engines<TestType>(trained(direction), {30, 150, 2, 257}, 10);
  check_engines<TestType>(trained(direction), {4, 190, 3, 800}, 10);
  check_engines<TestType>(trained(direction), {4, 75, 3, 1100}, 10);
  check_engines<TestType>(trained(direction), {45, 2, 3, 1100}, 10);
}

TEMPLATE_TEST_CASE("Every engine does a few small layers, for tools that slow it down",
                   "[sanitize]", Half, Bfloat16, Fp32, Fp32Strict, Tf32) {
  Choices choices = rich(Direction::kForward);
  choices.dropconnect = Choices::Masks::kDrawn;
  choices.keep_for_backward = true;
  check_engines<TestType>(choices, {6, 3, 4, 21}, 8);
  choices.direction = Direction::kReverse;
  choices.unaligned = true;
  check_engines<TestType>(choices, {3, 10, 4, 34}, 8);
  check_engines<TestType>(plain(), {5, 1, 4, 16}, 8);
  check_engines<TestType>(plain(), {3, 140, 2, 20}, 8);
}

TEST_CASE("An engine that cannot run says why, and asking for it throws Unsupported") {
  if (!has_device()) SKIP("no CUDA device");
  Problem problem;
  problem.steps = problem.batch = problem.input_size = 4;
  problem.hidden_size = 4000;
  problem.engine = gru::Engine::kCluster;
  CHECK_THROWS_AS(ForwardPass<__half>{problem}, Unsupported);
  problem.hidden_size = 64;
  problem.engine = gru::Engine::kHost;
  CHECK_THROWS_AS(ForwardPass<__half>{problem}, Unsupported);
  problem.engine = gru::Engine::kAutomatic;
  for (Precision const precision : {Precision::kFp32, Precision::kFp32Strict, Precision::kTf32}) {
    problem.precision = precision;
    for (Variant const variant : {Variant::kResetAfter, Variant::kResetBefore}) {
      problem.variant = variant;
      Decision const decision = ForwardPass<float>{problem}.decision();
      CHECK(decision.candidates.size() >= 3);
      for (Candidate const& c : decision.candidates) {
        INFO(to_string(c.engine));
        CHECK_FALSE(c.reason.empty());
        Problem forced = problem;
        forced.engine = c.engine;
        if (c.can_run) {
          CHECK(ForwardPass<float>{forced}.decision().engine == c.engine);
        } else {
          CHECK_THROWS_AS(ForwardPass<float>{forced}, Unsupported);
        }
      }
    }
  }
}

TEST_CASE("The grid engine in code for sm_90 says that code for sm_90a would be faster") {
  gru::detail::DeviceFacts facts;
  facts.code_capability = 90;
  auto const says_so = [&](int compute_capability, bool has_sm_90a_code) {
    facts.compute_capability = compute_capability;
    facts.has_sm_90a_code = has_sm_90a_code;
    return gru::detail::why_it_runs(GridDouble{}, facts).find("sm_90a") != std::string::npos;
  };
  CHECK(says_so(90, false));
  CHECK_FALSE(says_so(90, true));
  CHECK_FALSE(says_so(80, false));
}

}  // namespace
}  // namespace gru::test
