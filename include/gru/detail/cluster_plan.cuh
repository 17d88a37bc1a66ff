// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include <gru/detail/device.cuh>
#include <gru/detail/launch.cuh>
#include <gru/detail/tensor_core.cuh>
#include <gru/problem.hpp>

/// How the cluster kernels are planned and launched.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// A step's time, measured on an H200, of the recurrence alone.
struct ClusterStepTime {
  double one_tile_us = 0;  // where each cluster has one tile
  double tile_us = 0;      // for each of several tiles
};

/// The same for both variants.
struct ClusterStepTimes {
  ClusterStepTime reset_after;
  ClusterStepTime reset_before;

  ClusterStepTime const& of(Variant variant) const {
    return variant == Variant::kResetAfter ? reset_after : reset_before;
  }
};

/// A shape of a kernel for steps of type Steps, as its engine sees it.
template <typename Steps, typename T>
struct ClusterFunctions {
  using Function = void (*)(Steps, T const*, int);

  int blocks = 0;  // of a cluster; 0: none
  int threads = 0;
  ClusterStepTime time;
  int (*shared_bytes)(int tiles) = nullptr;
  Function one_tile = nullptr;
  Function many_tiles = nullptr;
  Function sorted_tiles = nullptr;

  /// Whether there is a kernel for sorted rows.
  bool sorts() const { return sorted_tiles != many_tiles; }

  Function of(int tiles, bool sorted) const {
    return tiles == 1 ? one_tile : sorted ? sorted_tiles : many_tiles;
  }
};

/// How the clusters of a launch share the batch.
struct ClusterPlan {
  int tiles = 0;  // of each cluster; 0 where not even one cluster fits on the device
  int clusters = 0;
  int resident = 0;  // clusters that the device holds at once
};

/// Asks the device how many clusters fit, and gives each as few tiles as keep all resident at once.
template <typename Steps, typename T>
ClusterPlan plan_clusters(ClusterFunctions<Steps, T> const& kernel, std::int64_t batch) {
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
  admit(kernel.sorted_tiles);
  auto const resident_with = [&](int tiles) {
    int const bytes = kernel.shared_bytes(tiles);
    if (bytes > shared_limit) return 0;
    ClusterLaunch const launch{1, kernel.blocks, kernel.threads, bytes};
    int clusters = 0;
    int sorted = 0;
    GRU_CUDA_TRY(
        cudaOccupancyMaxActiveClusters(&clusters, kernel.of(tiles, false), &launch.config));
    GRU_CUDA_TRY(cudaOccupancyMaxActiveClusters(&sorted, kernel.of(tiles, true), &launch.config));
    return std::min(clusters, sorted);
  };
  ClusterPlan plan;
  plan.resident = resident_with(1);
  if (plan.resident == 0) return plan;
  std::int64_t const all_tiles = (batch + kTileRows - 1) / kTileRows;
  std::int64_t const wanted = (all_tiles + plan.resident - 1) / plan.resident;
  plan.tiles = static_cast<int>(std::clamp<std::int64_t>(wanted, 1, kMostTiles));
  while (plan.tiles > 1 && resident_with(plan.tiles) == 0) --plan.tiles;
  plan.clusters = static_cast<int>((all_tiles + plan.tiles - 1) / plan.tiles);
  return plan;
}

/// A step's time in all waves of clusters. A few tiles may be finished at once, and take no less
/// than one.
inline double predict_clusters(ClusterStepTime const& time, ClusterPlan const& plan) {
  int const waves = (plan.clusters + plan.resident - 1) / plan.resident;
  double const tiles_us = plan.tiles == 1 ? 0 : plan.tiles * time.tile_us;
  return waves * std::max(time.one_tile_us, tiles_us);
}

/// Why there is no plan.
inline std::string no_room_for_cluster(int blocks) {
  return "the device has no room for a cluster of " + std::to_string(blocks) + " blocks";
}

/// Enqueues the kernel; records `started`, unless null, once all blocks have begun.
template <typename Steps, typename T>
void launch_clusters(cudaStream_t stream, ClusterFunctions<Steps, T> const& kernel,
                     ClusterPlan const& plan, Steps steps, T const* packed_weights,
                     cudaEvent_t started) {
  steps.deal.groups = plan.clusters;
  ClusterLaunch launch{plan.clusters, kernel.blocks, kernel.threads,
                       kernel.shared_bytes(plan.tiles)};
  launch.config.stream = stream;
  if (started != nullptr) launch.record_start(started);
  auto* const function = kernel.of(plan.tiles, steps.deal.order != nullptr);
  GRU_CUDA_TRY(cudaLaunchKernelEx(&launch.config, function, steps, packed_weights, plan.tiles));
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
