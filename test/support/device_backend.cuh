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
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

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
/// other way round; hence each copy waits for the device. Memory that is given back serves the next
/// one of the same size: to allocate and free takes longer than most tests' kernels.
class DeviceMemory final : public Memory {
 public:
  explicit DeviceMemory(std::size_t bytes) : bytes_{bytes} {
    check_cuda(cudaGetDevice(&device_), "the device");
    std::vector<std::byte*>& kept = kept_of({device_, bytes});
    if (!kept.empty()) {
      data_ = kept.back();
      kept.pop_back();
      return;
    }
    void* data = nullptr;
    check_cuda(cudaMalloc(&data, bytes), "cudaMalloc");
    data_ = static_cast<std::byte*>(data);
  }
  DeviceMemory(DeviceMemory const&) = delete;
  DeviceMemory& operator=(DeviceMemory const&) = delete;
  ~DeviceMemory() override {
    if (bytes_ > kMostKept) {
      cudaFree(data_);
    } else {
      kept_of({device_, bytes_}).push_back(data_);
    }
  }

  std::size_t bytes() const { return bytes_; }
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
  static constexpr std::size_t kMostKept = std::size_t{1} << 20;

  /// What is kept of a device and a size. Never destroyed: at exit the CUDA runtime may be gone
  /// first.
  static std::vector<std::byte*>& kept_of(std::pair<int, std::size_t> const& kind) {
    static auto& kept = *new std::map<std::pair<int, std::size_t>, std::vector<std::byte*>>;
    return kept[kind];
  }

  std::size_t bytes_;
  int device_ = 0;
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
    d.host_lengths = t.host_lengths;
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

/// The device's passes on a stream of their own. With an engine named, passes run by that engine
/// where it can run the Problem, and by the policy's choice elsewhere.
template <typename T>
class DeviceBackend : public Backend<T> {
 public:
  using D = typename DeviceTwin<T>::type;

  explicit DeviceBackend(gru::Engine engine = gru::Engine::kAutomatic) : engine_{engine} {}

  std::unique_ptr<Memory> allocate(std::size_t bytes) const override {
    return std::make_unique<DeviceMemory>(bytes);
  }
  PassBytes forward_bytes(Problem const& problem) const override {
    ForwardPass<D> const pass = make<ForwardPass<D>>(problem);
    return {pass.workspace_bytes(), pass.reserve_bytes()};
  }
  PassBytes backward_bytes(Problem const& problem) const override {
    BackwardPass<D> const pass = make<BackwardPass<D>>(problem);
    return {pass.workspace_bytes(), pass.reserve_bytes()};
  }
  void forward(Problem const& problem, Weights<T> const& weights, ForwardTensors<T> const& tensors,
               Workspace workspace) const override {
    make<ForwardPass<D>>(problem).run(context_.execution(), Twin<T>::of(weights),
                                      Twin<T>::of(tensors), workspace);
    check_run(problem, workspace);
  }
  void step(Problem const& problem, Weights<T> const& weights, StepTensors<T> const& tensors,
            Workspace workspace) const override {
    make<ForwardPass<D>>(problem).step(context_.execution(), Twin<T>::of(weights),
                                       Twin<T>::of(tensors), workspace);
    check_run(problem, workspace);
  }
  void backward(Problem const& problem, Weights<T> const& weights,
                BackwardTensors<T> const& tensors, Workspace workspace) const override {
    make<BackwardPass<D>>(problem).run(context_.execution(), Twin<T>::of(weights),
                                       Twin<T>::of(tensors), workspace);
    check_run(problem, workspace);
  }

 protected:
  DeviceContext const& context() const { return context_; }

  /// A ForwardPass or BackwardPass by the backend's engine.
  template <typename Pass>
  Pass make(Problem problem) const {
    if (engine_ == gru::Engine::kAutomatic) return Pass{problem};
    problem.engine = engine_;
    try {
      return Pass{problem};
    } catch (Unsupported const&) {
      problem.engine = gru::Engine::kAutomatic;
      return Pass{problem};
    }
  }

 private:
  /// Waits for the run, and throws where it failed on the device.
  void check_run(Problem const& problem, Workspace workspace) const {
    context_.synchronize();
    if (problem.batch > 0) check(workspace, context_.stream());
  }

  gru::Engine engine_;
  DeviceContext context_;
};

template <typename T>
Backend<T> const& device_backend(gru::Engine engine) {
  if (!has_device()) SKIP("no CUDA device");
  // Never destroyed: at exit the CUDA runtime may be gone first.
  static auto& backends = *new std::map<gru::Engine, std::unique_ptr<Backend<T>>>;
  std::unique_ptr<Backend<T>>& backend = backends[engine];
  if (backend == nullptr) backend = std::make_unique<DeviceBackend<T>>(engine);
  return *backend;
}

template <typename T>
Engine const& device_engine(gru::Engine engine) {
  static auto& engines = *new std::map<gru::Engine, std::unique_ptr<Engine>>;
  std::unique_ptr<Engine>& made = engines[engine];
  if (made == nullptr) {
    std::string const place = std::string{"device, "} + to_string(engine) + ", ";
    made = std::make_unique<BackendEngine<T>>(place, device_backend<T>(engine));
  }
  return *made;
}

template <typename T>
std::vector<gru::Engine> forward_engines(Problem problem) {
  if (!has_device()) SKIP("no CUDA device");
  problem.engine = gru::Engine::kAutomatic;
  Decision const decision = ForwardPass<typename DeviceTwin<T>::type>{problem}.decision();
  std::vector<gru::Engine> engines;
  for (Candidate const& c : decision.candidates) {
    if (c.can_run) engines.push_back(c.engine);
  }
  return engines;
}

template <typename T>
std::vector<gru::Engine> forward_engines() {
  Problem smallest;
  smallest.steps = smallest.batch = smallest.input_size = smallest.hidden_size = 1;
  return forward_engines<T>(smallest);
}

}  // namespace gru::test
