// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include <gru/detail/cluster_backward_kernel.cuh>
#include <gru/detail/cluster_plan.cuh>
#include <gru/detail/cluster_reset_before_backward_kernel.cuh>
#include <gru/detail/recurrence_backward_engine.cuh>

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// A shape of the backward kernels for one T, as the engine sees it.
template <typename T>
struct ClusterBackwardKernel {
  ClusterFunctions<RecurrentBackward<T>, T> functions;
  ScatterOrder order;

  /// The shapes that hold H: the smallest, and one of larger clusters, of which fewer fit on the
  /// device, where that is faster for few rows. Registers hold R but for the part that a shape's
  /// last number sends to shared memory, which keeps the kernels free of spills, or nearly. Times
  /// are an H200's.
  static std::vector<ClusterBackwardKernel> holding(Problem const& p) {
    constexpr Multiplication kDirect = Multiplication::kDirect;
    constexpr Multiplication kSplit = Multiplication::kSplit;
    std::int64_t const H = p.hidden_size;
    Variant const variant = p.variant;
    if constexpr (sizeof(T) == 2) {
      if (H <= 128) {
        return {
            of<kDirect, ClusterBackwardShape<T, 8, 128, 0>>(variant, {{0.87, 0.55}, {1.25, 0.85}})};
      }
      if (H <= 256) {
        return {
            of<kDirect, ClusterBackwardShape<T, 8, 256, 0>>(variant, {{0.95, 0.75}, {1.38, 1.15}})};
      }
      if (H <= 384) {
        return {
            of<kDirect, ClusterBackwardShape<T, 8, 384, 0>>(variant, {{1.32, 1.29}, {1.90, 1.85}})};
      }
      if (H <= 512) {
        return {
            of<kDirect, ClusterBackwardShape<T, 8, 512, 3>>(variant, {{1.84, 1.83}, {2.75, 2.42}}),
            of<kDirect, ClusterBackwardShape<T, 16, 512, 0>>(variant,
                                                             {{1.17, 1.13}, {1.75, 1.70}})};
      }
      if (H <= 768) {
        return {of<kDirect, ClusterBackwardShape<T, 16, 768, 4>>(variant,
                                                                 {{2.35, 2.40}, {3.65, 3.70}})};
      }
    } else if (p.precision == Precision::kTf32) {
      if (H <= 128) {
        return {
            of<kDirect, ClusterBackwardShape<T, 8, 128, 0>>(variant, {{0.97, 0.62}, {1.40, 0.95}})};
      }
      if (H <= 256) {
        return {
            of<kDirect, ClusterBackwardShape<T, 8, 256, 0>>(variant, {{1.06, 0.87}, {1.45, 1.30}})};
      }
      if (H <= 512) {
        return {of<kDirect, ClusterBackwardShape<T, 16, 512, 2>>(variant,
                                                                 {{1.57, 1.37}, {2.30, 2.00}})};
      }
    } else if (p.precision == Precision::kFp32) {
      if (H <= 128) {
        return {
            of<kSplit, ClusterBackwardShape<T, 8, 128, 0>>(variant, {{1.06, 0.80}, {1.55, 1.20}})};
      }
      if (H <= 256) {
        return {
            of<kSplit, ClusterBackwardShape<T, 8, 256, 2>>(variant, {{1.58, 1.47}, {2.30, 2.15}})};
      }
      if (H <= 512) {
        return {
            of<kSplit, ClusterBackwardShape<T, 16, 512, 2>>(variant, {{2.49, 2.45}, {3.60, 3.50}})};
      }
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
      f.one_tile = &cluster_backward_kernel<T, multiplication, Shape, GroupTiles::kFew>;
      f.many_tiles = &cluster_backward_kernel<T, multiplication, Shape, GroupTiles::kMany>;
      f.sorted_tiles = f.many_tiles;
      // Floats with several tiles a cluster go to the grid. This spares compiling a third kernel.
      if constexpr (sizeof(T) == 2) {
        f.sorted_tiles = &cluster_backward_kernel<T, multiplication, Shape, GroupTiles::kSorted>;
      }
    } else {
      f.one_tile = &cluster_reset_before_backward_kernel<T, multiplication, Shape, true>;
      f.many_tiles = &cluster_reset_before_backward_kernel<T, multiplication, Shape, false>;
      f.sorted_tiles = f.many_tiles;
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

  ClusterBackwardRecurrence(Problem const& p, DeviceFacts const&) : problem_{p} {
    if (std::is_same_v<T, float> && p.precision == Precision::kFp32Strict) {
      obstacle_ = "multiplies on tensor cores, which Precision::kFp32Strict excludes";
      return;
    }
    obstacle_ = "R does not fit in a cluster: H is " + std::to_string(p.hidden_size);
    for (ClusterBackwardKernel<T> const& kernel : ClusterBackwardKernel<T>::holding(p)) {
      ClusterPlan const plan = plan_clusters(kernel.functions, p.batch);
      if (plan.tiles == 0) {
        if (plan_.tiles == 0) obstacle_ = no_room_for_cluster(kernel.functions.blocks);
        continue;
      }
      obstacle_.clear();
      double const us = predict_clusters(kernel.functions.time, plan);
      if (plan_.tiles == 0 || us < step_us()) {
        kernel_ = kernel;
        plan_ = plan;
      }
    }
  }

  std::string const& obstacle() const { return obstacle_; }

  double step_us() const { return predict_clusters(kernel_.functions.time, plan_); }
  bool drains_tiles() const { return plan_.tiles > 1 && kernel_.functions.sorts(); }
  int groups() const { return plan_.clusters; }

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
