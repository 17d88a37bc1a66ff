// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>

#include <gru/detail/cluster_backward_kernel.cuh>
#include <gru/detail/cluster_plan.cuh>
#include <gru/detail/cluster_reset_before_backward_kernel.cuh>
#include <gru/detail/recurrence_backward_engine.cuh>

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// A shape of the backward kernel for one T, as the engine sees it.
template <typename T>
struct ClusterBackwardKernel {
  ClusterFunctions<RecurrentBackward<T>, T> functions;
  ScatterOrder order;

  /// The smallest shape that holds H. Registers hold R but for the part that the shape's last
  /// number sends to shared memory, which keeps the kernels free of spills.
  static ClusterBackwardKernel choose(Problem const& p) {
    constexpr Multiplication kDirect = Multiplication::kDirect;
    constexpr Multiplication kSplit = Multiplication::kSplit;
    std::int64_t const H = p.hidden_size;
    if constexpr (sizeof(T) == 2) {
      if (H <= 128)
        return of<kDirect, ClusterBackwardShape<T, 8, 128, 0>>(p.variant,
                                                               {{0.80, 0.60}, {1.28, 0.90}});
      if (H <= 256)
        return of<kDirect, ClusterBackwardShape<T, 8, 256, 0>>(p.variant,
                                                               {{0.95, 0.75}, {1.52, 1.12}});
      if (H <= 384)
        return of<kDirect, ClusterBackwardShape<T, 8, 384, 0>>(p.variant,
                                                               {{1.15, 0.95}, {1.84, 1.42}});
      if (H <= 512)
        return of<kDirect, ClusterBackwardShape<T, 8, 512, 3>>(p.variant,
                                                               {{1.35, 1.15}, {2.16, 1.72}});
      if (H <= 768)
        return of<kDirect, ClusterBackwardShape<T, 16, 768, 4>>(p.variant,
                                                                {{1.80, 1.60}, {2.88, 2.40}});
    } else if (p.precision == Precision::kTf32) {
      if (H <= 128)
        return of<kDirect, ClusterBackwardShape<T, 8, 128, 0>>(p.variant,
                                                               {{0.85, 0.65}, {1.36, 0.98}});
      if (H <= 256)
        return of<kDirect, ClusterBackwardShape<T, 8, 256, 0>>(p.variant,
                                                               {{1.05, 0.85}, {1.68, 1.27}});
      if (H <= 512)
        return of<kDirect, ClusterBackwardShape<T, 16, 512, 2>>(p.variant,
                                                                {{1.50, 1.30}, {2.40, 1.95}});
    } else if (p.precision == Precision::kFp32) {
      if (H <= 128)
        return of<kSplit, ClusterBackwardShape<T, 8, 128, 0>>(p.variant,
                                                              {{1.05, 0.85}, {1.68, 1.27}});
      if (H <= 256)
        return of<kSplit, ClusterBackwardShape<T, 8, 256, 0>>(p.variant,
                                                              {{1.50, 1.30}, {2.40, 1.95}});
      if (H <= 512)
        return of<kSplit, ClusterBackwardShape<T, 16, 512, 2>>(p.variant,
                                                               {{2.60, 2.30}, {4.16, 3.45}});
    }
    return {};
  }

 private:
  template <Multiplication multiplication, typename Shape>
  static ClusterBackwardKernel of(Variant variant, ClusterStepTimes const& times) {
    ClusterBackwardKernel kernel;
    kernel.order = Shape::packed_order();
    auto& f = kernel.functions;
    f.blocks = Shape::kBlocks;
    f.threads = Shape::kThreads;
    f.time = times.of(variant);
    f.shared_bytes = &Shape::shared_bytes;
    if (variant == Variant::kResetAfter) {
      f.one_tile = &cluster_backward_kernel<T, multiplication, Shape, true>;
      f.many_tiles = &cluster_backward_kernel<T, multiplication, Shape, false>;
    } else {
      f.one_tile = &cluster_reset_before_backward_kernel<T, multiplication, Shape, true>;
      f.many_tiles = &cluster_reset_before_backward_kernel<T, multiplication, Shape, false>;
    }
    return kernel;
  }
};

/// Backward's steps by clusters that each carry some rows: see cluster_backward_kernel.cuh
/// and cluster_reset_before_backward_kernel.cuh.
template <typename T>
class ClusterBackwardRecurrence {
 public:
  using Value = T;
  static constexpr Engine kEngine = Engine::kCluster;
  static constexpr int kLeastComputeCapability = 90;

  struct Scratch {
    T* packed_weights = nullptr;
  };

  ClusterBackwardRecurrence(Problem const& p, DeviceFacts const&)
      : problem_{p}, kernel_{ClusterBackwardKernel<T>::choose(p)} {
    if (std::is_same_v<T, float> && p.precision == Precision::kFp32Strict) {
      obstacle_ = "multiplies on tensor cores, which Precision::kFp32Strict excludes";
    } else if (kernel_.functions.blocks == 0) {
      obstacle_ = "R does not fit in a cluster: H is " + std::to_string(p.hidden_size);
    } else {
      plan_ = plan_clusters(kernel_.functions, p.batch);
      if (plan_.tiles == 0) obstacle_ = no_room_for_cluster(kernel_.functions.blocks);
    }
  }

  std::string const& obstacle() const { return obstacle_; }

  double step_us() const { return predict_clusters(kernel_.functions.time, plan_); }

  /// Of one launch.
  int blocks() const { return plan_.clusters * kernel_.functions.blocks; }

  void lay_out(Carver& carver, Scratch& scratch) const {
    scratch.packed_weights = carver.take<T>(packed_values<T>(kernel_.order));
  }

  void prepare(cudaStream_t stream, LayerView<T> const& layer, T const* recurrent_kernel,
               Scratch const& scratch) const {
    bool const rounds = problem_.precision == Precision::kTf32;
    pack_weights(stream, layer, recurrent_view<T>(problem_), kernel_.order, rounds,
                 recurrent_kernel, scratch.packed_weights);
  }

  void run(cudaStream_t stream, RecurrentBackward<T> const& pass, Scratch const& scratch,
           cudaEvent_t started) const {
    launch_clusters(stream, kernel_.functions, plan_, pass,
                    static_cast<T const*>(scratch.packed_weights), started);
  }

 private:
  Problem problem_;
  ClusterBackwardKernel<T> kernel_;
  ClusterPlan plan_;
  std::string obstacle_;
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
