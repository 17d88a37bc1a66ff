// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>
#include <vector>

#include <gru/detail/fma_cluster_kernel.cuh>
#include <gru/detail/fma_engine.cuh>
#include <gru/detail/fma_grid_kernel.cuh>
#include <gru/detail/recurrence.cuh>

/// The forward passes of the engines for few rows.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// All shapes of the cluster kernel. With several rows, 16-bit types are better off with the tensor
/// cores.
template <typename T>
std::vector<FmaClusterKernel<RecurrentForward<T>>> fma_cluster_kernels() {
  std::vector<FmaClusterKernel<RecurrentForward<T>>> kernels;
  auto const add = [&](auto shape, FmaStepTime const& time) {
    using Shape = decltype(shape);
    kernels.push_back(FmaClusterKernel<RecurrentForward<T>>::template of<Shape>(
        &fma_cluster_kernel<T, Shape>, time));
  };
  add(FmaClusterShape<T, 8, 4, 128, 16, 1, 1>{}, {0.34, 0, 0.08});
  add(FmaClusterShape<T, 16, 4, 256, 8, 1, 1>{}, {0.45, 0, 0.07});
  add(FmaClusterShape<T, 16, 8, 512, 16, 1, 1>{}, {0.67, 0, 0});
  if constexpr (std::is_same_v<T, float>) {
    add(FmaClusterShape<T, 8, 8, 256, 16, 2, 8>{}, {0.54, 0.24, 0});
    add(FmaClusterShape<T, 16, 8, 512, 16, 1, 8>{}, {0.8, 0.43, 0});
  }
  return kernels;
}

/// Few rows by clusters: see fma_cluster_kernel.cuh.
template <typename T>
class FmaClusterRecurrence : public FmaClusterEngine<T, RecurrentForward> {
  using Base = FmaClusterEngine<T, RecurrentForward>;

 public:
  FmaClusterRecurrence(Problem const& p, DeviceFacts const& facts)
      : Base{p, facts, fma_cluster_kernels<T>()} {}

  void run(cudaStream_t stream, RecurrentForward<T> const& pass,
           typename Base::Scratch const& scratch) const {
    this->launch(stream, pass, scratch, nullptr);
  }
};

/// All shapes of the grid kernel, the better ones first.
template <typename T>
std::vector<FmaGridKernel<RecurrentForward<T>>> fma_grid_kernels() {
  std::vector<FmaGridKernel<RecurrentForward<T>>> kernels;
  auto const add = [&](auto shape, FmaStepTime const& time) {
    using Shape = decltype(shape);
    kernels.push_back(
        FmaGridKernel<RecurrentForward<T>>::template of<Shape>(&fma_grid_kernel<T, Shape>, time));
  };
  add(FmaGridShape<T, 4, 1024, 32, 0, 1, 1>{}, {sizeof(T) == 2 ? 1.03 : 0.9, 0, 0});
  add(FmaGridShape<T, 8, 1536, 32, 4, 1, 1>{}, {1.67, 0, 0});
  add(FmaGridShape<T, 8, 2048, 32, 8, 1, 1>{}, {2.1, 0, 0});
  if constexpr (std::is_same_v<T, float>) {
    add(FmaGridShape<T, 4, 1024, 32, 0, 2, 8>{}, {0.6, 0.75, 0});
  }
  return kernels;
}

/// Few rows by all blocks of the device: see fma_grid_kernel.cuh.
template <typename T>
class FmaGridRecurrence : public FmaGridEngine<T, RecurrentForward> {
  using Base = FmaGridEngine<T, RecurrentForward>;

 public:
  FmaGridRecurrence(Problem const& p, DeviceFacts const& facts)
      : Base{p, facts, fma_grid_kernels<T>()} {}

  void run(cudaStream_t stream, RecurrentForward<T> const& pass,
           typename Base::Scratch const& scratch) const {
    this->launch(stream, pass, scratch, nullptr);
  }
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
