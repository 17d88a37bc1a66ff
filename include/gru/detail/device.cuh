// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <gru/detail/device_namespace.cuh>
#include <gru/error.hpp>
#include <gru/execution.hpp>

/// Throws DeviceError unless a CUDA runtime call succeeded.
#define GRU_CUDA_TRY(call)                                                                      \
  do {                                                                                          \
    cudaError_t const gru_status = (call);                                                      \
    if (gru_status != cudaSuccess) {                                                            \
      throw ::gru::DeviceError{                                                                 \
          ::gru::detail::message(__FILE__, __LINE__, #call, ": ", cudaGetErrorName(gru_status), \
                                 ": ", cudaGetErrorString(gru_status)),                         \
          static_cast<int>(gru_status)};                                                        \
    }                                                                                           \
  } while (false)

/// Throws DeviceError unless a cuBLAS call succeeded.
#define GRU_CUBLAS_TRY(call)                                                              \
  do {                                                                                    \
    cublasStatus_t const gru_status = (call);                                             \
    if (gru_status != CUBLAS_STATUS_SUCCESS) {                                            \
      throw ::gru::DeviceError{::gru::detail::message(__FILE__, __LINE__, #call, ": ",    \
                                                      cublasLtGetStatusName(gru_status)), \
                               static_cast<int>(gru_status)};                             \
    }                                                                                     \
  } while (false)

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// What the engines know about a device, and about this binary's code for it.
struct DeviceFacts {
  int device = 0;
  int compute_capability = 0;  // 90 for 9.0
  int multiprocessors = 0;
  int code_capability = 0;          // for which the code that it can run was compiled; 0: none
  bool has_sm_90a_code = false;     // whether that uses what code for sm_90 cannot
  cublasLtHandle_t blas = nullptr;  // only asked for algorithms; owned here, for the whole process

  bool has_code() const { return code_capability > 0; }
  /// Whether other code, built for sm_90a, would be faster.
  bool lacks_sm_90a_code() const { return compute_capability == 90 && !has_sm_90a_code; }
};

/// Never launched. The threads that it may have tell the host for what it was compiled.
inline constexpr int kSm90aThreads = 64;
template <typename = void>
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
GRU_KERNEL void __launch_bounds__(kSm90aThreads) code_marker_kernel() {
}
#else
GRU_KERNEL void __launch_bounds__(kSm90aThreads / 2) code_marker_kernel() {
}
#endif

/// Finds what code this binary holds for the current device.
inline void find_code(DeviceFacts& facts) {
  cudaFuncAttributes attributes;
  cudaError_t const status = cudaFuncGetAttributes(&attributes, code_marker_kernel<>);
  if (status == cudaSuccess) {
    facts.code_capability = attributes.ptxVersion;
    facts.has_sm_90a_code = attributes.maxThreadsPerBlock == kSm90aThreads;
    return;
  }
  static_cast<void>(cudaGetLastError());  // the answer is "no", not an error of a later call
  bool const no_code =
      status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidDeviceFunction ||
      status == cudaErrorInvalidKernelImage || status == cudaErrorUnsupportedPtxVersion;
  if (!no_code) GRU_CUDA_TRY(status);
}

/// Asks for what there is to know about the current device.
inline DeviceFacts query_device(int device) {
  DeviceFacts facts;
  facts.device = device;
  int major = 0;
  int minor = 0;
  GRU_CUDA_TRY(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  GRU_CUDA_TRY(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  facts.compute_capability = 10 * major + minor;
  GRU_CUDA_TRY(
      cudaDeviceGetAttribute(&facts.multiprocessors, cudaDevAttrMultiProcessorCount, device));
  find_code(facts);
  GRU_CUBLAS_TRY(cublasLtCreate(&facts.blas));
  return facts;
}

inline int current_device() {
  int device = 0;
  GRU_CUDA_TRY(cudaGetDevice(&device));
  return device;
}

/// Facts about the current device: asked once, then remembered. Thread-safe. Each shared library of
/// the process has its own, since they tell what code the library has.
[[gnu::visibility("hidden")]] inline DeviceFacts const& current_device_facts() {
  static std::mutex mutex;
  static std::vector<DeviceFacts const*> known;
  int const device = current_device();
  std::lock_guard<std::mutex> const lock{mutex};
  for (DeviceFacts const* facts : known) {
    if (facts->device == device) return *facts;
  }
  // Kept until the process ends: CUDA may be gone before static objects are destroyed.
  known.push_back(new DeviceFacts{query_device(device)});
  return *known.back();
}

/// Checks of an Execution, before anything is enqueued.
inline void check_execution(Execution const& execution, int device) {
  GRU_EXPECT(execution.blas != nullptr, InvalidArgument, "execution.blas is null");
  int const current = current_device();
  GRU_EXPECT(current == device, InvalidArgument, "the current device is ", current,
             ", this pass was constructed on device ", device);
}

/// Blocks for an elementwise kernel: x over the columns of a row, y over the rows.
struct Elementwise {
  dim3 grid;
  dim3 block;

  Elementwise(std::int64_t rows, std::int64_t columns, std::int64_t most_threads = 256) {
    std::int64_t const threads = std::min(most_threads, (columns + 31) / 32 * 32);
    block = dim3(static_cast<unsigned>(threads));
    grid = dim3(static_cast<unsigned>((columns + threads - 1) / threads),
                static_cast<unsigned>(std::min<std::int64_t>(rows, 65535)));
  }
};

/// Calls f(row, column) for each element that this thread of an `Elementwise` launch serves.
template <typename Function>
__device__ void for_each_element(std::int64_t rows, std::int64_t columns, Function f) {
  std::int64_t const column = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (column >= columns) return;
  for (std::int64_t row = blockIdx.y; row < rows; row += gridDim.y) f(row, column);
}

/// Launches an elementwise kernel over rows x columns and checks the launch.
template <typename... Parameters, typename... Arguments>
void launch_elementwise(void (*kernel)(Parameters...), cudaStream_t stream, std::int64_t rows,
                        std::int64_t columns, Arguments const&... arguments) {
  Elementwise const shape{rows, columns};
  kernel<<<shape.grid, shape.block, 0, stream>>>(arguments...);
  GRU_CUDA_TRY(cudaGetLastError());
}

/// As launch_elementwise, in small blocks. Where `early`, which asks for code of compute capability
/// 9.0 (see DeviceFacts), blocks begin while the kernel enqueued before still ends. Until it calls
/// ptx::wait_for_kernel_before() the kernel may prefetch, but not read: the kernel before may have
/// been launched early too, so that even older ones may still write.
template <typename... Parameters, typename... Arguments>
void launch_early(void (*kernel)(Parameters...), bool early, cudaStream_t stream, std::int64_t rows,
                  std::int64_t columns, Arguments const&... arguments) {
  Elementwise const shape{rows, columns, 128};
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = early ? 1 : 0;
  GRU_CUDA_TRY(cudaLaunchKernelEx(&config, kernel, arguments...));
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
