// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <memory>

#include <cublas_v2.h>

#include <gru/detail/device.cuh>

#include "device_passes.hpp"

namespace gru::adapter::device {
namespace {

struct DestroyHandle {
  void operator()(cublasContext* handle) const { cublasDestroy(handle); }
};

}  // namespace

int current_device() {
  return gru::detail::current_device();
}

cublasContext* blas_handle() {
  thread_local std::map<int, std::unique_ptr<cublasContext, DestroyHandle>> handles;
  auto& handle = handles[current_device()];
  if (handle == nullptr) {
    cublasHandle_t created = nullptr;
    GRU_CUBLAS_TRY(cublasCreate(&created));
    handle.reset(created);
  }
  return handle.get();
}

void copy_to_host(void* host, void const* device, std::size_t bytes, void* stream) {
  auto const on = static_cast<cudaStream_t>(stream);
  GRU_CUDA_TRY(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, on));
  GRU_CUDA_TRY(cudaStreamSynchronize(on));
}

void forward(Type type, Problem const& problem, Weights const& weights, Inputs const& inputs,
             ForwardOutputs const& outputs, Place const& place) {
  switch (type) {
    case Type::kFloat:
      return forward_float(problem, weights, inputs, outputs, place);
    case Type::kDouble:
      return forward_double(problem, weights, inputs, outputs, place);
    case Type::kHalf:
      return forward_half(problem, weights, inputs, outputs, place);
    case Type::kBfloat16:
      return forward_bfloat16(problem, weights, inputs, outputs, place);
  }
}

void backward(Type type, Problem const& problem, Weights const& weights, Inputs const& inputs,
              BackwardInputs const& incoming, Gradients const& gradients, Place const& place) {
  switch (type) {
    case Type::kFloat:
      return backward_float(problem, weights, inputs, incoming, gradients, place);
    case Type::kDouble:
      return backward_double(problem, weights, inputs, incoming, gradients, place);
    case Type::kHalf:
      return backward_half(problem, weights, inputs, incoming, gradients, place);
    case Type::kBfloat16:
      return backward_bfloat16(problem, weights, inputs, incoming, gradients, place);
  }
}

}  // namespace gru::adapter::device
