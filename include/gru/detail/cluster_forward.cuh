// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>

#include <gru/detail/carver.hpp>
#include <gru/detail/chunks.hpp>
#include <gru/detail/cluster_forward_kernel.cuh>
#include <gru/detail/cost_model.hpp>
#include <gru/detail/engine.cuh>
#include <gru/detail/layer_products.cuh>
#include <gru/detail/stepwise_forward.cuh>
#include <gru/policy.hpp>

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// A shape of the cluster kernel for one T, as the engine sees it.
template <typename T>
struct ClusterKernel {
  int blocks = 0;  // of a cluster
  int units = 0;   // the largest H
  int threads = 0;
  std::int64_t packed_values = 0;  // of R
  double one_tile_us = 0;          // a step where each cluster has one tile; H200, half
  double tile_us = 0;              // a step, for each of several tiles
  int (*shared_bytes)(int tiles) = nullptr;
  void (*one_tile)(ClusterForward<T>) = nullptr;
  void (*many_tiles)(ClusterForward<T>) = nullptr;
  void (*pack)(Masks, GateColumns, WeightView, T const*, T*) = nullptr;

  template <typename Shape>
  static ClusterKernel of(double one_tile_us, double tile_us) {
    ClusterKernel kernel;
    kernel.one_tile_us = one_tile_us;
    kernel.tile_us = tile_us;
    kernel.blocks = Shape::kBlocks;
    kernel.units = Shape::kUnits;
    kernel.threads = Shape::kThreads;
    kernel.packed_values = packed_fragment<Shape>(Shape::kBlocks, 0, 0, 0, 0) * 8;
    kernel.shared_bytes = &Shape::shared_bytes;
    kernel.one_tile = &cluster_forward_kernel<T, Shape, true>;
    kernel.many_tiles = &cluster_forward_kernel<T, Shape, false>;
    kernel.pack = &pack_weights_kernel<T, Shape>;
    return kernel;
  }

  /// The smallest that holds H; blocks is 0 where none does. Registers hold R but for the part that
  /// the third number sends to shared memory, which keeps the kernel free of spills.
  static ClusterKernel for_hidden_size(std::int64_t hidden_size) {
    if (hidden_size <= 128) return of<ClusterShape<8, 2, 0>>(0.85, 0.60);
    if (hidden_size <= 256) return of<ClusterShape<8, 4, 0>>(0.95, 1.15);
    if (hidden_size <= 384) return of<ClusterShape<8, 6, 0>>(1.25, 1.28);
    if (hidden_size <= 512) return of<ClusterShape<8, 8, 2>>(1.45, 1.53);
    if (hidden_size <= 768) return of<ClusterShape<16, 12, 10>>(1.85, 1.87);
    return {};
  }
};

/// How the clusters of a launch share the batch.
template <typename T>
struct ClusterPlan {
  void (*forward)(ClusterForward<T>) = nullptr;
  int tiles = 0;  // of each cluster; 0 where not even one cluster fits on the device
  int clusters = 0;
  int resident = 0;  // clusters that the device holds at once
};

/// A launch of clusters. The attribute must outlive the configuration that points to it.
struct ClusterLaunch {
  cudaLaunchAttribute attribute = {};
  cudaLaunchConfig_t config = {};

  ClusterLaunch(int clusters, int blocks, int threads, int shared_bytes) {
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(blocks);
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
    config.gridDim = dim3(static_cast<unsigned>(clusters * blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
    config.attrs = &attribute;
    config.numAttrs = 1;
  }
  ClusterLaunch(ClusterLaunch const&) = delete;
  ClusterLaunch& operator=(ClusterLaunch const&) = delete;
};

/// Asks the device how many clusters fit, and gives each as few tiles as keep all resident at once.
template <typename T>
ClusterPlan<T> plan_clusters(ClusterKernel<T> const& kernel, std::int64_t batch) {
  constexpr int kMostTiles = 16;
  int shared_limit = 0;
  GRU_CUDA_TRY(cudaDeviceGetAttribute(&shared_limit, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                      current_device()));
  auto const admit = [&](auto* function) {
    GRU_CUDA_TRY(cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    GRU_CUDA_TRY(
        cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_limit));
  };
  admit(kernel.one_tile);
  admit(kernel.many_tiles);
  auto const resident_with = [&](int tiles) {
    int const bytes = kernel.shared_bytes(tiles);
    if (bytes > shared_limit) return 0;
    ClusterLaunch const launch{1, kernel.blocks, kernel.threads, bytes};
    int clusters = 0;
    GRU_CUDA_TRY(cudaOccupancyMaxActiveClusters(
        &clusters, tiles == 1 ? kernel.one_tile : kernel.many_tiles, &launch.config));
    return clusters;
  };
  ClusterPlan<T> plan;
  plan.resident = resident_with(1);
  if (plan.resident == 0) return plan;
  std::int64_t const all_tiles = (batch + kTileRows - 1) / kTileRows;
  std::int64_t const wanted = (all_tiles + plan.resident - 1) / plan.resident;
  plan.tiles = static_cast<int>(std::min<std::int64_t>(wanted, kMostTiles));
  while (plan.tiles > 1 && resident_with(plan.tiles) == 0) --plan.tiles;
  plan.clusters = static_cast<int>((all_tiles + plan.tiles - 1) / std::max(1, plan.tiles));
  plan.forward = plan.tiles == 1 ? kernel.one_tile : kernel.many_tiles;
  return plan;
}

/// A step's time in all waves of clusters.
template <typename T>
double predict_step(ClusterKernel<T> const& kernel, ClusterPlan<T> const& plan) {
  int const waves = (plan.clusters + plan.resident - 1) / plan.resident;
  return waves * (plan.tiles == 1 ? kernel.one_tile_us : plan.tiles * kernel.tile_us);
}

/// What starts a cluster pass: the kernels before it, and R's way into registers.
inline constexpr double kClusterStartUs = 20;

/// The cluster engine as a candidate. Throws only where CUDA fails.
template <typename T>
Candidate cluster_candidate(Problem const& p, DeviceFacts const& facts, bool has_code) {
  Candidate candidate;
  candidate.engine = Engine::kCluster;
  if constexpr (sizeof(T) != 2) {
    candidate.reason = "computes 16-bit types";
  } else {
    auto const kernel = ClusterKernel<T>::for_hidden_size(p.hidden_size);
    if (facts.compute_capability < 90) {
      candidate.reason = "needs compute capability 9.0";
    } else if (!has_code) {
      candidate.reason = "built without code for the device";
    } else if (p.variant != Variant::kResetAfter) {
      candidate.reason = "computes the variant that resets after the product";
    } else if (kernel.blocks == 0) {
      candidate.reason = "R does not fit in a cluster: H is " + std::to_string(p.hidden_size);
    } else if (p.steps > std::numeric_limits<std::int32_t>::max() / 2) {
      candidate.reason = "counts steps in 32 bits";
    } else {
      auto const plan = plan_clusters(kernel, p.batch);
      candidate.can_run = plan.tiles > 0;
      candidate.reason = candidate.can_run ? "R stays on the chip"
                                           : "the device has no room for a cluster of " +
                                                 std::to_string(kernel.blocks) + " blocks";
      double const steps = static_cast<double>(p.steps);
      double const input = kForward16.input * static_cast<double>(p.batch) *
                           static_cast<double>(p.input_size) * static_cast<double>(p.hidden_size) /
                           1e8;
      if (candidate.can_run) {
        candidate.predicted_us = kClusterStartUs + steps * (predict_step(kernel, plan) + input);
      }
    }
  }
  return candidate;
}

/// Forward with the recurrence in one kernel; see cluster_forward_kernel.cuh. The input product is
/// done for a chunk of steps before it.
template <typename T>
class ClusterForwardEngine final : public ForwardEngine<T> {
 public:
  ClusterForwardEngine(Problem const& p, DeviceFacts const& facts)
      : problem_{p},
        kernel_{ClusterKernel<T>::for_hidden_size(p.hidden_size)},
        clusters_{plan_clusters(kernel_, p.batch)} {
    ChunkPlan const plan = plan_chunks(p, [&](std::int64_t steps) {
      Carver carver;
      lay_out(carver, steps, 0);
      return carver.bytes();
    });
    chunks_ = plan.chunks;
    if (chunks_.count == 0) return;
    input_ = {chunks_, [&](std::int64_t steps) {
                return input_product<T>(p, steps, facts, plan.most_product_workspace);
              }};
    product_workspace_ = input_.workspace_bytes();
  }

  std::size_t workspace_bytes() const override {
    Carver carver;
    lay_out(carver, chunks_.size, product_workspace_);
    return carver.bytes();
  }

  void run(Execution const& execution, Weights<T> const& weights, ForwardTensors<T> const& tensors,
           Schedule const& schedule, Masks const& masks, Workspace workspace) const override {
    Problem const& p = problem_;
    if (p.batch == 0) return;
    Carver carver{workspace.data};
    Buffers const buffers = lay_out(carver, chunks_.size, product_workspace_);
    auto const layer = make_layer_view(p, weights, schedule, masks);
    Start<T> const start =
        make_start(p, tensors, schedule, buffers.state, buffers.operand, buffers.status);
    launch_elementwise(start_kernel<T>, execution.stream, p.batch, p.hidden_size, layer, start);
    if (p.steps == 0) return;

    unsigned const blocks = static_cast<unsigned>((kernel_.packed_values / 8 + 255) / 256);
    kernel_.pack<<<blocks, 256, 0, execution.stream>>>(masks, layer.columns, recurrent_view<T>(p),
                                                       weights.recurrent_kernel,
                                                       buffers.packed_weights);
    GRU_CUDA_TRY(cudaGetLastError());

    Rows const x_rows = sequence_rows(p, p.pitch.x, p.input_size);
    ClusterForward<T> pass;
    pass.layer = layer;
    pass.packed_weights = buffers.packed_weights;
    pass.recurrent_scale = static_cast<float>(recurrent_scale(p));
    pass.tiles = clusters_.tiles;
    pass.p = buffers.p;
    pass.state = buffers.state;
    pass.operand = buffers.operand;
    pass.h = tensors.h;
    pass.h_rows = sequence_rows(p, p.pitch.h, p.hidden_size);
    bool const even_rows = pass.h_rows.step % 2 == 0 && pass.h_rows.sample % 2 == 0;
    pass.wide_h = even_rows && reinterpret_cast<std::uintptr_t>(tensors.h) % 4 == 0;
    if (reserve_values(p) > 0) pass.reserve = static_cast<T*>(tensors.reserve.data);
    pass.final_state = tensors.final_state;
    pass.final_pitch = pitch_or(p.pitch.final_state, p.hidden_size);
    pass.status = buffers.status;
    pass.most_polls = 1u << 24;  // H200: at most 4 us a poll, so about a minute
    for (std::int64_t chunk = 0; chunk < chunks_.count; ++chunk) {
      pass.first_time = chunks_.first_time(chunk);
      pass.first_step = chunk * chunks_.size;
      pass.last_step = pass.first_step + chunks_.size_of(chunk);
      input_.of(chunks_, chunk)
          .run(execution, 1, tensors.x + x_rows.at(pass.first_time, 0), weights.kernel, 0,
               buffers.p, buffers.product_workspace);
      launch(execution.stream, pass);
    }
  }

 private:
  struct Buffers {
    std::uint32_t* status = nullptr;
    float* p = nullptr;           // [chunk, N, 3H] x W
    float* state = nullptr;       // [N, H] carried
    T* operand = nullptr;         // [N, H] the state as it multiplies R
    T* packed_weights = nullptr;  // R in the order of the kernel's lanes
    void* product_workspace = nullptr;
  };

  Buffers lay_out(Carver& carver, std::int64_t chunk_steps, std::size_t product_workspace) const {
    std::int64_t const values = problem_.batch * problem_.hidden_size;
    Buffers buffers;
    buffers.status = carver.take<std::uint32_t>(1);
    buffers.p = carver.take<float>(chunk_steps * 3 * values);
    buffers.state = carver.take<float>(values);
    buffers.operand = carver.take<T>(values);
    buffers.packed_weights = carver.take<T>(kernel_.packed_values);
    buffers.product_workspace =
        carver.take<std::byte>(static_cast<std::int64_t>(product_workspace));
    return buffers;
  }

  void launch(cudaStream_t stream, ClusterForward<T> const& pass) const {
    ClusterLaunch launch{clusters_.clusters, kernel_.blocks, kernel_.threads,
                         kernel_.shared_bytes(clusters_.tiles)};
    launch.config.stream = stream;
    GRU_CUDA_TRY(cudaLaunchKernelEx(&launch.config, clusters_.forward, pass));
  }

  Problem problem_;
  ClusterKernel<T> kernel_;
  ClusterPlan<T> clusters_;
  Chunks chunks_;
  PerChunk<Product> input_;
  std::size_t product_workspace_ = 0;
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
