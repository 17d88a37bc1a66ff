// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <initializer_list>

#include <gru/host/execution.hpp>
#include <gru/host/products.hpp>

/// How work is cut into tasks. All cuts depend on sizes alone, never on the number of threads, so
/// that every thread count gives the same bits.
namespace gru::detail::host {

inline std::int64_t divide_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

/// Calls f(i) for i in [0, count), in parallel where the caller gave the means.
template <typename F>
void for_each_task(gru::host::Execution const& execution, std::int64_t count, F const& f) {
  if (count > 1 && execution.parallel_for) {
    execution.parallel_for(count, gru::host::Task{std::cref(f)});
  } else {
    for (std::int64_t i = 0; i < count; ++i) f(i);
  }
}

/// [0, extent) in ranges of nearly equal length.
struct Ranges {
  std::int64_t extent = 0;
  std::int64_t count = 0;

  std::int64_t begin(std::int64_t i) const { return extent * i / count; }
  std::int64_t end(std::int64_t i) const { return extent * (i + 1) / count; }
};

/// Calls f(begin, end) for ranges of rows of `width` elements that are copied or converted.
template <typename F>
void for_each_row_range(gru::host::Execution const& execution, std::int64_t rows,
                        std::int64_t width, F const& f) {
  constexpr std::int64_t kElementsPerTask = std::int64_t{1} << 16;
  Ranges const ranges{rows, std::min(rows, divide_up(rows * width, kElementsPerTask))};
  for_each_task(execution, ranges.count,
                [&](std::int64_t i) { f(ranges.begin(i), ranges.end(i)); });
}

/// A product cut into blocks of its result, each formed whole by one task.
template <typename A>
class BlockedProduct {
 public:
  BlockedProduct() = default;
  BlockedProduct(MatrixView<A> out, MatrixView<A const> lhs, MatrixView<A const> rhs,
                 ProductShape shape, bool accumulate)
      : out_{out}, lhs_{lhs}, rhs_{rhs}, shape_{shape}, accumulate_{accumulate} {
    // Blocks of 128 rows; of fewer columns than all only where that gives fewer than 8 blocks.
    constexpr double kLeastWork = 1 << 18;  // multiplications worth a task
    double const work = static_cast<double>(shape.rows) * static_cast<double>(shape.columns) *
                        static_cast<double>(shape.depth);
    std::int64_t const tasks =
        std::max<std::int64_t>(1, static_cast<std::int64_t>(work / kLeastWork));
    std::int64_t const row_blocks = std::min(divide_up(shape.rows, 128), tasks);
    std::int64_t const column_blocks = std::min(
        {divide_up(shape.columns, 64), divide_up(8, row_blocks), divide_up(tasks, row_blocks)});
    rows_ = {shape.rows, row_blocks};
    columns_ = {shape.columns, column_blocks};
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
