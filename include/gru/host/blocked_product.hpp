// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include <gru/host/execution.hpp>
#include <gru/host/pack.hpp>
#include <gru/host/panels.hpp>
#include <gru/host/parallel.hpp>
#include <gru/host/products.hpp>

/// Products of many rows: with the kernel of panels.hpp, from copies of both operands in pieces
/// that fit the caches.
namespace gru::detail::host {

/// What a task multiplies with: the copies of a piece of its rows and of a piece of a panel, which
/// fits the first cache.
template <typename A>
class ProductBlock {
  static constexpr int kPacks = 3;
  static constexpr std::int64_t kDepth = 512 / sizeof(A);

 public:
  static constexpr std::int64_t kRows = 128;                         // at once
  static constexpr std::int64_t kColumns = kPacks * Pack<A>::kSize;  // of a panel

  /// out (+)= lhs * rhs; `out` is not transposed. Every element is summed in ascending order.
  void multiply(MatrixView<A> out, MatrixView<A const> lhs, MatrixView<A const> rhs,
                ProductShape shape, bool accumulate) {
    for (std::int64_t i = 0; i < shape.rows; i += kRows) {
      for (std::int64_t k = 0; k < shape.depth; k += kDepth) {
        multiply_piece(
            out.from_row(i), lhs.from_row(i).from_column(k), rhs.from_row(k),
            {std::min(kRows, shape.rows - i), shape.columns, std::min(kDepth, shape.depth - k)},
            accumulate || k > 0);
      }
    }
  }

 private:
  void multiply_piece(MatrixView<A> out, MatrixView<A const> lhs, MatrixView<A const> rhs,
                      ProductShape shape, bool accumulate) {
    if (lhs.transposed) copy_rows(lhs, shape.rows, shape.depth);
    for (std::int64_t j = 0; j < shape.columns; j += kColumns) {
      std::int64_t const width = shape.columns - j;
      copy_panel(rhs.from_column(j), width, shape.depth);
      for (std::int64_t i = 0; i < shape.rows; i += kKernelRows) {
        std::int64_t const rows = std::min<std::int64_t>(kKernelRows, shape.rows - i);
        MatrixView<A const> const left =
            lhs.transposed ? MatrixView<A const>{rows_ + i * kDepth, kKernelRows, true}
                           : lhs.from_row(i);
        multiply_panel(out.from_row(i).from_column(j), left, rows, width, shape.depth, accumulate);
      }
    }
  }

  /// From a transposed matrix: the rows' values of one k next to each other, for as many rows as
  /// the kernel takes at once.
  void copy_rows(MatrixView<A const> lhs, std::int64_t rows, std::int64_t depth) {
    for (std::int64_t first = 0; first < rows; first += kKernelRows) {
      std::int64_t const count = std::min<std::int64_t>(kKernelRows, rows - first);
      A const* const from = lhs.from_row(first).data;
      A* const to = rows_ + first * kDepth;
      for (std::int64_t k = 0; k < depth; ++k) {
        for (std::int64_t i = 0; i < count; ++i) to[k * kKernelRows + i] = from[k * lhs.pitch + i];
      }
    }
  }

  void copy_panel(MatrixView<A const> rhs, std::int64_t columns, std::int64_t depth) {
    constexpr std::int64_t kSize = Pack<A>::kSize;
    for (std::int64_t j = 0; j < kColumns; j += kSize) {
      copy_pack<A>({rhs.from_column(j), columns - j}, depth, panel_ + j, kColumns);
    }
  }

  /// `width` columns of as many rows as the kernel takes at once.
  void multiply_panel(MatrixView<A> out, MatrixView<A const> const& lhs, std::int64_t rows,
                      std::int64_t width, std::int64_t depth, bool accumulate) {
    PanelProduct<A> product{lhs, panel_, depth, out.data, out.pitch, Pack<A>::kSize, accumulate};
    if (width >= kColumns) {
      product.template run<kPacks>(rows);
      return;
    }
    product.out = edge_;
    product.out_pitch = kColumns;
    for (std::int64_t i = 0; accumulate && i < rows; ++i) {
      std::copy_n(out.from_row(i).data, width, edge_ + i * kColumns);
    }
    product.template run<kPacks>(rows);
    for (std::int64_t i = 0; i < rows; ++i) {
      std::copy_n(edge_ + i * kColumns, width, out.from_row(i).data);
    }
  }

  alignas(64) A rows_[kRows * kDepth];
  alignas(64) A panel_[kDepth * kColumns];
  alignas(64) A edge_[kKernelRows * kColumns];
};

/// A product cut into blocks of its result, each formed whole by one task.
template <typename A>
class BlockedProduct {
 public:
  BlockedProduct() = default;
  BlockedProduct(MatrixView<A> out, MatrixView<A const> lhs, MatrixView<A const> rhs,
                 ProductShape shape, bool accumulate)
      : out_{out}, lhs_{lhs}, rhs_{rhs}, shape_{shape}, accumulate_{accumulate} {
    if (out.transposed) {
      out_ = out.flipped();
      lhs_ = rhs.flipped();
      rhs_ = lhs.flipped();
      shape_ = {shape.columns, shape.rows, shape.depth};
    }
    // Of fewer columns than all only where that gives fewer than 8 blocks.
    constexpr double kLeastWork = 1 << 18;  // multiplications worth a task
    double const work = static_cast<double>(shape.rows) * static_cast<double>(shape.columns) *
                        static_cast<double>(shape.depth);
    std::int64_t const tasks =
        std::max<std::int64_t>(1, static_cast<std::int64_t>(work / kLeastWork));
    std::int64_t const row_blocks = std::min(divide_up(shape_.rows, Block::kRows), tasks);
    std::int64_t const column_blocks =
        std::min({divide_up(shape_.columns, Block::kColumns), divide_up(8, row_blocks),
                  divide_up(tasks, row_blocks)});
    rows_ = {shape_.rows, row_blocks, kKernelRows};
    columns_ = {shape_.columns, column_blocks, Block::kColumns};
  }

  std::int64_t tasks() const { return rows_.count * columns_.count; }

  void do_task(std::int64_t task) const {
    std::int64_t const i = task / columns_.count;
    std::int64_t const j = task % columns_.count;
    std::int64_t const row = rows_.begin(i);
    std::int64_t const column = columns_.begin(j);
    MatrixView<A> const out = out_.from_row(row).from_column(column);
    ProductShape const shape{rows_.end(i) - row, columns_.end(j) - column, shape_.depth};
    if (is_narrow()) {
      multiply<A>(out, lhs_.from_row(row), rhs_.from_column(column), shape, accumulate_);
    } else {
      Block block;
      block.multiply(out, lhs_.from_row(row), rhs_.from_column(column), shape, accumulate_);
    }
  }

 private:
  using Block = ProductBlock<A>;

  /// Whether copying the operands takes as long as multiplying them.
  bool is_narrow() const { return shape_.rows < 4 || shape_.columns < Pack<A>::kSize; }

  MatrixView<A> out_;
  MatrixView<A const> lhs_;
  MatrixView<A const> rhs_;
  ProductShape shape_{};
  bool accumulate_ = false;
  Ranges rows_;
  Ranges columns_;
};

/// Does the tasks of several products that do not depend on each other.
template <typename A>
void run_products(gru::host::Execution const& execution,
                  std::initializer_list<BlockedProduct<A>> products) {
  std::int64_t tasks = 0;
  for (BlockedProduct<A> const& product : products) tasks += product.tasks();
  for_each_task(execution, tasks, [&](std::int64_t task) {
    for (BlockedProduct<A> const& product : products) {
      if (task < product.tasks()) return product.do_task(task);
      task -= product.tasks();
    }
  });
}

}  // namespace gru::detail::host
