// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>
#include <vector>

#include <gru/detail/fma_cluster_backward_kernel.cuh>
#include <gru/detail/fma_engine.cuh>
#include <gru/detail/fma_grid_backward_kernel.cuh>
#include <gru/detail/recurrence_backward.cuh>

/// The backward passes of the engines for few rows.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// All shapes of the cluster kernel. With several rows, 16-bit types are better off with the tensor
/// cores.
template <typename T>
std::vector<FmaClusterKernel<RecurrentBackward<T>>> fma_cluster_backward_kernels() {
  std::vector<FmaClusterKernel<RecurrentBackward<T>>> kernels;
  auto const add = [&](auto shape, FmaStepTime const& time) {
    using Shape = decltype(shape);
    kernels.push_back(FmaClusterKernel<RecurrentBackward<T>>::template of<Shape>(
        &fma_cluster_backward_kernel<T, Shape>, time));
  };
  add(FmaClusterBackwardShape<T, 8, 4, 128, 1, 16, 1, 1>{}, {0.39, 0, 0.1});
  add(FmaClusterBackwardShape<T, 16, 4, 256, 1, 16, 1, 1>{}, {0.56, 0, 0.1});
  add(FmaClusterBackwardShape<T, 16, 8, 512, 4, 16, 1, 1>{}, {1.1, 0, 0});
  if constexpr (std::is_same_v<T, float>) {
    add(FmaClusterBackwardShape<T, 8, 8, 256, 4, 16, 2, 8>{}, {0.78, 0.46, 0});
    add(FmaClusterBackwardShape<T, 16, 8, 512, 4, 16, 1, 8>{}, {1.2, 0.85, 0});
  }
  return kernels;
}

/// Few rows by clusters: see fma_cluster_backward_kernel.cuh.
template <typename T>
class FmaClusterBackwardRecurrence : public FmaClusterEngine<T, RecurrentBackward> {
  using Base = FmaClusterEngine<T, RecurrentBackward>;

 public:
  FmaClusterBackwardRecurrence(Problem const& p, DeviceFacts const& facts)
      : Base{p, facts, fma_cluster_backward_kernels<T>()} {}

  int blocks() const { return this->launch_blocks(); }

  void run(cudaStream_t stream, RecurrentBackward<T> const& pass,
           typename Base::Scratch const& scratch, cudaEvent_t started) const {
    this->launch(stream, pass, scratch, started);
  }
};

/// All shapes of the grid kernel, the better ones first.
template <typename T>
std::vector<FmaGridKernel<RecurrentBackward<T>>> fma_grid_backward_kernels() {
  std::vector<FmaGridKernel<RecurrentBackward<T>>> kernels;
  auto const add = [&](auto shape, FmaStepTime const& time) {
    using Shape = decltype(shape);
    kernels.push_back(FmaGridKernel<RecurrentBackward<T>>::template of<Shape>(
        &fma_grid_backward_kernel<T, Shape>, time));
  };
  add(FmaGridBackwardShape<T, 8, 3, 0, 1>{}, {1.65, 0, 0});
  add(FmaGridBackwardShape<T, 16, 5, 3, 1>{}, {3.7, 0, 0});
  // Spills some 60 registers.
  add(FmaGridBackwardShape<T, 16, 6, 3, 1>{}, {5.0, 0, 0});
  if constexpr (std::is_same_v<T, float>) add(FmaGridBackwardShape<T, 8, 3, 0, 8>{}, {1.9, 2.1, 0});
  return kernels;
}

/// Few rows by all blocks of the device: see fma_grid_backward_kernel.cuh.
template <typename T>
class FmaGridBackwardRecurrence : public FmaGridEngine<T, RecurrentBackward> {
  using Base = FmaGridEngine<T, RecurrentBackward>;

 public:
  FmaGridBackwardRecurrence(Problem const& p, DeviceFacts const& facts)
      : Base{p, facts, fma_grid_backward_kernels<T>()} {}

  int blocks() const { return this->launch_blocks(); }

  void run(cudaStream_t stream, RecurrentBackward<T> const& pass,
           typename Base::Scratch const& scratch, cudaEvent_t started) const {
    this->launch(stream, pass, scratch, started);
  }
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
