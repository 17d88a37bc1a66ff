// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include <gru/problem.hpp>
#include <gru/random.hpp>

// Not cublas_v2.h: files without CUDA include this header too.
struct cublasContext;

/// The passes as plain functions, for framework adapters: untyped pointers and a type tag instead
/// of templates, so that a framework's headers, CUDA's and Eigen's never meet in one file.
///
/// The pointers mean what those of gru::Weights, gru::ForwardTensors and gru::BackwardTensors mean.
/// Errors are gru's exceptions.
namespace gru::adapter {

enum class Type { kFloat, kDouble, kHalf, kBfloat16 };

/// Bytes of one value.
inline std::size_t size_of(Type type) {
  return type == Type::kDouble ? 8 : type == Type::kFloat ? 4 : 2;
}

struct Weights {
  void const* kernel = nullptr;            // W   [C, 3H] or [3H, C]
  void const* recurrent_kernel = nullptr;  // R   [H, 3H] or [3H, H]
  void const* bias = nullptr;              // bx  [3H], null for zeros
  void const* recurrent_bias = nullptr;    // br  [3H], null for zeros
};

/// What forward and backward both read. Shapes for Layout::kTimeMajor.
struct Inputs {
  void const* x = nullptr;                       // [T, N, C]
  void const* h0 = nullptr;                      // [N, H], null for zeros
  std::int32_t const* lengths = nullptr;         // [N], where announced
  std::int32_t const* host_lengths = nullptr;    // those again, in host memory, likewise
  std::uint8_t const* episode_starts = nullptr;  // [T, N], where announced
  gru::Random random = {};
};

struct ForwardOutputs {
  void* h = nullptr;            // [T, N, H]
  void* final_state = nullptr;  // [N, H]
  void* reserve = nullptr;      // reserve_values(problem) values, where the Problem keeps one
};

struct BackwardInputs {
  void const* h = nullptr;             // [T, N, H], as forward wrote it
  void const* reserve = nullptr;       // as forward wrote it
  void const* dh = nullptr;            // [T, N, H], null for zeros
  void const* dfinal_state = nullptr;  // [N, H], null for zeros
};

/// Gradients. A null pointer skips the work for it.
struct Gradients {
  void* dx = nullptr;
  void* dkernel = nullptr;
  void* drecurrent_kernel = nullptr;
  void* dbias = nullptr;
  void* drecurrent_bias = nullptr;
  void* dh0 = nullptr;
};

/// Gives a workspace of that many bytes, aligned to 256, that lives until the pass has run. It may
/// throw, and then nothing has been enqueued.
using Allocate = std::function<void*(std::size_t)>;

/// On the CPU; the functions return when the result is there.
namespace host {

struct Place {
  /// As gru::host::Execution's; empty = the calling thread does all.
  std::function<void(std::int64_t, std::function<void(std::int64_t)> const&)> parallel_for;
  Allocate allocate;
};

void forward(Type, Problem const&, Weights const&, Inputs const&, ForwardOutputs const&,
             Place const&);
void backward(Type, Problem const&, Weights const&, Inputs const&, BackwardInputs const&,
              Gradients const&, Place const&);

}  // namespace host

/// On the GPU that is current; the passes are enqueued on the stream, nothing is waited for. Throws
/// Unsupported for a type that was left out of GRU_ADAPTER_TYPES.
namespace device {

struct Place {
  void* stream = nullptr;  ///< A cudaStream_t.
  Allocate allocate;
  /// The framework's cublasHandle_t for the GPU; null for a handle of this library's own, one for
  /// each thread and device.
  cublasContext* blas = nullptr;
};

void forward(Type, Problem const&, Weights const&, Inputs const&, ForwardOutputs const&,
             Place const&);
void backward(Type, Problem const&, Weights const&, Inputs const&, BackwardInputs const&,
              Gradients const&, Place const&);

/// Copies device memory to the host, and waits for it.
void copy_to_host(void* host, void const* device, std::size_t bytes, void* stream);

}  // namespace device
}  // namespace gru::adapter
