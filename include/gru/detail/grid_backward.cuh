// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include <gru/detail/grid_backward_kernel.cuh>
#include <gru/detail/grid_engine.cuh>
#include <gru/detail/recurrence_backward_engine.cuh>

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// The backward kernels for a precision; see grid_forward_kernels. The costs are predicted, not
/// measured: forward's, and the time in which an H200's L2 cache delivers what a block receives, 42
/// bytes a nanosecond to each multiprocessor; for teams, 0.3 us for the sums that they hand over.
template <typename T>
std::vector<GridKernel<T, Pass::kBackward>> grid_backward_kernels(Precision precision) {
  constexpr Multiplication kDirect = Multiplication::kDirect;
  constexpr Multiplication kSplit = Multiplication::kSplit;
  using Kernel = GridKernel<T, Pass::kBackward>;
  auto const of = [](auto shape, GridCosts const& costs) {
    using Shape = decltype(shape);
    return Kernel::template of<Shape>(&grid_backward_kernel<Shape>, costs);
  };
  if constexpr (sizeof(T) == 2) {
    return {of(GridShape<T, kDirect, 1, 4, Pass::kBackward>{}, {1.18, 1.98, 0.45, 1.23}),
            of(GridShape<T, kDirect, 2, 3, Pass::kBackward>{}, {1.26, 1.86, 0.45, 0.92}),
            of(GridShape<T, kDirect, 2, 4, Pass::kBackward>{}, {1.42, 2.28, 0.29, 1.23}),
            of(GridShape<T, kDirect, 1, 6, Pass::kBackward>{}, {1.38, 2.60, 0.30, 1.84}),
            of(GridShape<T, kDirect, 1, 8, Pass::kBackward>{}, {1.57, 3.18, 0.38, 2.46}),
            of(GridShape<T, kDirect, 1, 3, Pass::kBackward, 2>{}, {1.40, 2.00, 0.50, 0.92}),
            of(GridShape<T, kDirect, 1, 4, Pass::kBackward, 2>{}, {1.70, 2.30, 0.60, 1.20})};
  } else if (precision == Precision::kTf32) {
    return {of(GridShape<T, kDirect, 1, 4, Pass::kBackward>{}, {1.22, 1.96, 0.45, 1.23}),
            of(GridShape<T, kDirect, 2, 4, Pass::kBackward>{}, {1.47, 2.28, 0.29, 1.23}),
            of(GridShape<T, kDirect, 1, 8, Pass::kBackward>{}, {1.64, 3.12, 0.38, 2.46}),
            of(GridShape<T, kDirect, 1, 12, Pass::kBackward>{}, {2.19, 4.39, 0.70, 3.69}),
            of(GridShape<T, kDirect, 1, 4, Pass::kBackward, 2>{}, {1.80, 2.30, 0.60, 1.20})};
  } else if (precision == Precision::kFp32) {
    return {of(GridShape<T, kSplit, 1, 4, Pass::kBackward>{}, {1.77, 2.48, 0.25, 1.23}),
            of(GridShape<T, kSplit, 2, 4, Pass::kBackward>{}, {2.61, 3.30, 0.30, 1.93}),
            of(GridShape<T, kSplit, 1, 8, Pass::kBackward>{}, {2.80, 4.26, 0.26, 2.46}),
            of(GridShape<T, kSplit, 1, 12, Pass::kBackward>{}, {3.94, 6.14, 0.65, 3.69}),
            of(GridShape<T, kSplit, 1, 4, Pass::kBackward, 2>{}, {2.90, 3.40, 0.50, 2.00})};
  }
  return {};
}

/// Backward's steps by the grid engine.
template <typename T>
class GridBackwardRecurrence : public GridSteps<T, Pass::kBackward> {
 public:
  GridBackwardRecurrence(Problem const& p, DeviceFacts const& facts)
      : GridSteps<T, Pass::kBackward>{p, facts, grid_backward_kernels<T>(p.precision)} {}
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
