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
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = {};

  PersistentLaunch(PersistentLaunch const&) = delete;
  PersistentLaunch& operator=(PersistentLaunch const&) = delete;

  /// Records `event` once all blocks have begun.
  void record_start(cudaEvent_t event) {
    attributes[1].id = cudaLaunchAttributeLaunchCompletionEvent;
    attributes[1].val.launchCompletionEvent.event = event;
    config.numAttrs = 2;
  }

 protected:
  PersistentLaunch(int blocks, int threads, int shared_bytes) {
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
    config.attrs = attributes;
    config.numAttrs = 1;
  }
};

/// A launch of clusters of `blocks` blocks.
struct ClusterLaunch : PersistentLaunch {
  ClusterLaunch(int clusters, int blocks, int threads, int shared_bytes)
      : PersistentLaunch{clusters * blocks, threads, shared_bytes} {
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim.x = static_cast<unsigned>(blocks);
    attributes[0].val.clusterDim.y = 1;
    attributes[0].val.clusterDim.z = 1;
  }
};

/// A cooperative launch: all blocks are resident at once, or it is refused.
struct CooperativeLaunch : PersistentLaunch {
  CooperativeLaunch(cudaStream_t stream, int blocks, int threads, int shared_bytes)
      : PersistentLaunch{blocks, threads, shared_bytes} {
    attributes[0].id = cudaLaunchAttributeCooperative;
    attributes[0].val.cooperative = 1;
    config.stream = stream;
  }
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
