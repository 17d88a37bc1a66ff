// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include <cuda_runtime.h>

#include <gru/detail/device.cuh>
#include <gru/detail/stepwise_kernels.cuh>
#include <gru/policy.hpp>

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

inline constexpr int kLeastComputeCapability = 75;

/// Whether this binary holds code that the current device can run.
inline bool has_code_for_device() {
  cudaFuncAttributes attributes;
  cudaError_t const status = cudaFuncGetAttributes(&attributes, start_kernel<float>);
  if (status == cudaSuccess) return true;
  static_cast<void>(cudaGetLastError());  // the answer is "no", not an error of a later call
  bool const no_code =
      status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidDeviceFunction ||
      status == cudaErrorInvalidKernelImage || status == cudaErrorUnsupportedPtxVersion;
  if (!no_code) GRU_CUDA_TRY(status);
  return false;
}

/// The stepwise engine as a candidate, from what is known about the device and the build.
inline Candidate stepwise_candidate(int compute_capability, bool has_code,
                                    double predicted_us = 0) {
  Candidate candidate;
  candidate.predicted_us = predicted_us;
  candidate.engine = Engine::kStepwise;
  std::string const capability =
      std::to_string(compute_capability / 10) + '.' + std::to_string(compute_capability % 10);
  if (compute_capability < kLeastComputeCapability) {
    candidate.reason = "needs compute capability 7.5, the device has " + capability;
  } else if (!has_code) {
    candidate.reason = "built without code for the device's compute capability " + capability;
  } else {
    candidate.can_run = true;
    candidate.reason = "runs every type, size and option";
  }
  return candidate;
}

/// The host engine, as it appears among the candidates of a device pass.
inline Candidate host_candidate_on_device() {
  Candidate candidate;
  candidate.engine = Engine::kHost;
  candidate.reason = "works on host memory: use gru::host";
  return candidate;
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
