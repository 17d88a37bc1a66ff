// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

namespace gru {

/// Where a device pass runs. All handles are borrowed.
struct Execution {
  /// A handle of the current device. It serves cublasLt alone: its stream, math mode, pointer mode
  /// and workspace are neither read nor written.
  cublasHandle_t blas = nullptr;
  cudaStream_t stream = nullptr;
  /// Another stream of the device, or null for none. A pass whose Problem asks for
  /// overlap_products puts parts of its products of whole sequences there, between points of
  /// `stream`: none begins before what was enqueued on `stream` before the run, and what is
  /// enqueued on `stream` after the run waits for all. In a capture they become branches of the
  /// graph. Null: the same work in the same pieces, all of it on `stream`, and the same bits.
  cudaStream_t second_stream = nullptr;
  /// After how many polls a block of a persistent kernel gives up waiting for another; see
  /// gru::check. Such waits end by themselves, so that this only bounds what ought not to happen:
  /// on an H200 a poll takes at most 4 us, and the default is about a minute.
  std::uint32_t most_polls = std::uint32_t{1} << 24;
};

}  // namespace gru
