// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include <gru/detail/grid_engine.cuh>
#include <gru/detail/grid_forward_kernel.cuh>
#include <gru/detail/recurrence_engine.cuh>

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// The forward kernels for a precision and a variant. Blocks of 16 units are faster where each
/// group has a tile or two, since they multiply less; blocks of 32 units make twice the groups. The
/// costs are fitted on an H200 to builds for sm_90a; those for sm_90 take 5% to 20% more.
template <typename T>
std::vector<GridKernel<T, Pass::kForward>> grid_forward_kernels(Precision precision,
                                                                Variant variant) {
  constexpr Multiplication kDirect = Multiplication::kDirect;
  constexpr Multiplication kSplit = Multiplication::kSplit;
  using Kernel = GridKernel<T, Pass::kForward>;
  auto const of = [](auto shape, GridCosts const& costs) {
    return Kernel::template of<decltype(shape)>(costs);
  };
  if (variant == Variant::kResetBefore) {
    if constexpr (sizeof(T) == 2) {
      return {of(ResetBeforeShape<T, kDirect, 1, 4>{}, {1.65, 1.89, 0.30, 0.93}),
              of(ResetBeforeShape<T, kDirect, 1, 8>{}, {2.05, 2.36, 0.20, 1.19})};
    } else if (precision == Precision::kTf32) {
      return {of(ResetBeforeShape<T, kDirect, 1, 8>{}, {2.13, 2.35, 0.25, 1.21})};
    } else if (precision == Precision::kFp32) {
      return {of(ResetBeforeShape<T, kSplit, 1, 8>{}, {3.18, 3.48, 0.05, 2.50})};
    }
    return {};
  }
  if constexpr (sizeof(T) == 2) {
    return {of(GridShape<T, kDirect, 1, 4>{}, {0.96, 1.10, 0.55, 0.38}),
            of(GridShape<T, kDirect, 2, 3>{}, {1.04, 1.18, 0.15, 0.72}),
            of(GridShape<T, kDirect, 2, 4>{}, {1.18, 1.40, 0.10, 0.85}),
            of(GridShape<T, kDirect, 1, 6>{}, {1.08, 1.20, 0.55, 0.47}),
            of(GridShape<T, kDirect, 1, 8>{}, {1.24, 1.50, 0.40, 0.69}),
            of(StreamedShape<T, 3, 12>{}, {10.2, 10.6, 10.3, 0.25})};
  } else if (precision == Precision::kTf32) {
    return {of(GridShape<T, kDirect, 1, 4>{}, {1.00, 1.06, 0.50, 0.40}),
            of(GridShape<T, kDirect, 2, 4>{}, {1.25, 1.48, 0.05, 0.92}),
            of(GridShape<T, kDirect, 1, 8>{}, {1.33, 1.50, 0.40, 0.70}),
            of(GridShape<T, kDirect, 1, 12>{}, {1.71, 1.85, 0.15, 1.22}),
            of(StreamedShape<T, 2, 16>{}, {9.70, 10.4, 10.3, 0.03})};
  } else if (precision == Precision::kFp32) {
    return {of(GridShape<T, kSplit, 1, 4>{}, {1.27, 1.30, 0.45, 0.94}),
            of(GridShape<T, kSplit, 2, 4>{}, {2.38, 2.50, 0.00, 2.01}),
            of(GridShape<T, kSplit, 1, 8>{}, {2.45, 2.62, 0.50, 1.67}),
            of(GridShape<T, kSplit, 1, 12>{}, {3.17, 3.27, 0.10, 2.72})};
  }
  return {};
}

/// The recurrence by the grid engine.
template <typename T>
class GridRecurrence : public GridSteps<T, Pass::kForward> {
 public:
  GridRecurrence(Problem const& p, DeviceFacts const& facts)
      : GridSteps<T, Pass::kForward>{p, facts, grid_forward_kernels<T>(p.precision, p.variant)} {}
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
