// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include <gru/detail/grid_backward_kernel.cuh>
#include <gru/detail/grid_engine.cuh>
#include <gru/detail/recurrence_backward_engine.cuh>

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// The backward kernels for a precision; see grid_forward_kernels. The costs are an H200's, of
/// builds for sm_90a. Teams pay where a group has several tiles, whose words L2 delivers no faster.
template <typename T>
std::vector<GridKernel<T, Pass::kBackward>> grid_backward_kernels(Precision precision) {
  constexpr Multiplication kDirect = Multiplication::kDirect;
  constexpr Multiplication kSplit = Multiplication::kSplit;
  using Kernel = GridKernel<T, Pass::kBackward>;
  auto const of = [](auto shape, GridCosts const& costs) {
    using Shape = decltype(shape);
    return Kernel::template of<Shape>(&grid_backward_kernel<Shape>,
                                      &grid_backward_kernel<typename Shape::Many>, costs);
  };
  if constexpr (sizeof(T) == 2) {
    return {of(GridShape<T, kDirect, 2, 2, Pass::kBackward>{}, {1.30, 1.55, 0.00, 1.35}),
            of(GridShape<T, kDirect, 1, 4, Pass::kBackward>{}, {1.56, 1.77, 0.20, 1.23}),
            of(GridShape<T, kDirect, 2, 3, Pass::kBackward>{}, {1.47, 1.80, 0.00, 1.65}),
            of(GridShape<T, kDirect, 2, 4, Pass::kBackward>{}, {1.90, 2.20, 0.25, 1.64}),
            of(GridShape<T, kDirect, 1, 6, Pass::kBackward>{}, {2.15, 2.35, 0.00, 2.10}),
            of(GridShape<T, kDirect, 1, 8, Pass::kBackward>{}, {2.75, 2.92, 0.20, 2.50}),
            of(GridShape<T, kDirect, 1, 3, Pass::kBackward, 2>{}, {2.22, 2.28, 0.00, 1.60}),
            of(GridShape<T, kDirect, 1, 4, Pass::kBackward, 2>{}, {2.56, 2.63, 0.10, 1.66})};
  } else if (precision == Precision::kTf32) {
    return {of(GridShape<T, kDirect, 1, 4, Pass::kBackward>{}, {1.64, 1.77, 0.25, 1.25}),
            of(GridShape<T, kDirect, 2, 4, Pass::kBackward>{}, {1.95, 2.35, 0.20, 1.92}),
            of(GridShape<T, kDirect, 1, 8, Pass::kBackward>{}, {2.78, 3.07, 0.10, 2.60}),
            of(GridShape<T, kDirect, 1, 12, Pass::kBackward>{}, {4.15, 4.50, 0.00, 4.25}),
            of(GridShape<T, kDirect, 1, 4, Pass::kBackward, 2>{}, {2.57, 2.65, 0.10, 1.78})};
  } else if (precision == Precision::kFp32) {
    return {of(GridShape<T, kSplit, 1, 4, Pass::kBackward>{}, {1.82, 1.92, 0.10, 1.56}),
            of(GridShape<T, kSplit, 2, 4, Pass::kBackward>{}, {2.55, 2.80, 0.00, 2.40}),
            of(GridShape<T, kSplit, 1, 8, Pass::kBackward>{}, {3.05, 3.23, 0.20, 2.82}),
            of(GridShape<T, kSplit, 1, 12, Pass::kBackward>{}, {4.30, 4.40, 0.00, 4.20}),
            of(GridShape<T, kSplit, 1, 4, Pass::kBackward, 2>{}, {3.28, 3.25, 0.10, 2.37})};
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
