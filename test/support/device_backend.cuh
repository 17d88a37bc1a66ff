// SPDX-License-Identifier: Apache-2.0
#pragma once

// The passes are compiled once, in object libraries.
#ifndef GRU_EXTERN_TEMPLATES
#define GRU_EXTERN_TEMPLATES
#endif

#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <catch2/catch_test_macros.hpp>
#include <gru/gru.cuh>
#include <sstream>
#include <stdexcept>

#include "support/device.hpp"

namespace gru::test {

inline void check_cuda(cudaError_t status, char const* what) {
  if (status != cudaSuccess) {
    std::ostringstream text;
    text << what << ": " << cudaGetErrorString(status);
    throw std::runtime_error{text.str()};
  }
}

inline void check_cublas(cublasStatus_t status, char const* what) {
  if (status != CUBLAS_STATUS_SUCCESS) {
    std::ostringstream text;
    text << what << ": " << cublasGetStatusString(status);
    throw std::runtime_error{text.str()};
  }
}

/// A non-blocking stream and a cuBLAS handle that stays bound to the default stream.
class DeviceContext {
 public:
  DeviceContext() {
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
    check_cublas(cublasCreate(&blas_), "a cuBLAS handle");
  }
  DeviceContext(DeviceContext const&) = delete;
  DeviceContext& operator=(DeviceContext const&) = delete;
  ~DeviceContext() {
    cublasDestroy(blas_);
    cudaStreamDestroy(stream_);
  }

  Execution execution() const { return {blas_, stream_}; }
  cudaStream_t stream() const { return stream_; }
  cublasHandle_t blas() const { return blas_; }
  void synchronize() const { check_cuda(cudaStreamSynchronize(stream_), "the stream"); }

 private:
  cudaStream_t stream_ = nullptr;
  cublasHandle_t blas_ = nullptr;
};

/// The passes' stream does not wait for the default stream, on which the copies are done, nor the
/// other way round; hence each copy waits for the device.
class DeviceMemory final : public Memory {
 public:
  explicit DeviceMemory(std::size_t bytes) : bytes_{bytes} {
    void* data = nullptr;
    check_cuda(cudaMalloc(&data, bytes), "cudaMalloc");
    data_ = static_cast<std::byte*>(data);
  }
  DeviceMemory(DeviceMemory const&) = delete;
  DeviceMemory& operator=(DeviceMemory const&) = delete;
  ~DeviceMemory() override { cudaFree(data_); }

  std::byte* data() const override { return data_; }
  void write(RawBytes const& contents) override {
    check_cuda(cudaMemcpy(data_, contents.data(), contents.size(), cudaMemcpyHostToDevice),
               "a copy to the device");
    check_cuda(cudaDeviceSynchronize(), "the device");
  }
  RawBytes read() const override {
    RawBytes contents(bytes_);
    check_cuda(cudaDeviceSynchronize(), "the device");
    check_cuda(cudaMemcpy(contents.data(), data_, bytes_, cudaMemcpyDeviceToHost),
               "a copy from the device");
    return contents;
  }

 private:
  std::size_t bytes_;
  std::byte* data_ = nullptr;
};

/// The device's type with the bits of a host type.
template <typename T>
struct DeviceTwin {
  using type = T;
};
template <>
struct DeviceTwin<Eigen::half> {
  using type = __half;
};
template <>
struct DeviceTwin<Eigen::bfloat16> {
  using type = __nv_bfloat16;
};

/// The same pointers, to the device's type.
template <typename T>
class Twin {
 public:
  using D = typename DeviceTwin<T>::type;

  static D const* of(T const* p) { return reinterpret_cast<D const*>(p); }
  static D* of(T* p) { return reinterpret_cast<D*>(p); }
  static OrFloat<D const> of(OrFloat<T const> p) {
    if (p.is_float()) return OrFloat<D const>{static_cast<float const*>(p.data())};
    return OrFloat<D const>{static_cast<D const*>(p.data())};
  }
  static OrFloat<D> of(OrFloat<T> p) {
    if (p.is_float()) return OrFloat<D>{static_cast<float*>(p.data())};
    return OrFloat<D>{static_cast<D*>(p.data())};
  }
  static Weights<D> of(Weights<T> const& w) {
    return {of(w.kernel), of(w.recurrent_kernel), of(w.bias), of(w.recurrent_bias)};
  }
  static ForwardTensors<D> of(ForwardTensors<T> const& t) {
    ForwardTensors<D> d;
    set_common(d, t);
    d.h0 = of(t.h0);
    d.lengths = t.lengths;
    d.h = of(t.h);
    d.final_state = of(t.final_state);
    d.reserve = t.reserve;
    return d;
  }
  static StepTensors<D> of(StepTensors<T> const& t) {
    StepTensors<D> d;
    set_common(d, t);
    d.state = of(t.state);
    d.time = t.time;
    d.new_state = of(t.new_state);
    d.h = of(t.h);
    return d;
  }
  static BackwardTensors<D> of(BackwardTensors<T> const& t) {
    BackwardTensors<D> d;
    set_common(d, t);
    d.h0 = of(t.h0);
    d.lengths = t.lengths;
    d.h = of(t.h);
    d.dh = of(t.dh);
    d.dfinal_state = of(t.dfinal_state);
    d.reserve = t.reserve;
    d.overwritten_reserve = t.overwritten_reserve;
    d.dx = of(t.dx);
    d.dkernel = of(t.dkernel);
    d.drecurrent_kernel = of(t.drecurrent_kernel);
    d.dbias = of(t.dbias);
    d.drecurrent_bias = of(t.drecurrent_bias);
    d.dh0 = of(t.dh0);
    return d;
  }

 private:
  template <typename To, typename From>
  static void set_common(To& to, From const& from) {
    to.x = of(from.x);
    to.episode_starts = from.episode_starts;
    to.zoneout_mask = from.zoneout_mask;
    to.dropconnect_mask = from.dropconnect_mask;
    to.recurrent_dropout_mask = from.recurrent_dropout_mask;
    to.random = from.random;
  }
};

template <typename T>
class DeviceBackend : public Backend<T> {
 public:
  using D = typename DeviceTwin<T>::type;

  std::unique_ptr<Memory> allocate(std::size_t bytes) const override {
    return std::make_unique<DeviceMemory>(bytes);
  }
  PassBytes forward_bytes(Problem const& problem) const override {
    ForwardPass<D> const pass{problem};
    return {pass.workspace_bytes(), pass.reserve_bytes()};
  }
  PassBytes backward_bytes(Problem const& problem) const override {
    BackwardPass<D> const pass{problem};
    return {pass.workspace_bytes(), pass.reserve_bytes()};
  }
  void forward(Problem const& problem, Weights<T> const& weights, ForwardTensors<T> const& tensors,
               Workspace workspace) const override {
    ForwardPass<D>{problem}.run(context_.execution(), Twin<T>::of(weights), Twin<T>::of(tensors),
                                workspace);
    check_run(problem, workspace);
  }
  void step(Problem const& problem, Weights<T> const& weights, StepTensors<T> const& tensors,
            Workspace workspace) const override {
    ForwardPass<D>{problem}.step(context_.execution(), Twin<T>::of(weights), Twin<T>::of(tensors),
                                 workspace);
    check_run(problem, workspace);
  }
  void backward(Problem const& problem, Weights<T> const& weights,
                BackwardTensors<T> const& tensors, Workspace workspace) const override {
    BackwardPass<D>{problem}.run(context_.execution(), Twin<T>::of(weights), Twin<T>::of(tensors),
                                 workspace);
    check_run(problem, workspace);
  }

 protected:
  DeviceContext const& context() const { return context_; }

 private:
  /// Waits for the run, and throws where it failed on the device.
  void check_run(Problem const& problem, Workspace workspace) const {
    context_.synchronize();
    if (problem.batch > 0) check(workspace, context_.stream());
  }

  DeviceContext context_;
};

template <typename T>
Backend<T> const& device_backend() {
  if (!has_device()) SKIP("no CUDA device");
  // Never destroyed: at exit the CUDA runtime may be gone first.
  static auto const& backend = *new DeviceBackend<T>;
  return backend;
}

template <typename T>
Engine const& device_engine() {
  static auto const& engine = *new BackendEngine<T>{"device", device_backend<T>()};
  return engine;
}

}  // namespace gru::test
