// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <cuda_bf16.h>

#include <gru/detail/carver.hpp>
#include <gru/detail/cuda_types.cuh>
#include <gru/detail/device.cuh>
#include <gru/detail/product.cuh>
#include <gru/detail/sequence.hpp>
#include <gru/problem.hpp>

/// A product of float matrices, at float's accuracy, on tensor cores that multiply bfloat16.
///
/// A float is the exact sum of three bfloat16 values, its parts: large, middle, small. Of the nine
/// products of parts that make up a product of floats, the three least are below 2^-24 of the whole
/// and are left out. The other six are laid side by side along the depth,
///     [small | large | middle | middle | large | large]  times
///     [large ; small ; middle ; large ; middle ; large],
/// least first, so that one product of six times the depth sums them all in float. Tensor cores
/// round sums toward zero, so the depth that is summed at full size in one go is bounded.
///
/// Values that are not finite enter the product of the large parts alone, so that an infinite
/// element gives what it gives in a plain product. Below 2^-110 the small part is lost.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// The terms of a split product, in the order of summation.
inline constexpr int kSplitTerms = 6;

enum class SplitSide { kLeft, kRight };

/// Which part of an element stands at a term: 0 large, 1 middle, 2 small.
GRU_HOST_DEVICE constexpr int split_part(SplitSide side, int term) {
  constexpr int kLeft[kSplitTerms] = {2, 0, 1, 1, 0, 0};
  constexpr int kRight[kSplitTerms] = {0, 2, 1, 0, 1, 0};
  return side == SplitSide::kLeft ? kLeft[term] : kRight[term];
}

/// A float matrix that is to be split.
struct SplitSource {
  float const* data = nullptr;
  Rows rows;  // row i begins at rows.at(i / batch, i % batch)
  std::int64_t batch = 1;
  std::int64_t depth_stride = 1;  // elements between neighbours of a row
  std::int64_t row_count = 0;
  std::int64_t depth = 0;  // elements of a row
};

/// Neighbours of a row that a thread splits: 16 bytes of each part.
inline constexpr int kSplitGroup = 8;

/// How threads are spread over the groups of a matrix: in tiles, one a block, of 8 warps one above
/// the other. A warp has 2 rows x 16 groups where neighbours of a row lie together, otherwise 8 x
/// 4, so that it reads and writes whole sectors.
struct SplitTiles {
  static constexpr int kThreads = 256;

  std::int64_t rows;    // of the matrix
  std::int64_t groups;  // of a row
  int warp_rows;

  SplitTiles(SplitSource const& source, std::int64_t groups_of_row)
      : rows{source.row_count},
        groups{groups_of_row},
        warp_rows{source.depth_stride == 1 && groups_of_row >= 16 ? 2 : 8} {}

  GRU_HOST_DEVICE std::int64_t across() const {
    int const tile_groups = 32 / warp_rows;
    return (groups + tile_groups - 1) / tile_groups;
  }
  std::int64_t count() const {
    int const tile_rows = kThreads / 32 * warp_rows;
    return (rows + tile_rows - 1) / tile_rows * across();
  }
  __device__ std::int64_t row(std::int64_t tile, int thread) const {
    return (tile / across() * (kThreads / 32) + thread / 32) * warp_rows + thread % warp_rows;
  }
  __device__ std::int64_t group(std::int64_t tile, int thread) const {
    return tile % across() * (32 / warp_rows) + thread % 32 / warp_rows;
  }
};

/// The parts of a float, largest first: their sum is the value.
struct SplitFloat {
  __nv_bfloat16 part[3];
  bool is_finite;

  __device__ explicit SplitFloat(float value) : is_finite{isfinite(value) != 0} {
    part[0] = __float2bfloat16_rn(value);
    if (is_finite && __hisinf(part[0])) part[0] = __float2bfloat16_rz(value);
    float const rest = is_finite ? value - __bfloat162float(part[0]) : 0.0f;
    part[1] = __float2bfloat16_rn(rest);
    part[2] = __float2bfloat16_rn(rest - __bfloat162float(part[1]));
  }

  /// What stands for the value at a term.
  __device__ __nv_bfloat16 at(SplitSide side, int term) const {
    bool const enters = is_finite || term == kSplitTerms - 1;
    return enters ? part[split_part(side, term)] : __float2bfloat16_rn(0.0f);
  }
};

/// Writes the parts of a matrix, [row_count, kSplitTerms, groups * kSplitGroup], zero beyond the
/// depth.
template <typename Part>
GRU_KERNEL void split_kernel(SplitSource source, SplitSide side, SplitTiles tiles,
                             std::int64_t tile_count, Part* parts) {
  struct alignas(kSplitGroup * sizeof(Part)) Group {
    Part value[kSplitGroup];
  };
  for_each_element(tile_count, SplitTiles::kThreads, [&](std::int64_t tile, std::int64_t thread) {
    std::int64_t const row = tiles.row(tile, static_cast<int>(thread));
    std::int64_t const group = tiles.group(tile, static_cast<int>(thread));
    if (row >= tiles.rows || group >= tiles.groups) return;
    float const* const from = source.data + source.rows.at(row / source.batch, row % source.batch);
    Group terms[kSplitTerms];
#pragma unroll
    for (int e = 0; e < kSplitGroup; ++e) {
      std::int64_t const k = group * kSplitGroup + e;
      SplitFloat const split{k < source.depth ? from[k * source.depth_stride] : 0.0f};
#pragma unroll
      for (int term = 0; term < kSplitTerms; ++term) terms[term].value[e] = split.at(side, term);
    }
    auto* const to = reinterpret_cast<Group*>(parts) + row * kSplitTerms * tiles.groups + group;
#pragma unroll
    for (int term = 0; term < kSplitTerms; ++term) to[term * tiles.groups] = terms[term];
  });
}

/// D [rows, columns] = A [rows, depth] B [depth, columns] for float, by parts.
class SplitProduct {
 public:
  /// The extents and D's pitch.
  struct Shape {
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    std::int64_t depth = 0;
    std::int64_t pitch = 0;
  };

  SplitProduct() = default;

  SplitProduct(Shape const& shape, DeviceFacts const& facts, std::size_t most_workspace)
      : padded_depth_{padded_depth(shape.depth)}, slice_{padded_depth_ / slice_count(shape.depth)} {
    std::int64_t const others = (kSplitTerms - 1) * padded_depth_;
    first_ = plan(shape, others + slice_, facts, most_workspace);
    if (slice_ < padded_depth_) next_ = plan(shape, slice_, facts, most_workspace);
  }

  /// Values of the parts of a matrix of `rows` rows, or columns on the right.
  static std::int64_t part_count(std::int64_t rows, std::int64_t depth) {
    return rows * kSplitTerms * padded_depth(depth);
  }

  /// Of the product alone, without the parts.
  std::size_t workspace_bytes() const {
    return std::max(first_.workspace_bytes(), next_.workspace_bytes());
  }

  /// Enqueues the split of one side. The right side's rows are B's columns.
  static void split(cudaStream_t stream, SplitSource const& source, SplitSide side,
                    __nv_bfloat16* parts) {
    SplitTiles const tiles{source, padded_depth(source.depth) / kSplitGroup};
    launch_elementwise(split_kernel<__nv_bfloat16>, stream, tiles.count(), SplitTiles::kThreads,
                       source, side, tiles, tiles.count(), parts);
  }

  /// Enqueues the product of parts.
  void run(Execution const& execution, __nv_bfloat16 const* left, __nv_bfloat16 const* right,
           float* d, void* workspace) const {
    first_.run(execution, 1, left, right, 0, d, workspace);
    std::int64_t const end = kSplitTerms * padded_depth_;
    for (std::int64_t at = end - padded_depth_ + slice_; at < end; at += slice_) {
      next_.run(execution, 1, left + at, right + at, 1, d, workspace);
    }
  }

 private:
  /// The depth that is summed at full size in one go. H200, depths of 768 to 2816, uniform data:
  /// largest error 0.14 to 0.9 of SGEMM's, against 0.3 to 2.1 with 1024, whose product takes 1 to
  /// 15% less time.
  static constexpr std::int64_t kSliceDepth = 512;

  static std::int64_t slice_count(std::int64_t depth) {
    return (depth + kSliceDepth - 1) / kSliceDepth;
  }

  static std::int64_t padded_depth(std::int64_t depth) {
    std::int64_t const unit = kSplitGroup * slice_count(depth);
    return (depth + unit - 1) / unit * unit;
  }

  Product plan(Shape const& of, std::int64_t depth, DeviceFacts const& facts,
               std::size_t most_workspace) const {
    ProductShape shape;
    shape.m = of.rows;
    shape.n = of.columns;
    shape.k = depth;
    shape.a = {kSplitTerms * padded_depth_};
    shape.b = {kSplitTerms * padded_depth_, true};
    shape.d = {of.pitch};
    shape.input_type = kCudaType<__nv_bfloat16>;
    return Product{shape, facts, most_workspace};
  }

  std::int64_t padded_depth_ = 0;
  std::int64_t slice_ = 0;
  Product first_;  // all terms but the last, and a slice of that
  Product next_;   // a slice of the last term
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
