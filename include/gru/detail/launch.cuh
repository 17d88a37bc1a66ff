// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include <cuda_runtime.h>

#include <gru/detail/device_namespace.cuh>

/// How the persistent kernels are launched.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// A launch whose blocks wait for each other. The attributes must outlive the configuration that
/// points to them.
struct PersistentLaunch {
  cudaLaunchAttribute attributes[3] = {};
  cudaLaunchConfig_t config = {};

  PersistentLaunch(PersistentLaunch const&) = delete;
  PersistentLaunch& operator=(PersistentLaunch const&) = delete;

  /// Records `event` once all blocks have begun.
  void record_start(cudaEvent_t event) {
    cudaLaunchAttribute& attribute = add(cudaLaunchAttributeLaunchCompletionEvent);
    attribute.val.launchCompletionEvent.event = event;
  }

 protected:
  PersistentLaunch(int blocks, int threads, int shared_bytes) {
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
    config.attrs = attributes;
  }

  cudaLaunchAttribute& add(cudaLaunchAttributeID id) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = id;
    return attribute;
  }

  void form_clusters(int blocks) {
    cudaLaunchAttribute& attribute = add(cudaLaunchAttributeClusterDimension);
    attribute.val.clusterDim.x = static_cast<unsigned>(blocks);
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
  }
};

/// A launch of clusters of `blocks` blocks.
struct ClusterLaunch : PersistentLaunch {
  ClusterLaunch(int clusters, int blocks, int threads, int shared_bytes)
      : PersistentLaunch{clusters * blocks, threads, shared_bytes} {
    form_clusters(blocks);
  }
};

/// A cooperative launch: all blocks are resident at once, or it is refused. `team` of them form a
/// cluster, where that is more than one.
struct CooperativeLaunch : PersistentLaunch {
  CooperativeLaunch(cudaStream_t stream, int blocks, int threads, int shared_bytes, int team = 1)
      : PersistentLaunch{blocks, threads, shared_bytes} {
    add(cudaLaunchAttributeCooperative).val.cooperative = 1;
    if (team > 1) form_clusters(team);
    config.stream = stream;
  }
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
