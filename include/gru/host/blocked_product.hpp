// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include <gru/host/execution.hpp>
#include <gru/host/pack.hpp>
#include <gru/host/parallel.hpp>
#include <gru/host/products.hpp>

/// Products over whole chunks, shared among the threads: Eigen forms each block.
namespace gru::detail::host {

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
    std::int64_t const row_blocks = std::min(divide_up(shape_.rows, kRows), tasks);
    std::int64_t const column_blocks =
        std::min({divide_up(shape_.columns, kColumns), divide_up(8, row_blocks),
                  divide_up(tasks, row_blocks)});
    rows_ = {shape_.rows, row_blocks, kRowStep};
    columns_ = {shape_.columns, column_blocks, kColumns};
  }

  std::int64_t tasks() const { return rows_.count * columns_.count; }

  void do_task(std::int64_t task) const {
    std::int64_t const i = task / columns_.count;
    std::int64_t const j = task % columns_.count;
    std::int64_t const row = rows_.begin(i);
    std::int64_t const column = columns_.begin(j);
    multiply<A>(out_.from_row(row).from_column(column), lhs_.from_row(row),
                rhs_.from_column(column),
                {rows_.end(i) - row, columns_.end(j) - column, shape_.depth}, accumulate_);
  }

 private:
  static constexpr std::int64_t kRows = 128;                    // of a block
  static constexpr std::int64_t kRowStep = 8;                   // that blocks are a multiple of
  static constexpr std::int64_t kColumns = 3 * Pack<A>::kSize;  // of a block, at least

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
