// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include <gru/detail/fma_cluster_kernel.cuh>
#include <gru/detail/fma_grid_kernel.cuh>
#include <gru/detail/launch.cuh>
#include <gru/detail/recurrence_engine.cuh>

/// The persistent engines for few rows, without tensor cores: how they are planned and launched.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// A step's time. H200, float.
struct FmaStepTime {
  double us = 0;            // with one row
  double row_us = 0;        // for each further row of a cluster or of the grid
  double neighbour_us = 0;  // for each further cluster on the same multiprocessors

  double of(int rows, int clusters = 1) const {
    return us + (rows - 1) * row_us + (clusters - 1) * neighbour_us;
  }
};

/// A shape of the cluster kernel for one T, as the engine sees it.
template <typename T>
struct FmaClusterKernel {
  int units = 0;   // the largest H
  int blocks = 0;  // of a cluster
  int threads = 0;
  int shared_bytes = 0;
  int most_rows = 0;  // of a cluster
  FmaOrder order;
  FmaStepTime time;
  void (*function)(RecurrentForward<T>, float4 const*, int) = nullptr;

  template <typename Shape>
  static FmaClusterKernel of(FmaStepTime const& time) {
    FmaClusterKernel kernel;
    kernel.units = Shape::kUnits;
    kernel.blocks = Shape::kBlocks;
    kernel.threads = Shape::kThreads;
    kernel.shared_bytes = Shape::kSharedBytes;
    kernel.most_rows = Shape::Shares::kRows;
    kernel.order = Shape::order();
    kernel.time = time;
    kernel.function = &fma_cluster_kernel<T, Shape>;
    return kernel;
  }

  /// All shapes. With several rows, 16-bit types are better off with the tensor cores.
  static std::vector<FmaClusterKernel> all() {
    std::vector<FmaClusterKernel> kernels = {
        of<FmaClusterShape<T, 8, 4, 128, 16, 1, 1>>({0.34, 0, 0.08}),
        of<FmaClusterShape<T, 16, 4, 256, 8, 1, 1>>({0.45, 0, 0.07}),
        of<FmaClusterShape<T, 16, 8, 512, 16, 1, 1>>({0.67, 0, 0})};
    if constexpr (std::is_same_v<T, float>) {
      kernels.push_back(of<FmaClusterShape<T, 8, 8, 256, 16, 2, 8>>({0.54, 0.24, 0}));
      kernels.push_back(of<FmaClusterShape<T, 16, 8, 512, 16, 1, 8>>({0.8, 0.43, 0}));
    }
    return kernels;
  }
};

/// How the clusters of a launch share the batch.
struct FmaClusterPlan {
  int rows = 0;      // of each cluster
  int clusters = 0;  // of a launch; 0 where not even one fits on the device
  double step_us = 0;
};

/// Few rows by clusters: see fma_cluster_kernel.cuh.
template <typename T>
class FmaClusterRecurrence {
 public:
  using Value = T;
  static constexpr Engine kEngine = Engine::kClusterFma;
  static constexpr int kLeastComputeCapability = 90;

  struct Scratch {
    float4* packed_weights = nullptr;
  };

  FmaClusterRecurrence(Problem const& p, DeviceFacts const& facts) : problem_{p} {
    if (p.variant != Variant::kResetAfter) {
      obstacle_ = "computes the variant that resets after the product";
      return;
    }
    if (p.batch > kMostBatch) {
      obstacle_ = "is for few samples: N is " + std::to_string(p.batch);
      return;
    }
    obstacle_ = "R does not fit in a cluster: H is " + std::to_string(p.hidden_size);
    for (FmaClusterKernel<T> const& kernel : FmaClusterKernel<T>::all()) {
      bool const holds = p.hidden_size <= kernel.units;
      if (!holds) continue;
      FmaClusterPlan const plan = make_plan(kernel, p.batch, facts);
      if (plan.clusters == 0) continue;
      if (plan_.clusters == 0 || plan.step_us < plan_.step_us) {
        kernel_ = kernel;
        plan_ = plan;
      }
      obstacle_.clear();
    }
  }

  std::string const& obstacle() const { return obstacle_; }
  double step_us() const { return plan_.step_us; }

  void lay_out(Carver& carver, Scratch& scratch) const {
    scratch.packed_weights = carver.take<float4>(kernel_.order.fragments());
  }

  void prepare(cudaStream_t stream, LayerView<T> const& layer, T const* recurrent_kernel,
               Scratch const& scratch) const {
    pack_fma_weights(stream, layer, recurrent_view<T>(problem_), kernel_.order, recurrent_kernel,
                     scratch.packed_weights);
  }

  void run(cudaStream_t stream, RecurrentForward<T> const& pass, Scratch const& scratch) const {
    ClusterLaunch launch{plan_.clusters, kernel_.blocks, kernel_.threads, kernel_.shared_bytes};
    launch.config.stream = stream;
    GRU_CUDA_TRY(cudaLaunchKernelEx(&launch.config, kernel_.function, pass,
                                    static_cast<float4 const*>(scratch.packed_weights),
                                    plan_.rows));
  }

 private:
  /// Far beyond what it is good for.
  static constexpr int kMostBatch = 1024;

  /// Asks the device how many clusters fit, and gives each as many rows as is fastest.
  static FmaClusterPlan make_plan(FmaClusterKernel<T> const& kernel, std::int64_t batch_,
                                  DeviceFacts const& facts) {
    FmaClusterPlan best;
    int shared_limit = 0;
    GRU_CUDA_TRY(cudaDeviceGetAttribute(&shared_limit, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                        facts.device));
    if (kernel.shared_bytes > shared_limit) return best;
    GRU_CUDA_TRY(
        cudaFuncSetAttribute(kernel.function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    GRU_CUDA_TRY(cudaFuncSetAttribute(kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      kernel.shared_bytes));
    ClusterLaunch const launch{1, kernel.blocks, kernel.threads, kernel.shared_bytes};
    int resident = 0;
    GRU_CUDA_TRY(cudaOccupancyMaxActiveClusters(&resident, kernel.function, &launch.config));
    if (resident == 0) return best;
    auto const ceil_divide = [](int a, int b) { return (a + b - 1) / b; };
    int const apart = std::max(1, facts.multiprocessors / kernel.blocks);
    auto const batch = static_cast<int>(std::max<std::int64_t>(1, batch_));
    for (int rows = 1; rows <= kernel.most_rows; ++rows) {
      int const clusters = ceil_divide(batch, rows);
      int const neighbours = ceil_divide(std::min(clusters, resident), apart);
      int const waves = ceil_divide(clusters, resident);
      double const us = waves * kernel.time.of(rows, neighbours);
      if (best.clusters == 0 || us < best.step_us) best = {rows, clusters, us};
    }
    return best;
  }

  Problem problem_;
  FmaClusterKernel<T> kernel_;
  FmaClusterPlan plan_;
  std::string obstacle_;
};

/// As FmaClusterKernel, of the grid.
template <typename T>
struct FmaGridKernel {
  int units = 0;
  int most_warps = 0;  // of a block
  int warp_units = 0;
  int most_rows = 0;
  FmaStepTime time;
  FmaOrder (*order)(int warps) = nullptr;
  int (*shared_bytes)(int warps) = nullptr;
  void (*function)(RecurrentForward<T>, float4 const*, FmaRing) = nullptr;

  template <typename Shape>
  static FmaGridKernel of(FmaStepTime const& time) {
    FmaGridKernel kernel;
    kernel.units = Shape::kUnits;
    kernel.most_warps = Shape::kMostWarps;
    kernel.warp_units = Shape::kWarpUnits;
    kernel.most_rows = Shape::Shares::kRows;
    kernel.time = time;
    kernel.order = &Shape::order;
    kernel.shared_bytes = &Shape::shared_bytes;
    kernel.function = &fma_grid_kernel<T, Shape>;
    return kernel;
  }

  /// All shapes, the better ones first.
  static std::vector<FmaGridKernel> all() {
    std::vector<FmaGridKernel> kernels = {
        of<FmaGridShape<T, 4, 1024, 32, 0, 1, 1>>({sizeof(T) == 2 ? 1.03 : 0.9, 0, 0}),
        of<FmaGridShape<T, 8, 1536, 32, 4, 1, 1>>({1.67, 0, 0}),
        of<FmaGridShape<T, 8, 2048, 32, 8, 1, 1>>({2.1, 0, 0})};
    if constexpr (std::is_same_v<T, float>) {
      kernels.push_back(of<FmaGridShape<T, 4, 1024, 32, 0, 2, 8>>({0.6, 0.75, 0}));
    }
    return kernels;
  }
};

/// Few rows by all blocks of the device: see fma_grid_kernel.cuh.
template <typename T>
class FmaGridRecurrence {
 public:
  using Value = T;
  static constexpr Engine kEngine = Engine::kGridFma;
  static constexpr int kLeastComputeCapability = 80;

  struct Scratch {
    float4* packed_weights = nullptr;
    std::uint32_t* ring = nullptr;
  };

  FmaGridRecurrence(Problem const& p, DeviceFacts const& facts) : problem_{p} {
    if (p.variant != Variant::kResetAfter) {
      obstacle_ = "computes the variant that resets after the product";
      return;
    }
    obstacle_ = "R does not fit on the device or N is not small: H is " +
                std::to_string(p.hidden_size) + ", N is " + std::to_string(p.batch);
    for (FmaGridKernel<T> const& kernel : FmaGridKernel<T>::all()) {
      bool const holds = p.hidden_size <= kernel.units && p.batch <= kernel.most_rows;
      if (!holds || !plan(kernel, facts)) continue;
      kernel_ = kernel;
      obstacle_.clear();
      break;
    }
  }

  std::string const& obstacle() const { return obstacle_; }
  double step_us() const { return kernel_.time.of(rows()); }

  void lay_out(Carver& carver, Scratch& scratch) const {
    scratch.packed_weights = carver.take<float4>(order().fragments());
    scratch.ring = carver.take<std::uint32_t>(ring_words());
  }

  void prepare(cudaStream_t stream, LayerView<T> const& layer, T const* recurrent_kernel,
               Scratch const& scratch) const {
    pack_fma_weights(stream, layer, recurrent_view<T>(problem_), order(), recurrent_kernel,
                     scratch.packed_weights);
  }

  void run(cudaStream_t stream, RecurrentForward<T> const& pass, Scratch const& scratch) const {
    FmaRing ring;
    ring.words = scratch.ring;
    ring.pitch = pitch();
    ring.rows = rows();
    static_assert(FmaRing::kAbsent == 0xffffffff, "four bytes of 0xff");
    GRU_CUDA_TRY(cudaMemsetAsync(
        ring.words, 0xff, static_cast<std::size_t>(ring_words()) * sizeof(std::uint32_t), stream));
    CooperativeLaunch const launch{stream, blocks_, 32 * warps_, kernel_.shared_bytes(warps_)};
    GRU_CUDA_TRY(cudaLaunchKernelEx(&launch.config, kernel_.function, pass,
                                    static_cast<float4 const*>(scratch.packed_weights), ring));
  }

 private:
  int rows() const { return static_cast<int>(std::max<std::int64_t>(1, problem_.batch)); }
  int pitch() const { return static_cast<int>((problem_.hidden_size + 3) / 4 * 4); }
  std::int64_t ring_words() const { return std::int64_t{FmaRing::kSlots} * rows() * pitch(); }
  FmaOrder order() const { return kernel_.order(blocks_ * warps_); }

  /// Spreads the units over the whole device, with as few warps a block as that takes, but enough
  /// to poll a row's states at once. False where the device has no room.
  bool plan(FmaGridKernel<T> const& kernel, DeviceFacts const& facts) {
    auto const ceil_divide = [](int a, int b) { return (a + b - 1) / b; };
    int const all_warps = ceil_divide(pitch(), kernel.warp_units);
    int const pollers = ceil_divide(pitch(), 2 * FmaRing::kPiece);
    warps_ = std::max(ceil_divide(all_warps, facts.multiprocessors), pollers);
    blocks_ = ceil_divide(all_warps, warps_);
    if (warps_ > kernel.most_warps) return false;
    int shared_limit = 0;
    GRU_CUDA_TRY(cudaDeviceGetAttribute(&shared_limit, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                        facts.device));
    int const bytes = kernel.shared_bytes(warps_);
    if (bytes > shared_limit) return false;
    GRU_CUDA_TRY(
        cudaFuncSetAttribute(kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    int resident = 0;  // blocks on a multiprocessor
    GRU_CUDA_TRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor(
        &resident, kernel.function, 32 * warps_, static_cast<std::size_t>(bytes)));
    return resident * facts.multiprocessors >= blocks_;
  }

  Problem problem_;
  FmaGridKernel<T> kernel_;
  int warps_ = 1;  // of a block
  int blocks_ = 1;
  std::string obstacle_;
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
