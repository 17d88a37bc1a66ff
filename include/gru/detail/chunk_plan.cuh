// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>

#include <gru/detail/carver.hpp>
#include <gru/detail/chunks.hpp>
#include <gru/detail/product.cuh>
#include <gru/problem.hpp>

/// How the steps of a device pass are cut into chunks, so that these and the products' scratch fit
/// in Problem::workspace_limit.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// How a pass is cut into chunks, and what its products may use as scratch beside them.
struct ChunkPlan {
  Chunks chunks;
  std::size_t most_product_workspace = 0;
};

/// What products may use as scratch, where a chunk of one step takes `one_step` bytes. They come to
/// need it where a weight gradient sums over many rows: with what little one chunk left, backward
/// of 100 4096 64 64 in TF32 took 40 ms on an H200 instead of 2.
inline std::size_t most_product_workspace(Problem const& p, std::size_t one_step) {
  if (one_step > p.workspace_limit) return 0;
  std::size_t const share = std::min(kMostProductWorkspace, (p.workspace_limit - one_step) / 4);
  return share / Carver::kAlignment * Carver::kAlignment;
}

/// All steps in one chunk, of so many bytes without the products' scratch.
inline ChunkPlan plan_one_chunk(Problem const& p, std::size_t bytes) {
  ChunkPlan plan;
  plan.chunks = cut_into_chunks(p, bytes, 0);
  plan.most_product_workspace = std::min(kMostProductWorkspace, p.workspace_limit - bytes) /
                                Carver::kAlignment * Carver::kAlignment;
  return plan;
}

/// Whether there is room for so many bytes in one chunk.
inline bool fits(Problem const& p, std::size_t bytes) {
  return bytes <= p.workspace_limit && p.steps * p.batch <= kLargestExtent;
}

/// One chunk where it leaves the products their scratch, and the fewest elsewhere. `bytes(steps)`
/// is the workspace for chunks of that many steps, without the scratch.
template <typename Bytes>
ChunkPlan plan_chunks(Problem const& p, Bytes bytes) {
  std::size_t const fixed = bytes(0);
  std::size_t const one_step = bytes(1);
  std::size_t const whole = bytes(p.steps);
  std::size_t const scratch = most_product_workspace(p, one_step);
  if (fits(p, whole + scratch)) return plan_one_chunk(p, whole);
  ChunkPlan plan;
  plan.most_product_workspace = scratch;
  plan.chunks = cut_into_chunks(p, fixed + scratch, one_step - fixed);
  return plan;
}

/// The same where several chunks take more than one does for each of its steps:
/// `bytes_of_one(steps)` and `bytes_of_several(steps)`. One that leaves less scratch comes before
/// several that do not fit.
template <typename BytesOfOne, typename BytesOfSeveral>
ChunkPlan plan_chunks(Problem const& p, BytesOfOne bytes_of_one, BytesOfSeveral bytes_of_several) {
  if (p.steps <= 1) return plan_chunks(p, bytes_of_one);
  std::size_t const whole = bytes_of_one(p.steps);
  bool const several_fit = bytes_of_several(1) <= p.workspace_limit;
  std::size_t const scratch = several_fit ? most_product_workspace(p, bytes_of_one(1)) : 0;
  if (fits(p, whole + scratch)) return plan_one_chunk(p, whole);
  return plan_chunks(p, bytes_of_several);
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
