// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include <gru/detail/grid_backward_kernel.cuh>
#include <gru/detail/grid_engine.cuh>
#include <gru/detail/recurrence_backward_engine.cuh>

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// The backward kernels for a precision and a variant; see grid_forward_kernels. The costs are an
/// H200's, of builds for sm_90a. Teams pay where a group has several tiles, whose words L2 delivers
/// no faster.
template <typename T>
std::vector<GridKernel<T, Pass::kBackward>> grid_backward_kernels(Precision precision,
                                                                  Variant variant) {
  constexpr Multiplication kDirect = Multiplication::kDirect;
  constexpr Multiplication kSplit = Multiplication::kSplit;
  using Kernel = GridKernel<T, Pass::kBackward>;
  auto const of = [](auto shape, GridCosts const& costs) {
    return Kernel::template of<decltype(shape)>(costs);
  };
  if (variant == Variant::kResetBefore) {
    constexpr Pass kBackward = Pass::kBackward;
    if constexpr (sizeof(T) == 2) {
      return {of(ResetBeforeShape<T, kDirect, 1, 4, kBackward>{}, {2.20, 2.29, 0.05, 1.54}),
              of(ResetBeforeShape<T, kDirect, 1, 8, kBackward>{}, {3.26, 3.40, 0.05, 2.53})};
    } else if (precision == Precision::kTf32) {
      return {of(ResetBeforeShape<T, kDirect, 1, 8, kBackward>{}, {3.44, 3.82, 0.05, 3.05})};
    } else if (precision == Precision::kFp32) {
      return {of(ResetBeforeShape<T, kSplit, 1, 8, kBackward>{}, {4.46, 4.62, 0.10, 4.33})};
    }
    return {};
  }
  if constexpr (sizeof(T) == 2) {
    return {of(GridShape<T, kDirect, 2, 2, Pass::kBackward>{}, {1.22, 1.50, 0.60, 0.75}),
            of(GridShape<T, kDirect, 1, 4, Pass::kBackward>{}, {1.40, 1.60, 0.10, 0.99}),
            of(GridShape<T, kDirect, 2, 3, Pass::kBackward>{}, {1.33, 1.57, 0.00, 1.15}),
            of(GridShape<T, kDirect, 2, 4, Pass::kBackward>{}, {1.57, 1.88, 0.05, 1.34}),
            of(GridShape<T, kDirect, 1, 6, Pass::kBackward>{}, {1.90, 2.10, 0.25, 1.58}),
            of(GridShape<T, kDirect, 1, 8, Pass::kBackward>{}, {2.50, 2.65, 0.00, 2.40}),
            of(GridShape<T, kDirect, 1, 3, Pass::kBackward, 2>{}, {2.08, 2.10, 0.20, 1.09}),
            of(GridShape<T, kDirect, 1, 4, Pass::kBackward, 2>{}, {2.33, 2.37, 0.05, 1.42}),
            of(StreamedShape<T, 3, 12, Pass::kBackward>{}, {13.8, 14.5, 13.8, 0.73})};
  } else if (precision == Precision::kTf32) {
    return {of(GridShape<T, kDirect, 1, 4, Pass::kBackward>{}, {1.40, 1.51, 0.05, 1.06}),
            of(GridShape<T, kDirect, 2, 4, Pass::kBackward>{}, {1.66, 2.17, 0.00, 1.69}),
            of(GridShape<T, kDirect, 1, 8, Pass::kBackward>{}, {2.45, 2.75, 0.00, 2.45}),
            of(GridShape<T, kDirect, 1, 12, Pass::kBackward>{}, {3.80, 4.05, 0.00, 3.76}),
            of(GridShape<T, kDirect, 1, 4, Pass::kBackward, 2>{}, {2.30, 2.42, 0.05, 1.50}),
            of(StreamedShape<T, 2, 16, Pass::kBackward>{}, {14.6, 15.7, 15.3, 0.46})};
  } else if (precision == Precision::kFp32) {
    return {of(GridShape<T, kSplit, 1, 4, Pass::kBackward>{}, {1.98, 2.02, 0.15, 1.72}),
            of(GridShape<T, kSplit, 2, 4, Pass::kBackward>{}, {2.52, 2.84, 0.00, 2.46}),
            of(GridShape<T, kSplit, 1, 8, Pass::kBackward>{}, {3.20, 3.45, 0.00, 3.15}),
            of(GridShape<T, kSplit, 1, 12, Pass::kBackward>{}, {4.25, 4.45, 0.05, 4.18}),
            of(GridShape<T, kSplit, 1, 4, Pass::kBackward, 2>{}, {3.25, 3.22, 0.10, 2.48})};
  }
  return {};
}

/// Backward's steps by the grid engine.
template <typename T>
class GridBackwardRecurrence : public GridSteps<T, Pass::kBackward> {
 public:
  GridBackwardRecurrence(Problem const& p, DeviceFacts const& facts)
      : GridSteps<T, Pass::kBackward>{p, facts, grid_backward_kernels<T>(p.precision, p.variant)} {}
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
