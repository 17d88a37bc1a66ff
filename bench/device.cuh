// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include <gru/error.hpp>
#include <gru/execution.hpp>

namespace gru::bench {

inline void check(cudaError_t status, char const* what) {
  if (status != cudaSuccess) {
    throw DeviceError{std::string{what} + ": " + cudaGetErrorString(status), status};
  }
}

inline void check(cublasStatus_t status, char const* what) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    throw DeviceError{std::string{what} + ": " + cublasGetStatusString(status), status};
  }
}

/// Device memory for `size` values of T.
template <typename T>
class DeviceBuffer {
 public:
  explicit DeviceBuffer(std::int64_t size) : bytes_{static_cast<std::size_t>(size) * sizeof(T)} {
    void* data = nullptr;
    if (bytes_ > 0) check(cudaMalloc(&data, bytes_), "cudaMalloc");
    data_.reset(static_cast<T*>(data));
  }

  T* data() const { return data_.get(); }
  std::size_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(T* data) const { cudaFree(data); }
  };

  std::unique_ptr<T, Free> data_;
  std::size_t bytes_;
};

/// Two streams, a cuBLAS handle and two events of the current device.
class Device {
 public:
  Device() {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    check(cudaStreamCreateWithFlags(&second_stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    check(cublasCreate(&blas_), "cublasCreate");
    check(cudaEventCreate(&begin_), "cudaEventCreate");
    check(cudaEventCreate(&end_), "cudaEventCreate");
  }
  Device(Device const&) = delete;
  Device& operator=(Device const&) = delete;
  ~Device() {
    cudaEventDestroy(end_);
    cudaEventDestroy(begin_);
    cublasDestroy(blas_);
    cudaStreamDestroy(second_stream_);
    cudaStreamDestroy(stream_);
  }

  Execution execution() const {
    Execution execution;
    execution.blas = blas_;
    execution.stream = stream_;
    return execution;
  }
  cudaStream_t second_stream() const { return second_stream_; }

  void wait() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

  /// Milliseconds between two events around what `enqueue` puts on the stream, which is idle before
  /// and after.
  template <typename Enqueue>
  double time(Enqueue const& enqueue) const {
    check(cudaEventRecord(begin_, stream_), "cudaEventRecord");
    enqueue();
    check(cudaEventRecord(end_, stream_), "cudaEventRecord");
    check(cudaEventSynchronize(end_), "cudaEventSynchronize");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
    return milliseconds;
  }

 private:
  cudaStream_t stream_ = nullptr;
  cudaStream_t second_stream_ = nullptr;
  cublasHandle_t blas_ = nullptr;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

/// What was enqueued once, as a CUDA graph.
class Graph {
 public:
  template <typename Enqueue>
  Graph(cudaStream_t stream, Enqueue const& enqueue) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
          "cudaStreamBeginCapture");
    try {
      enqueue();
    } catch (...) {
      cudaGraph_t unfinished = nullptr;
      cudaStreamEndCapture(stream, &unfinished);
      if (unfinished != nullptr) cudaGraphDestroy(unfinished);
      throw;
    }
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    cudaError_t const status = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "cudaGraphInstantiate");
    check(cudaGraphUpload(executable_, stream), "cudaGraphUpload");
  }
  Graph(Graph const&) = delete;
  Graph& operator=(Graph const&) = delete;
  ~Graph() { cudaGraphExecDestroy(executable_); }

  void launch(cudaStream_t stream) const {
    check(cudaGraphLaunch(executable_, stream), "cudaGraphLaunch");
  }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace gru::bench
