// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include <gru/detail/grid_engine.cuh>
#include <gru/detail/grid_forward_kernel.cuh>
#include <gru/detail/recurrence_engine.cuh>

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// The forward kernels for a precision. Blocks of 16 units are faster where each group has a tile
/// or two, since they multiply less; blocks of 32 units make twice the groups. The costs are fitted
/// on an H200 to builds for sm_90a; those for sm_90 take 5% to 20% more.
template <typename T>
std::vector<GridKernel<T, Pass::kForward>> grid_forward_kernels(Precision precision) {
  constexpr Multiplication kDirect = Multiplication::kDirect;
  constexpr Multiplication kSplit = Multiplication::kSplit;
  using Kernel = GridKernel<T, Pass::kForward>;
  auto const of = [](auto shape, GridCosts const& costs) {
    using Shape = decltype(shape);
    return Kernel::template of<Shape>(&grid_forward_kernel<Shape>,
                                      &grid_forward_kernel<typename Shape::Many>, costs);
  };
  if constexpr (sizeof(T) == 2) {
    return {of(GridShape<T, kDirect, 1, 4>{}, {0.93, 1.10, 0.35, 0.46}),
            of(GridShape<T, kDirect, 2, 3>{}, {1.04, 1.17, 0.35, 0.58}),
            of(GridShape<T, kDirect, 2, 4>{}, {1.17, 1.40, 0.19, 0.80}),
            of(GridShape<T, kDirect, 1, 6>{}, {1.08, 1.33, 0.20, 0.62}),
            of(GridShape<T, kDirect, 1, 8>{}, {1.22, 1.52, 0.28, 0.74})};
  } else if (precision == Precision::kTf32) {
    return {of(GridShape<T, kDirect, 1, 4>{}, {0.97, 1.08, 0.35, 0.46}),
            of(GridShape<T, kDirect, 2, 4>{}, {1.22, 1.40, 0.19, 0.80}),
            of(GridShape<T, kDirect, 1, 8>{}, {1.29, 1.46, 0.28, 0.73}),
            of(GridShape<T, kDirect, 1, 12>{}, {1.75, 1.95, 0.60, 1.25})};
  } else if (precision == Precision::kFp32) {
    return {of(GridShape<T, kSplit, 1, 4>{}, {1.52, 1.60, 0.15, 1.09}),
            of(GridShape<T, kSplit, 2, 4>{}, {2.36, 2.42, 0.20, 1.84}),
            of(GridShape<T, kSplit, 1, 8>{}, {2.45, 2.60, 0.16, 1.88}),
            of(GridShape<T, kSplit, 1, 12>{}, {3.50, 3.70, 0.55, 2.60})};
  }
  return {};
}

/// The recurrence by the grid engine.
template <typename T>
class GridRecurrence : public GridSteps<T, Pass::kForward> {
 public:
  GridRecurrence(Problem const& p, DeviceFacts const& facts)
      : GridSteps<T, Pass::kForward>{p, facts, grid_forward_kernels<T>(p.precision)} {}
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
