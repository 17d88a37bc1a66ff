// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <gru/detail/carver.hpp>
#include <gru/detail/device.cuh>
#include <gru/detail/fma_ring.cuh>
#include <gru/detail/fma_warp.cuh>
#include <gru/detail/launch.cuh>
#include <gru/detail/stepwise_forward.cuh>
#include <gru/policy.hpp>
#include <gru/problem.hpp>

/// The persistent engines for few rows, without tensor cores: how they are planned and launched, in
/// either direction. Steps is RecurrentForward or RecurrentBackward, what a kernel is given.
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

/// A shape of a cluster kernel, as the engine sees it.
template <typename Steps>
struct FmaClusterKernel {
  using Function = void (*)(Steps, float4 const*, int);

  int units = 0;   // the largest H
  int blocks = 0;  // of a cluster
  int threads = 0;
  int shared_bytes = 0;
  int most_rows = 0;  // of a cluster
  FmaOrder order;
  FmaStepTime time;
  Function function = nullptr;

  template <typename Shape>
  static FmaClusterKernel of(Function function, FmaStepTime const& time) {
    FmaClusterKernel kernel;
    kernel.units = Shape::kUnits;
    kernel.blocks = Shape::kBlocks;
    kernel.threads = Shape::kThreads;
    kernel.shared_bytes = Shape::kSharedBytes;
    kernel.most_rows = Shape::Shares::kRows;
    kernel.order = Shape::order();
    kernel.time = time;
    kernel.function = function;
    return kernel;
  }
};

/// How the clusters of a launch share the batch.
struct FmaClusterPlan {
  int rows = 0;      // of each cluster
  int clusters = 0;  // of a launch; 0 where not even one fits on the device
  double step_us = 0;
};

/// Few rows by clusters: what both directions have of a Recurrence.
template <typename T, template <typename> class Steps>
class FmaClusterEngine {
 public:
  using Value = T;
  static constexpr Engine kEngine = Engine::kClusterFma;
  static constexpr int kLeastComputeCapability = 90;

  struct Scratch {
    float4* packed_weights = nullptr;
  };

  std::string const& obstacle() const { return obstacle_; }
  static constexpr bool drains_tiles() { return false; }
  static constexpr int groups() { return 1; }
  double step_us() const { return plan_.step_us; }

  void lay_out(Carver& carver, Scratch& scratch) const {
    scratch.packed_weights = carver.take<float4>(kernel_.order.fragments());
  }

  void prepare(cudaStream_t stream, LayerView<T> const& layer, T const* recurrent_kernel,
               Scratch const& scratch) const {
    pack_fma_weights(stream, layer, recurrent_view<T>(problem_), kernel_.order, recurrent_kernel,
                     scratch.packed_weights);
  }

 protected:
  using Kernel = FmaClusterKernel<Steps<T>>;

  /// Takes the fastest of the kernels that can run the Problem.
  FmaClusterEngine(Problem const& p, DeviceFacts const& facts, std::vector<Kernel> const& kernels)
      : problem_{p} {
    if (p.variant != Variant::kResetAfter) {
      obstacle_ = "computes the variant that resets after the product";
      return;
    }
    if (p.batch > kMostBatch) {
      obstacle_ = "is for few samples: N is " + std::to_string(p.batch);
      return;
    }
    obstacle_ = "R does not fit in a cluster: H is " + std::to_string(p.hidden_size);
    for (Kernel const& kernel : kernels) {
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

  int launch_blocks() const { return plan_.clusters * kernel_.blocks; }

  void launch(cudaStream_t stream, Steps<T> const& pass, Scratch const& scratch,
              cudaEvent_t started) const {
    ClusterLaunch launch{plan_.clusters, kernel_.blocks, kernel_.threads, kernel_.shared_bytes};
    launch.config.stream = stream;
    if (started != nullptr) launch.record_start(started);
    GRU_CUDA_TRY(cudaLaunchKernelEx(&launch.config, kernel_.function, pass,
                                    static_cast<float4 const*>(scratch.packed_weights),
                                    plan_.rows));
  }

 private:
  /// Far beyond what it is good for.
  static constexpr int kMostBatch = 1024;

  /// Asks the device how many clusters fit, and gives each as many rows as is fastest.
  static FmaClusterPlan make_plan(Kernel const& kernel, std::int64_t batch_,
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
  Kernel kernel_;
  FmaClusterPlan plan_;
  std::string obstacle_;
};

/// As FmaClusterKernel, of a grid.
template <typename Steps>
struct FmaGridKernel {
  using Function = void (*)(Steps, float4 const*, FmaRing);

  int units = 0;
  int most_warps = 0;  // of a block
  int most_rows = 0;
  int ring_values = 0;  // that a unit of a row hands on
  FmaStepTime time;
  FmaSpread (*spread)(int units, int rows, int multiprocessors) = nullptr;
  FmaOrder (*order)(FmaSpread const&, int units) = nullptr;
  int (*shared_bytes)(int warps) = nullptr;
  Function function = nullptr;

  template <typename Shape>
  static FmaGridKernel of(Function function, FmaStepTime const& time) {
    FmaGridKernel kernel;
    kernel.units = Shape::kUnits;
    kernel.most_warps = Shape::kMostWarps;
    kernel.most_rows = Shape::kRows;
    kernel.ring_values = Shape::kRingValues;
    kernel.time = time;
    kernel.spread = &Shape::spread;
    kernel.order = &Shape::order;
    kernel.shared_bytes = &Shape::shared_bytes;
    kernel.function = function;
    return kernel;
  }
};

/// Few rows by all blocks of the device: what both directions have of a Recurrence.
template <typename T, template <typename> class Steps>
class FmaGridEngine {
 public:
  using Value = T;
  static constexpr Engine kEngine = Engine::kGridFma;
  static constexpr int kLeastComputeCapability = 80;

  struct Scratch {
    float4* packed_weights = nullptr;
    std::uint32_t* ring = nullptr;
  };

  std::string const& obstacle() const { return obstacle_; }
  static constexpr bool drains_tiles() { return false; }
  static constexpr int groups() { return 1; }
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

 protected:
  using Kernel = FmaGridKernel<Steps<T>>;

  /// Takes the first of the kernels that can run the Problem.
  FmaGridEngine(Problem const& p, DeviceFacts const& facts, std::vector<Kernel> const& kernels)
      : problem_{p} {
    if (p.variant != Variant::kResetAfter) {
      obstacle_ = "computes the variant that resets after the product";
      return;
    }
    obstacle_ = "R does not fit on the device or N is not small: H is " +
                std::to_string(p.hidden_size) + ", N is " + std::to_string(p.batch);
    for (Kernel const& kernel : kernels) {
      bool const holds = p.hidden_size <= kernel.units && p.batch <= kernel.most_rows;
      if (!holds || !plan(kernel, facts)) continue;
      kernel_ = kernel;
      obstacle_.clear();
      break;
    }
  }

  int launch_blocks() const { return spread_.blocks; }

  void launch(cudaStream_t stream, Steps<T> const& pass, Scratch const& scratch,
              cudaEvent_t started) const {
    FmaRing ring;
    ring.words = scratch.ring;
    ring.pitch = kernel_.ring_values * units();
    ring.rows = rows();
    static_assert(FmaRing::kAbsent == 0xffffffff, "four bytes of 0xff");
    GRU_CUDA_TRY(cudaMemsetAsync(
        ring.words, 0xff, static_cast<std::size_t>(ring_words()) * sizeof(std::uint32_t), stream));
    CooperativeLaunch launch{stream, spread_.blocks, 32 * spread_.warps,
                             kernel_.shared_bytes(spread_.warps)};
    if (started != nullptr) launch.record_start(started);
    GRU_CUDA_TRY(cudaLaunchKernelEx(&launch.config, kernel_.function, pass,
                                    static_cast<float4 const*>(scratch.packed_weights), ring));
  }

 private:
  int rows() const { return static_cast<int>(std::max<std::int64_t>(1, problem_.batch)); }
  int units() const { return static_cast<int>((problem_.hidden_size + 3) / 4 * 4); }
  std::int64_t ring_words() const {
    return std::int64_t{FmaRing::kSlots} * rows() * kernel_.ring_values * units();
  }
  FmaOrder order() const { return kernel_.order(spread_, units()); }

  /// Spreads the layer; false where the device has no room.
  bool plan(Kernel const& kernel, DeviceFacts const& facts) {
    spread_ = kernel.spread(units(), rows(), facts.multiprocessors);
    if (spread_.warps > kernel.most_warps) return false;
    int shared_limit = 0;
    GRU_CUDA_TRY(cudaDeviceGetAttribute(&shared_limit, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                        facts.device));
    int const bytes = kernel.shared_bytes(spread_.warps);
    if (bytes > shared_limit) return false;
    // For all passes of the process, other ones too: the most that any of them may ask for.
    GRU_CUDA_TRY(cudaFuncSetAttribute(kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      shared_limit));
    int resident = 0;  // blocks on a multiprocessor
    GRU_CUDA_TRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor(
        &resident, kernel.function, 32 * spread_.warps, static_cast<std::size_t>(bytes)));
    return resident * facts.multiprocessors >= spread_.blocks;
  }

  Problem problem_;
  Kernel kernel_;
  FmaSpread spread_;
  std::string obstacle_;
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
