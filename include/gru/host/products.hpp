// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include <Eigen/Core>

namespace gru::detail::host {

/// A matrix in the caller's or our memory, as it is stored or transposed.
template <typename A>
struct MatrixView {
  A* data = nullptr;
  std::int64_t pitch = 0;   // elements from one stored row to the next
  bool transposed = false;  // whether the stored rows are the matrix's columns

  MatrixView() = default;
  MatrixView(A* first, std::int64_t row_pitch, bool is_transposed)
      : data{first}, pitch{row_pitch}, transposed{is_transposed} {}
  /// A view that only reads may be made of one that writes.
  template <typename B, typename = std::enable_if_t<std::is_same_v<B const, A>>>
  MatrixView(MatrixView<B> const& other)
      : data{other.data}, pitch{other.pitch}, transposed{other.transposed} {}

  /// The matrix without its first rows.
  MatrixView from_row(std::int64_t i) const {
    return {data + i * (transposed ? 1 : pitch), pitch, transposed};
  }
  /// The matrix without its first columns.
  MatrixView from_column(std::int64_t j) const {
    return {data + j * (transposed ? pitch : 1), pitch, transposed};
  }
  MatrixView flipped() const { return {data, pitch, !transposed}; }
};

/// Extents of a product: [rows, depth] times [depth, columns].
struct ProductShape {
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t depth;
};

/// out = lhs * rhs, or out += lhs * rhs. One of the operands at most may be transposed, where the
/// result is not; a transposed result is computed as flipped(out) = flipped(rhs) * flipped(lhs).
///
/// Eigen packs blocks of the operands into memory of its own, on the stack or, above 128 KiB, from
/// the heap. In the calling thread alone, unless the caller compiles with OpenMP and leaves Eigen's
/// threads on (see EIGEN_DONT_PARALLELIZE).
template <typename A>
void multiply(MatrixView<A> out, MatrixView<A const> lhs, MatrixView<A const> rhs,
              ProductShape shape, bool accumulate) {
  if (out.transposed) {
    multiply(out.flipped(), rhs.flipped(), lhs.flipped(), {shape.columns, shape.rows, shape.depth},
             accumulate);
    return;
  }
  using RowMajor = Eigen::Matrix<A, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using ColumnMajor = Eigen::Matrix<A, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor>;
  using Pitch = Eigen::OuterStride<Eigen::Dynamic>;
  using Rows = Eigen::Map<RowMajor const, 0, Pitch>;
  using Columns = Eigen::Map<ColumnMajor const, 0, Pitch>;

  Eigen::Map<RowMajor, 0, Pitch> result(out.data, shape.rows, shape.columns, Pitch(out.pitch));
  if (!accumulate) result.setZero();
  if (lhs.transposed) {
    Columns const left(lhs.data, shape.rows, shape.depth, Pitch(lhs.pitch));
    Rows const right(rhs.data, shape.depth, shape.columns, Pitch(rhs.pitch));
    result.noalias() += left * right;
  } else if (rhs.transposed) {
    Rows const left(lhs.data, shape.rows, shape.depth, Pitch(lhs.pitch));
    Columns const right(rhs.data, shape.depth, shape.columns, Pitch(rhs.pitch));
    result.noalias() += left * right;
  } else {
    Rows const left(lhs.data, shape.rows, shape.depth, Pitch(lhs.pitch));
    Rows const right(rhs.data, shape.depth, shape.columns, Pitch(rhs.pitch));
    result.noalias() += left * right;
  }
}

}  // namespace gru::detail::host
