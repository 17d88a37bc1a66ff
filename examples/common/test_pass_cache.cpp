// SPDX-License-Identifier: Apache-2.0
//
// What the launchers keep of passes, with a pass that only counts itself.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <thread>
#include <vector>

#include "pass_cache.hpp"

namespace {

using gru::Problem;

int failures = 0;

void expect(bool holds, char const* what) {
  std::printf("%s %s\n", holds ? "ok  " : "FAIL", what);
  if (!holds) ++failures;
}

struct CountedPass {
  static inline std::atomic<int> made{0};

  explicit CountedPass(Problem const& problem) : steps{problem.steps} {
    if (steps < 0) throw std::invalid_argument{"steps"};
    ++made;
  }

  std::int64_t steps;
};

Problem with_steps(std::int64_t steps) {
  Problem problem;
  problem.steps = steps;
  return problem;
}

/// How many passes a call makes.
template <typename Call>
int made_by(Call call) {
  int const before = CountedPass::made;
  call();
  return CountedPass::made - before;
}

void check_lookups() {
  gru::adapter::PassCache<CountedPass> cache{2};
  auto const get = [&](std::int64_t steps, int device = 0) {
    return cache.get(with_steps(steps), device);
  };
  expect(get(1)->steps == 1 && get(1) == get(1), "one pass serves equal Problems");
  expect(made_by([&] { get(1, 1); }) == 1, "another device has another pass");
  expect(get(1, 0) != get(1, 1), "which is kept apart");
  auto const kept = get(1, 0);
  expect(made_by([&] { get(2); }) == 1, "another Problem has another pass");
  expect(made_by([&] { get(1, 0); }) == 0, "what was used last is kept");
  expect(made_by([&] { get(1, 1); }) == 1, "what was not is made again");
  get(3);
  get(4);
  expect(kept->steps == 1, "a pass lives as long as its user");
}

void check_exceptions() {
  gru::adapter::PassCache<CountedPass> cache;
  for (int i = 0; i < 2; ++i) {
    bool throws = false;
    try {
      cache.get(with_steps(-1), 0);
    } catch (std::invalid_argument const&) {
      throws = true;
    }
    expect(throws, "what the construction throws comes through, each time");
  }
}

void check_threads() {
  gru::adapter::PassCache<CountedPass const> cache{8};
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (std::int64_t i = 0; i < 2000; ++i) {
        if (cache.get(with_steps(i % 11), 0)->steps != i % 11) ++wrong[static_cast<std::size_t>(t)];
      }
    });
  }
  int all = 0;
  for (int t = 0; t < 4; ++t) {
    threads[static_cast<std::size_t>(t)].join();
    all += wrong[static_cast<std::size_t>(t)];
  }
  expect(all == 0, "threads at once get their own Problem's pass");
}

}  // namespace

int main() {
  check_lookups();
  check_exceptions();
  check_threads();
  return failures == 0 ? 0 : 1;
}
