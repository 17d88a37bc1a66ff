// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

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
/// A matrix that several products share, along either of its axes, is split once and lies
/// otherwise: see SharedParts.
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

  SplitTiles(SplitSource const& source, std::int64_t rows_of_parts, std::int64_t groups_of_row)
      : rows{rows_of_parts},
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

  /// A part where the value is finite, otherwise zero.
  __device__ __nv_bfloat16 finite(int index) const {
    return is_finite ? part[index] : __float2bfloat16_rn(0.0f);
  }
};

/// Where parts lie for a product of their own: [rows, kSplitTerms, groups], what one side has at
/// each term.
struct TermBlocks {
  static constexpr int kCount = kSplitTerms;

  std::int64_t rows;
  std::int64_t groups;
  SplitSide side;

  __device__ __nv_bfloat16 value(SplitFloat const& split, int term) const {
    int const index = split_part(side, term);
    return term == kSplitTerms - 1 ? split.part[index] : split.finite(index);
  }
  __device__ std::int64_t at(std::int64_t row, int term, std::int64_t group) const {
    return (row * kSplitTerms + term) * groups + group;
  }
};

/// Writes the parts of a matrix where `blocks` says, zero beyond its rows and its depth.
template <typename Blocks>
GRU_KERNEL void split_kernel(SplitSource source, Blocks blocks, SplitTiles tiles,
                             std::int64_t tile_count, __nv_bfloat16* parts) {
  struct alignas(kSplitGroup * sizeof(__nv_bfloat16)) Group {
    __nv_bfloat16 value[kSplitGroup];
  };
  for_each_element(tile_count, SplitTiles::kThreads, [&](std::int64_t tile, std::int64_t thread) {
    std::int64_t const row = tiles.row(tile, static_cast<int>(thread));
    std::int64_t const group = tiles.group(tile, static_cast<int>(thread));
    if (row >= tiles.rows || group >= tiles.groups) return;
    float const* const from = source.data + source.rows.at(row / source.batch, row % source.batch);
    std::int64_t const depth = row < source.row_count ? source.depth : 0;
    Group written[Blocks::kCount];
#pragma unroll
    for (int e = 0; e < kSplitGroup; ++e) {
      std::int64_t const k = group * kSplitGroup + e;
      SplitFloat const split{k < depth ? from[k * source.depth_stride] : 0.0f};
#pragma unroll
      for (int i = 0; i < Blocks::kCount; ++i) written[i].value[e] = blocks.value(split, i);
    }
    auto* const to = reinterpret_cast<Group*>(parts);
#pragma unroll
    for (int i = 0; i < Blocks::kCount; ++i) to[blocks.at(row, i, group)] = written[i];
  });
}

template <typename Blocks>
void enqueue_split(cudaStream_t stream, SplitSource const& source, Blocks const& blocks,
                   __nv_bfloat16* parts) {
  SplitTiles const tiles{source, blocks.rows, blocks.groups};
  launch_elementwise(split_kernel<Blocks>, stream, tiles.count(), SplitTiles::kThreads, source,
                     blocks, tiles, tiles.count(), parts);
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
    TermBlocks const blocks{source.row_count, padded_depth(source.depth) / kSplitGroup, side};
    enqueue_split(stream, source, blocks, parts);
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

/// The order of a matrix's parts in SharedParts. A product takes one matrix of each.
enum class PartOrder { kLargeFirst, kSmallFirst };

/// The parts of a matrix that serve products along its rows and along its width:
///     [rows, 3, width]  the three parts of each row, zero where a value is not finite
///     [rows, width]     the large parts, with the values that are not finite
/// in 8 bytes a value. With A large first and B small first, equal positions of the former make up
/// the products large x small, middle x middle, small x large, and positions 0 and 1 of A with 1
/// and 2 of B make up large x middle, middle x large; the latter alone is left for large x large.
struct SharedParts {
  static constexpr int kPositions = 3;
  /// Rows are padded to a multiple of this.
  static constexpr std::int64_t kRowUnit = 16;

  std::int64_t rows = 0;
  std::int64_t width = 0;

  SharedParts() = default;
  SharedParts(std::int64_t row_count, std::int64_t values_of_row)
      : rows{(row_count + kRowUnit - 1) / kRowUnit * kRowUnit},
        width{(values_of_row + kSplitGroup - 1) / kSplitGroup * kSplitGroup} {}

  /// Room for the parts of a matrix, affine in its rows.
  static std::int64_t room(std::int64_t row_count, std::int64_t values_of_row) {
    SharedParts const row{1, values_of_row};
    return (kPositions + 1) * (row_count + kRowUnit - 1) * row.width;
  }

  /// Where the large parts begin.
  std::int64_t large() const { return kPositions * rows * width; }

  /// Enqueues the split of a matrix of these rows, whose depth is the width.
  void split(cudaStream_t stream, SplitSource const& source, PartOrder order,
             __nv_bfloat16* parts) const;
};

/// How split_kernel writes SharedParts.
struct SharedBlocks {
  static constexpr int kCount = SharedParts::kPositions + 1;

  std::int64_t rows;
  std::int64_t groups;
  PartOrder order;

  __device__ __nv_bfloat16 value(SplitFloat const& split, int block) const {
    constexpr int kLast = SharedParts::kPositions - 1;
    if (block > kLast) return split.part[0];
    return split.finite(order == PartOrder::kLargeFirst ? block : kLast - block);
  }
  __device__ std::int64_t at(std::int64_t row, int block, std::int64_t group) const {
    constexpr int kLast = SharedParts::kPositions - 1;
    if (block > kLast) return (SharedParts::kPositions * rows + row) * groups + group;
    return (row * SharedParts::kPositions + block) * groups + group;
  }
};

inline void SharedParts::split(cudaStream_t stream, SplitSource const& source, PartOrder order,
                               __nv_bfloat16* parts) const {
  enqueue_split(stream, source, SharedBlocks{rows, width / kSplitGroup, order}, parts);
}

/// out [rows, columns] = beta out + the sum of `count` dense matrices.
template <typename Value>
GRU_KERNEL void add_sums_kernel(Value const* sums, std::int64_t count, std::int64_t rows,
                                std::int64_t columns, float beta, Value* out, std::int64_t pitch) {
  for_each_element(rows, columns, [&](std::int64_t row, std::int64_t column) {
    Value total = 0;
    for (std::int64_t i = 0; i < count; ++i) total += sums[(i * rows + row) * columns + column];
    Value& to = out[row * pitch + column];
    to = beta == 0 ? total : beta * to + total;
  });
}

/// D = A B + beta D for float, of parts that other products share. The terms are added to D one
/// after the other, least first.
class SharedProduct {
 public:
  SharedProduct() = default;

  /// D = A B^T, where the depth is the width of both. A is large first, B small first. `shape`
  /// says m, n, the batch and D, and of A only where rows lie, counted in rows.
  static SharedProduct along_width(ProductShape shape, SharedParts const& a, SharedParts const& b,
                                   DeviceFacts const& facts, std::size_t most_workspace) {
    MatrixLayout const rows = shape.a;
    SharedProduct result;
    auto const add = [&](std::int64_t positions, std::int64_t depth, std::int64_t a_begin,
                         std::int64_t b_begin) {
      std::int64_t const pitch = positions * a.width;
      shape.k = depth;
      shape.a = {rows.pitch * pitch, false, rows.batch_stride * pitch};
      shape.b = {pitch, true, 0};
      result.add(shape, a_begin, b_begin, facts, most_workspace);
    };
    add(3, 3 * a.width, 0, 0);
    add(3, 2 * a.width, 0, a.width);
    std::int64_t const slice = slice_depth(a.width, a.width);
    for (std::int64_t at = 0; at < a.width; at += slice) {
      add(1, std::min(slice, a.width - at), a.large() + at, b.large() + at);
    }
    return result;
  }

  /// D = A^T B, where the depth is the rows of both. `shape` says m, n and D. B's parts are in the
  /// order that A's are not. The rows are divided among `sums` sums, a divisor of
  /// SharedParts::kRowUnit, that are made at the same time and then added up.
  static SharedProduct along_rows(ProductShape shape, SharedParts const& a, SharedParts const& b,
                                  PartOrder order_of_a, std::int64_t sums, DeviceFacts const& facts,
                                  std::size_t most_workspace) {
    std::int64_t const rows = a.rows / sums;  // of a sum
    SharedProduct result;
    result.sums_ = sums;
    result.out_ = shape.d;
    shape.batch = sums;
    if (sums > 1) shape.d = {shape.n, false, shape.m * shape.n};
    auto const add = [&](std::int64_t positions, std::int64_t a_pitch, std::int64_t b_pitch,
                         std::int64_t depth, std::int64_t a_begin, std::int64_t b_begin) {
      shape.k = depth;
      shape.a = {a_pitch, true, positions * rows * a.width};
      shape.b = {b_pitch, false, positions * rows * b.width};
      result.add(shape, a_begin, b_begin, facts, most_workspace);
    };
    // One row after the other, position by position.
    add(3, a.width, b.width, 3 * rows, 0, 0);
    bool const a_is_first = order_of_a == PartOrder::kLargeFirst;
    for (std::int64_t const position : {0, 1}) {
      add(3, 3 * a.width, 3 * b.width, rows, (a_is_first ? position : position + 1) * a.width,
          (a_is_first ? position + 1 : position) * b.width);
    }
    std::int64_t const slice = slice_depth(rows, a.rows);
    for (std::int64_t at = 0; at < rows; at += slice) {
      add(1, a.width, b.width, std::min(slice, rows - at), a.large() + at * a.width,
          b.large() + at * b.width);
    }
    return result;
  }

  /// How many sums give a product along rows enough tiles for all multiprocessors: 1 where D alone
  /// has them. Sums of fewer than 512 rows would take longer to write than to multiply.
  static std::int64_t wanted_sums(std::int64_t m, std::int64_t n, std::int64_t rows,
                                  int multiprocessors) {
    std::int64_t const tiles = ((m + 127) / 128) * ((n + 255) / 256);
    std::int64_t sums = 1;
    while (sums < SharedParts::kRowUnit && sums * tiles < multiprocessors &&
           rows / (2 * sums) >= 512) {
      sums *= 2;
    }
    return sums;
  }

  std::size_t workspace_bytes() const {
    std::size_t most = 0;
    for (Term const& term : terms_) most = std::max(most, term.product.workspace_bytes());
    return most;
  }

  /// Enqueues the product. `sums` has room for the sums, tight, where there is more than one.
  void run(Execution const& execution, __nv_bfloat16 const* a, __nv_bfloat16 const* b, double beta,
           float* d, float* sums, void* workspace) const {
    double term_beta = sums_ == 1 ? beta : 0;
    for (Term const& term : terms_) {
      term.product.run(execution, 1, a + term.a_begin, b + term.b_begin, term_beta,
                       sums_ == 1 ? d : sums, workspace);
      term_beta = 1;
    }
    if (sums_ == 1) return;
    launch_elementwise(add_sums_kernel<float>, execution.stream, rows_, columns_, sums, sums_,
                       rows_, columns_, static_cast<float>(beta), d, out_.pitch);
  }

 private:
  /// Some of the terms, or a slice of the last one.
  struct Term {
    Product product;
    std::int64_t a_begin;
    std::int64_t b_begin;
  };

  /// Of `extent`, the part that is summed at full size in one go, in a product of some depth.
  /// Tensor cores lose in proportion to it, sums in float as the root of the depth; the largest
  /// errors of SplitProduct, with slices of 512 and of 1024, are 0.066 slice / root of SGEMM's.
  static std::int64_t slice_depth(std::int64_t extent, std::int64_t depth) {
    double const most = std::max(512.0, 12 * std::sqrt(static_cast<double>(depth)));
    auto const count = static_cast<std::int64_t>(std::ceil(static_cast<double>(extent) / most));
    std::int64_t const unit = kSplitGroup * std::max<std::int64_t>(1, count);
    return (extent + unit - 1) / unit * kSplitGroup;
  }

  void add(ProductShape shape, std::int64_t a_begin, std::int64_t b_begin, DeviceFacts const& facts,
           std::size_t most_workspace) {
    shape.input_type = kCudaType<__nv_bfloat16>;
    shape.output_type = kCudaType<float>;
    shape.compute = CUBLAS_COMPUTE_32F;
    rows_ = shape.m;
    columns_ = shape.n;
    terms_.push_back({Product{shape, facts, most_workspace}, a_begin, b_begin});
  }

  std::vector<Term> terms_;  // least first
  std::int64_t rows_ = 0;    // D's
  std::int64_t columns_ = 0;
  std::int64_t sums_ = 1;
  MatrixLayout out_;
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
