// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_test_macros.hpp>

#include <cstddef>
#include <cstdint>

#include <gru/detail/chunk_plan.cuh>

/// How the steps of a device pass are cut into chunks. Needs no device.
namespace gru::test {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

/// 100 steps of 1 MiB each, beside 2 MiB.
std::size_t bytes(std::int64_t steps) {
  return (2 + static_cast<std::size_t>(steps)) * kMiB;
}

/// The same where sums are kept from chunk to chunk, of 50 MiB.
std::size_t bytes_with_sums(std::int64_t steps) {
  return bytes(steps) + 50 * kMiB;
}

Problem problem(std::size_t limit) {
  Problem p;
  p.steps = 100;
  p.batch = p.input_size = p.hidden_size = 8;
  p.workspace_limit = limit;
  return p;
}

TEST_CASE("All steps are one chunk where that leaves the products their scratch") {
  std::size_t const scratch = detail::kMostProductWorkspace;
  detail::ChunkPlan const plan = detail::plan_chunks(problem(102 * kMiB + scratch), bytes);
  CHECK(plan.chunks.count == 1);
  CHECK(plan.most_product_workspace == scratch);
}

TEST_CASE("Several chunks leave the products the scratch that one would not") {
  Problem const p = problem(110 * kMiB);
  detail::ChunkPlan const plan = detail::plan_chunks(p, bytes);
  CHECK(plan.chunks.count == 2);
  CHECK(plan.chunks.size == 50);
  CHECK(plan.most_product_workspace >= 26 * kMiB);
  CHECK(bytes(plan.chunks.size) + plan.most_product_workspace <= p.workspace_limit);
}

TEST_CASE("The least limit has room for one step, and none for scratch") {
  detail::ChunkPlan const plan = detail::plan_chunks(problem(bytes(1)), bytes);
  CHECK(plan.chunks.count == 100);
  CHECK(plan.most_product_workspace == 0);
  CHECK_THROWS_AS(detail::plan_chunks(problem(bytes(1) - 1), bytes), InvalidArgument);
}

TEST_CASE("One chunk comes first where several need sums for which there is no room") {
  Problem p = problem(102 * kMiB);
  CHECK(detail::plan_chunks(p, bytes, bytes_with_sums).chunks.count > 1);
  auto const more_sums = [](std::int64_t steps) { return bytes(steps) + 100 * kMiB; };
  detail::ChunkPlan const plan = detail::plan_chunks(p, bytes, more_sums);
  CHECK(plan.chunks.count == 1);
  CHECK(plan.most_product_workspace == 0);
  p.workspace_limit = 101 * kMiB;
  CHECK_THROWS_AS(detail::plan_chunks(p, bytes, more_sums), InvalidArgument);
}

TEST_CASE("A single step needs no sums, whatever several chunks need") {
  Problem p = problem(bytes(1));
  p.steps = 1;
  detail::ChunkPlan const plan = detail::plan_chunks(p, bytes, bytes_with_sums);
  CHECK(plan.chunks.count == 1);
}

}  // namespace
}  // namespace gru::test
