// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include <gru/detail/recurrence.cuh>
#include <gru/detail/tile_deal.cuh>

#include "support/computation.hpp"
#include "support/device_backend.cuh"
#include "support/on_device.cuh"
#include "support/options.hpp"
#include "support/tolerance.hpp"

/// Rows sorted by length, and tiles that are done when their rows are: what the cluster and the
/// grid engine do where a group of blocks has several tiles.
namespace gru::test {

/// The active tiles of a group in each step of a chunk.
__global__ void count_active_kernel(detail::RecurrentForward<float> steps, detail::TileSpan tiles,
                                    int* counts) {
  detail::ActiveTiles<detail::RecurrentForward<float>> active{steps, tiles};
  for (int i = 0; i < steps.steps; ++i) {
    counts[i] = active.count();
    active.advance();
  }
}

namespace {

/// Lengths from below 0 to above T, many of them alike.
std::vector<std::int32_t> random_lengths(std::int64_t T, std::int64_t N, std::uint64_t seed) {
  Dice dice{seed};
  std::vector<std::int32_t> lengths;
  for (std::int64_t n = 0; n < N; ++n) {
    lengths.push_back(static_cast<std::int32_t>(dice.below(T + 4) - 2));
  }
  return lengths;
}

/// The values tile by tile, dealt to groups round by round; of the full rounds every second one, of
/// which the last is the last, the other way.
std::vector<std::int32_t> dealt(std::vector<std::int32_t> const& values, int groups) {
  constexpr auto kRows = static_cast<std::ptrdiff_t>(detail::kTileRows);
  std::ptrdiff_t const round_rows = kRows * groups;
  auto const rounds = static_cast<std::ptrdiff_t>(values.size()) / round_rows;
  std::vector<std::int32_t> all;
  for (std::ptrdiff_t round = 0; round < rounds; ++round) {
    bool const reversed = (rounds - round) % 2 == 1;
    for (int group = 0; group < groups; ++group) {
      auto const tile =
          values.begin() + round * round_rows + kRows * (reversed ? groups - 1 - group : group);
      all.insert(all.end(), tile, tile + kRows);
    }
  }
  all.insert(all.end(), values.begin() + rounds * round_rows, values.end());
  return all;
}

TEST_CASE("Groups get about as many steps as each other") {
  // Sums of the numbers of a group's tiles, which stand for what is left of their lengths.
  constexpr int kGroups = 16;
  int const tiles = GENERATE(32, 33, 41, 48, 60);
  std::vector<int> sums(kGroups, 0);
  std::vector<int> counts(kGroups, 0);
  for (int number = 0; number < tiles; ++number) {
    int const group = detail::dealt_tile(number, kGroups, tiles * detail::kTileRows) % kGroups;
    sums[static_cast<std::size_t>(group)] += tiles - number;
    ++counts[static_cast<std::size_t>(group)];
  }
  auto const [least, most] = std::minmax_element(counts.begin(), counts.end());
  CHECK(*most - *least <= 1);
  double const mean = std::accumulate(sums.begin(), sums.end(), 0.0) / kGroups;
  CHECK(*std::max_element(sums.begin(), sums.end()) <= 1.15 * mean);
}

TEST_CASE("Rows are sorted by length, and their tiles dealt to groups in turns") {
  if (!has_device()) SKIP("no CUDA device");
  std::int64_t const N = GENERATE(1, 2, 7, 8, 9, 31, 33, 200, 1025);
  int const groups = GENERATE(1, 3, 16);
  constexpr std::int64_t T = 20;
  std::vector<std::int32_t> const lengths = random_lengths(T, N, 1);
  auto const clamped = [&](std::int32_t n) {
    return std::clamp(lengths[static_cast<std::size_t>(n)], 0, static_cast<std::int32_t>(T));
  };
  std::vector<std::int32_t> order(lengths.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int32_t a, std::int32_t b) { return clamped(a) > clamped(b); });
  order = dealt(order, groups);
  std::vector<std::int32_t> longest;
  for (std::size_t i = 0; i < order.size(); i += detail::kTileRows) {
    longest.push_back(clamped(order[i]));
  }

  OnDevice<std::int32_t> const given{lengths};
  OnDevice<std::int32_t> const sorted{std::vector<std::int32_t>(order.size(), -1)};
  OnDevice<std::int32_t> const of_tiles{std::vector<std::int32_t>(longest.size(), -1)};
  detail::LayerView<float> layer;
  layer.batch = N;
  layer.schedule.steps = T;
  layer.schedule.lengths = given.data();
  detail::launch_sort_rows(nullptr, layer, {sorted.data(), of_tiles.data()}, groups);
  CHECK(sorted.read() == order);
  CHECK(of_tiles.read() == longest);
}

TEST_CASE("A group's tiles are active while any of their rows is") {
  if (!has_device()) SKIP("no CUDA device");
  std::vector<std::int32_t> const lengths =
      GENERATE(std::vector<std::int32_t>{40, 33, 33, 20, 12, 11, 1, 0},
               std::vector<std::int32_t>{5, 5, 5, 5, 5, 5, 5, 5},
               std::vector<std::int32_t>{40, 40, 40, 40, 40, 40, 40, 40},
               std::vector<std::int32_t>{0, 0, 0, 0, 0, 0, 0, 0},
               std::vector<std::int32_t>{40, 40, 40, 0, 0, 0, 0, 0});
  bool const reverse = GENERATE(false, true);
  int const first_time = GENERATE(0, 10, 33);
  int const groups = GENERATE(1, 3);
  INFO((reverse ? "reverse" : "forward") << ", from " << first_time << ", groups " << groups);
  OnDevice<std::int32_t> const of_tiles{lengths};
  detail::RecurrentForward<float> steps;
  steps.batch = 8 * detail::kTileRows - 3;
  steps.first_time = first_time;
  steps.steps = 40 - first_time;
  steps.reverse = reverse;
  steps.deal.groups = groups;
  steps.deal.length = of_tiles.data();
  // One tile more than there are rows for.
  int const tiles = 8 / groups + 1;
  for (int group = 0; group < groups; ++group) {
    OnDevice<int> const counts{std::vector<int>(static_cast<std::size_t>(steps.steps), -1)};
    count_active_kernel<<<1, 1>>>(steps, {group, groups, tiles}, counts.data());
    std::vector<int> const actual = counts.read();
    for (int i = 0; i < steps.steps; ++i) {
      // Tiles begin together with those of the three steps after.
      int const soon = std::min(i / detail::kBeginSteps * detail::kBeginSteps + 3, steps.steps);
      int const time = first_time + (reverse ? steps.steps - 1 - soon : i);
      int expected = 0;
      for (int k = 0; k < tiles; ++k) {
        std::size_t const tile = static_cast<std::size_t>(group + k * groups);
        int const length = tile < lengths.size() ? std::max(lengths[tile], first_time) : first_time;
        if (length > time) expected = k + 1;
      }
      INFO("group " << group << ", step " << i);
      REQUIRE(actual[static_cast<std::size_t>(i)] == expected);
    }
  }
}

/// How the lengths of a batch may be.
struct Pattern {
  std::string name;
  std::vector<std::int32_t> (*lengths)(std::int64_t T, std::int64_t N);
};

/// Lengths by a formula of the row.
template <typename Formula>
std::vector<std::int32_t> lengths_of(std::int64_t N, Formula const& formula) {
  std::vector<std::int32_t> lengths;
  for (std::int64_t n = 0; n < N; ++n) lengths.push_back(static_cast<std::int32_t>(formula(n)));
  return lengths;
}

std::vector<Pattern> const& all_patterns() {
  using I = std::int64_t;
  static std::vector<Pattern> const all{
      {"random", [](I T, I N) { return random_lengths(T, N, 3); }},
      {"sorted", [](I T, I N) { return lengths_of(N, [&](I n) { return T - n * (T + 1) / N; }); }},
      {"sorted the other way",
       [](I T, I N) { return lengths_of(N, [&](I n) { return n * (T + 1) / N; }); }},
      {"equal", [](I T, I N) { return lengths_of(N, [&](I) { return T / 2; }); }},
      {"full", [](I T, I N) { return lengths_of(N, [&](I) { return T; }); }},
      {"zero", [](I, I N) { return lengths_of(N, [&](I) { return 0; }); }},
      {"zero but one", [](I T, I N) { return lengths_of(N, [&](I n) { return n == 9 ? T : 0; }); }},
      {"full or zero", [](I T, I N) { return lengths_of(N, [&](I n) { return n % 3 ? T : 0; }); }},
  };
  return all;
}

/// With h0, and what makes steps, rows and units differ.
Choices rich(Direction direction) {
  Choices choices;
  choices.direction = direction;
  choices.episode_starts = true;
  choices.zoneout = choices.recurrent_dropout = Choices::Masks::kDrawn;
  return choices;
}

/// Runs of the layer with each of the patterns of lengths, maybe in host memory too, on every
/// engine.
template <typename Computation>
void check_patterns(Choices const& choices, Sizes const& sizes,
                    std::vector<Pattern> const& patterns, bool on_host = false) {
  Layer layer = make_layer<Computation>(choices, sizes, 21);
  Values const dh = layer.dh;
  for (Pattern const& pattern : patterns) {
    INFO(to_string(sizes) << "; lengths: " << pattern.name << (on_host ? ", on the host too" : ""));
    layer.dh = dh;
    set_lengths(layer, pattern.lengths(sizes.T, sizes.N));
    layer.problem.host_lengths = on_host;
    check_engines<typename Computation::Type>(layer);
  }
}

// On 132 multiprocessors, groups of the grid engine have 3 tiles in the first sizes and 7 in the
// second; clusters have 2 or 3, and 4.
constexpr Sizes kLong{45, 130, 2, 260};
constexpr Sizes kWide{9, 200, 2, 520};

TEMPLATE_TEST_CASE("Every engine gives the host engine's numbers whatever the lengths", "[lengths]",
                   Half, Bfloat16, Fp32, Tf32) {
  Choices choices = rich(GENERATE(Direction::kForward, Direction::kReverse));
  choices.keep_for_backward = false;
  check_patterns<TestType>(choices, kLong, all_patterns(), GENERATE(false, true));
  choices.layout = Layout::kBatchMajor;
  choices.wide_rows = true;
  check_patterns<TestType>(choices, kLong, {all_patterns().front()}, true);
  check_patterns<TestType>(choices, kWide, {all_patterns().front()});
}

TEMPLATE_TEST_CASE("Every engine trains whatever the lengths", "[lengths][training]", Half,
                   Bfloat16, Fp32, Tf32) {
  Choices choices = rich(GENERATE(Direction::kForward, Direction::kReverse));
  check_patterns<TestType>(choices, kLong, all_patterns());
  check_patterns<TestType>(choices, kLong, {all_patterns().front()}, true);
  choices.reserve = ReservePolicy::kOverwrite;
  choices.layout = Layout::kBatchMajor;
  choices.wide_rows = true;
  check_patterns<TestType>(choices, kWide, {all_patterns().front()});
}

TEMPLATE_TEST_CASE("Every engine gives the same whatever the lengths where steps come in chunks",
                   "[lengths][training]", Half, Fp32) {
  using T = typename TestType::Type;
  std::int64_t const chunk = GENERATE(2, 7, 18);
  Layer layer =
      make_layer<TestType>(rich(GENERATE(Direction::kForward, Direction::kReverse)), kLong, 22);
  set_lengths(layer, random_lengths(kLong.T, kLong.N, 5));
  layer.problem.host_lengths = GENERATE(false, true);
  Results const expected = exact(layer);
  for (gru::Engine const engine : forward_engines<T>(layer.problem)) {
    INFO("engine: " << to_string(engine) << "; about " << chunk << " steps a chunk");
    Problem one_chunk = layer.problem;
    one_chunk.workspace_limit = Problem{}.workspace_limit;
    one_chunk.steps = chunk;
    Engine const& by = device_engine<T>(engine);
    layer.problem.workspace_limit =
        std::max(by.forward_bytes(one_chunk).workspace, by.backward_bytes(one_chunk).workspace);
    check_close(by.run(layer), expected, layer, DataTypeOf<T>::value);
  }
}

TEMPLATE_TEST_CASE("Two runs with lengths give the same bits on every engine", "[lengths]", Half,
                   Fp32, Tf32) {
  using T = typename TestType::Type;
  Layer layer =
      make_layer<TestType>(rich(GENERATE(Direction::kForward, Direction::kReverse)), kLong, 23);
  set_lengths(layer, random_lengths(kLong.T, kLong.N, 6));
  layer.problem.host_lengths = GENERATE(false, true);
  for (gru::Engine const engine : forward_engines<T>(layer.problem)) {
    INFO("engine: " << to_string(engine));
    Results const first = device_engine<T>(engine).run(layer);
    Results const second = device_engine<T>(engine).run(layer);
    for (NamedResult const& result : named_results()) {
      INFO(result.name);
      CHECK(first.*result.values == second.*result.values);
    }
  }
}

}  // namespace
}  // namespace gru::test
