// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

namespace gru {

/// Where a device pass runs. Both handles are borrowed.
struct Execution {
  /// A handle of the current device. It serves cublasLt alone: its stream, math mode, pointer mode
  /// and workspace are neither read nor written.
  cublasHandle_t blas = nullptr;
  cudaStream_t stream = nullptr;
};

}  // namespace gru
