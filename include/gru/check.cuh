// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include <gru/detail/device.cuh>
#include <gru/detail/stepwise_kernels.cuh>
#include <gru/tensors.hpp>

namespace gru {
inline namespace GRU_DEVICE_NAMESPACE {

/// Waits for the stream, and throws DeviceError where the last run in this workspace failed on the
/// device: a kernel whose blocks wait for each other gave up, and the outputs hold NaN. Such
/// kernels are co-resident by construction, so that this is not expected to happen. For runs of at
/// least one sample.
inline void check(Workspace workspace, cudaStream_t stream) {
  std::uint32_t status = detail::kStatusGood;
  GRU_CUDA_TRY(
      cudaMemcpyAsync(&status, workspace.data, sizeof status, cudaMemcpyDeviceToHost, stream));
  GRU_CUDA_TRY(cudaStreamSynchronize(stream));
  if (status == detail::kStatusGood) return;
  throw DeviceError{detail::message(__FILE__, __LINE__,
                                    "a kernel gave up waiting for other blocks; status ", status),
                    static_cast<int>(status)};
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru
