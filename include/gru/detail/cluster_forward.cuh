// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include <gru/detail/cluster_forward_kernel.cuh>
#include <gru/detail/cluster_plan.cuh>
#include <gru/detail/cluster_reset_before_kernel.cuh>
#include <gru/detail/recurrence_engine.cuh>

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// A shape of a variant's kernel for one T, as the engine sees it.
template <typename T>
struct ClusterKernel {
  ClusterFunctions<RecurrentForward<T>, T> functions;
  PackedOrder order;

  /// The smallest shape that holds H. Registers hold R but for the part that the shape's last
  /// number sends to shared memory, which keeps the kernels free of spills.
  static ClusterKernel choose(Problem const& p) {
    if constexpr (sizeof(T) == 2) {
      return of_16_bits(p.variant, p.hidden_size);
    } else if (p.precision == Precision::kTf32) {
      return of_tf32(p.variant, p.hidden_size);
    } else if (p.precision == Precision::kFp32) {
      return of_split_floats(p.variant, p.hidden_size);
    } else {
      return {};
    }
  }

 private:
  static ClusterKernel of_16_bits(Variant variant, std::int64_t hidden_size) {
    constexpr Multiplication kDirect = Multiplication::kDirect;
    if (hidden_size <= 128) {
      return of<kDirect, ClusterShape<T, 8, 2, 2, 0>>(variant, {{0.55, 0.50}, {0.83, 0.72}});
    }
    if (hidden_size <= 256) {
      return of<kDirect, ClusterShape<T, 8, 2, 4, 0>>(variant, {{0.60, 0.64}, {0.97, 1.02}});
    }
    if (hidden_size <= 384) {
      return of<kDirect, ClusterShape<T, 8, 2, 6, 0>>(variant, {{0.82, 0.78}, {1.18, 1.10}});
    }
    if (hidden_size <= 512) {
      return of<kDirect, ClusterShape<T, 8, 2, 8, 1>>(variant, {{0.97, 1.10}, {1.40, 1.35}});
    }
    if (hidden_size <= 768) {
      return of<kDirect, ClusterShape<T, 16, 2, 12, 10>>(variant, {{1.48, 1.40}, {2.05, 1.98}});
    }
    return {};
  }

  static ClusterKernel of_tf32(Variant variant, std::int64_t hidden_size) {
    constexpr Multiplication kDirect = Multiplication::kDirect;
    if (hidden_size <= 128) {
      return of<kDirect, ClusterShape<T, 8, 4, 2, 0>>(variant, {{0.70, 0.80}, {1.02, 1.25}});
    }
    if (hidden_size <= 256) {
      return of<kDirect, ClusterShape<T, 8, 4, 4, 0>>(variant, {{0.92, 0.83}, {1.33, 1.10}});
    }
    if (hidden_size <= 512) {
      return of<kDirect, ClusterShape<T, 16, 4, 8, 2>>(variant, {{1.35, 1.08}, {2.00, 1.58}});
    }
    return {};
  }

  static ClusterKernel of_split_floats(Variant variant, std::int64_t hidden_size) {
    constexpr Multiplication kSplit = Multiplication::kSplit;
    if (hidden_size <= 128) {
      return of<kSplit, ClusterShape<T, 8, 4, 2, 0>>(variant, {{0.95, 1.40}, {1.20, 1.70}});
    }
    if (hidden_size <= 256) {
      return of<kSplit, ClusterShape<T, 8, 4, 4, 0>>(variant, {{1.42, 1.43}, {1.83, 1.81}});
    }
    if (hidden_size <= 512) {
      return of<kSplit, ClusterShape<T, 16, 4, 8, 2>>(variant, {{2.60, 2.17}, {3.10, 2.87}});
    }
    return {};
  }

  template <Multiplication multiplication, typename Shape>
  static ClusterKernel of(Variant variant, ClusterStepTimes const& times) {
    ClusterKernel kernel;
    kernel.order = Shape::packed_order();
    auto& f = kernel.functions;
    f.blocks = Shape::kBlocks;
    f.threads = Shape::kThreads;
    f.time = times.of(variant);
    if (variant == Variant::kResetAfter) {
      f.shared_bytes = &Shape::shared_bytes;
      f.one_tile = &cluster_forward_kernel<T, multiplication, Shape, GroupTiles::kFew>;
      f.many_tiles = &cluster_forward_kernel<T, multiplication, Shape, GroupTiles::kMany>;
      f.sorted_tiles = f.many_tiles;
      // Floats with several tiles a cluster go to the grid. This spares compiling a third kernel.
      if constexpr (sizeof(T) == 2) {
        f.sorted_tiles = &cluster_forward_kernel<T, multiplication, Shape, GroupTiles::kSorted>;
      }
    } else {
      f.shared_bytes = &Shape::reset_before_bytes;
      f.one_tile = &cluster_reset_before_kernel<T, multiplication, Shape, true>;
      f.many_tiles = &cluster_reset_before_kernel<T, multiplication, Shape, false>;
      f.sorted_tiles = f.many_tiles;
    }
    return kernel;
  }
};

/// The recurrence by clusters that each carry some rows through all steps: see
/// cluster_forward_kernel.cuh and cluster_reset_before_kernel.cuh.
template <typename T>
class ClusterRecurrence {
 public:
  using Value = T;
  static constexpr Engine kEngine = Engine::kCluster;
  static constexpr int kLeastComputeCapability = 90;

  struct Scratch {
    T* packed_weights = nullptr;
  };

  ClusterRecurrence(Problem const& p, DeviceFacts const&)
      : problem_{p}, kernel_{ClusterKernel<T>::choose(p)} {
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
  bool drains_tiles() const { return plan_.tiles > 1 && kernel_.functions.sorts(); }
  int groups() const { return plan_.clusters; }

  void lay_out(Carver& carver, Scratch& scratch) const {
    scratch.packed_weights = carver.take<T>(packed_values<T>(kernel_.order));
  }

  void prepare(cudaStream_t stream, LayerView<T> const& layer, T const* recurrent_kernel,
               Scratch const& scratch) const {
    bool const rounds = problem_.precision == Precision::kTf32;
    pack_weights(stream, layer, recurrent_view<T>(problem_), kernel_.order, rounds,
                 recurrent_kernel, scratch.packed_weights);
  }

  /// Of one launch.
  int blocks() const { return plan_.clusters * kernel_.functions.blocks; }

  void run(cudaStream_t stream, RecurrentForward<T> const& pass, Scratch const& scratch,
           cudaEvent_t started = nullptr) const {
    launch_clusters(stream, kernel_.functions, plan_, pass,
                    static_cast<T const*>(scratch.packed_weights), started);
  }

 private:
  Problem problem_;
  ClusterKernel<T> kernel_;
  ClusterPlan plan_;
  std::string obstacle_;
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
