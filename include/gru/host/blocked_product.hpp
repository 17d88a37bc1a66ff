// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include <gru/host/execution.hpp>
#include <gru/host/pack.hpp>
#include <gru/host/panels.hpp>
#include <gru/host/parallel.hpp>
#include <gru/host/products.hpp>

/// Products over whole chunks, shared among the threads.
namespace gru::detail::host {

/// Whether a product's blocks are formed by the kernel of panels.hpp, not by Eigen. With AVX-512
/// that has 1.3 to 1.4 times Eigen's speed on an EPYC, unless it reads many rows of a transposed
/// operand, far apart; with AVX2 Eigen has 1.1 times its speed, without either 1.2 times.
template <typename A>
bool pays_by_panels(MatrixView<A const> const& lhs, ProductShape const& shape) {
#ifdef EIGEN_VECTORIZE_AVX512
  constexpr std::int64_t kMostRowsApart = 2048;
  return !lhs.transposed || shape.depth <= kMostRowsApart;
#else
  static_cast<void>(lhs), static_cast<void>(shape);
  return false;
#endif
}

/// As multiply(), for a result that is not transposed, by panels of three packs of columns, which
/// are copied one after the other. Never inlined: beside so large an array on the stack Eigen's
/// products take 1.4 times as long.
template <typename A>
EIGEN_DONT_INLINE void multiply_by_panels(MatrixView<A> out, MatrixView<A const> lhs,
                                          MatrixView<A const> rhs, ProductShape const& shape,
                                          bool accumulate) {
  constexpr std::int64_t kSize = Pack<A>::kSize;
  constexpr std::int64_t kDepth = 512;  // of a panel, which then stays in a core's second cache
  alignas(64) A panel[kDepth * 3 * kSize];
  std::int64_t column = 0;
  auto const form = [&](auto packs) {
    constexpr int kPacks = decltype(packs)::value;
    constexpr std::int64_t kStep = kPacks * kSize;
    for (std::int64_t k = 0; k < shape.depth; k += kDepth) {
      std::int64_t const depth = std::min(kDepth, shape.depth - k);
      for (int i = 0; i < kPacks; ++i) {
        MatrixView<A const> const from = rhs.from_row(k).from_column(column + i * kSize);
        copy_pack<A>({from, kSize}, depth, panel + i * kSize, kStep);
      }
      PanelProduct<A> const product{lhs.from_column(k),           panel,     depth,
                                    out.from_column(column).data, out.pitch, kSize,
                                    accumulate || k > 0};
      product.template run<kPacks>(shape.rows);
    }
    column += kStep;
  };
  while (column + 3 * kSize <= shape.columns) form(std::integral_constant<int, 3>{});
  while (column + kSize <= shape.columns) form(std::integral_constant<int, 1>{});
  if (column == shape.columns) return;
  multiply<A>(out.from_column(column), lhs, rhs.from_column(column),
              {shape.rows, shape.columns - column, shape.depth}, accumulate);
}

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
    by_panels_ = pays_by_panels(lhs_, shape_);
    // Of fewer columns than all, by Eigen, only where that gives fewer than 8 blocks.
    constexpr double kLeastWork = 1 << 18;  // multiplications worth a task
    double const work = static_cast<double>(shape.rows) * static_cast<double>(shape.columns) *
                        static_cast<double>(shape.depth);
    std::int64_t const tasks =
        std::max<std::int64_t>(1, static_cast<std::int64_t>(work / kLeastWork));
    std::int64_t const row_blocks =
        std::min(divide_up(shape_.rows, by_panels_ ? kPanelRows : kRows), tasks);
    std::int64_t const most_columns = divide_up(tasks, row_blocks);
    std::int64_t const column_blocks =
        std::min({divide_up(shape_.columns, kColumns), most_columns,
                  by_panels_ ? most_columns : divide_up(8, row_blocks)});
    rows_ = {shape_.rows, row_blocks, kRowStep};
    columns_ = {shape_.columns, column_blocks, kColumns};
  }

  std::int64_t tasks() const { return rows_.count * columns_.count; }

  void do_task(std::int64_t task) const {
    std::int64_t const i = task / columns_.count;
    std::int64_t const j = task % columns_.count;
    std::int64_t const row = rows_.begin(i);
    std::int64_t const column = columns_.begin(j);
    MatrixView<A> const out = out_.from_row(row).from_column(column);
    ProductShape const shape{rows_.end(i) - row, columns_.end(j) - column, shape_.depth};
    if (by_panels_) {
      multiply_by_panels<A>(out, lhs_.from_row(row), rhs_.from_column(column), shape, accumulate_);
    } else {
      multiply<A>(out, lhs_.from_row(row), rhs_.from_column(column), shape, accumulate_);
    }
  }

 private:
  static constexpr std::int64_t kRows = 128;                    // of a block
  static constexpr std::int64_t kPanelRows = 512;               // of one formed by panels
  static constexpr std::int64_t kRowStep = 8;                   // that blocks are a multiple of
  static constexpr std::int64_t kColumns = 3 * Pack<A>::kSize;  // of a block, at least

  MatrixView<A> out_;
  MatrixView<A const> lhs_;
  MatrixView<A const> rhs_;
  ProductShape shape_{};
  bool accumulate_ = false;
  bool by_panels_ = false;
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
