// SPDX-License-Identifier: Apache-2.0
//
// A translation unit with both passes for one type. GRU_TEST_VALUE is the type, GRU_TEST_UNIT the
// name of the function that it exports.
#include <stdexcept>

#include <gru/gru.cuh>

#include "layer.hpp"

namespace {

using Value = GRU_TEST_VALUE;

/// Throws unless a CUDA or cuBLAS call succeeded.
template <typename Status>
void check(Status status) {
  if (static_cast<int>(status) != 0) throw std::runtime_error{"a CUDA call failed"};
}

class DeviceArray {
 public:
  explicit DeviceArray(std::size_t size) : size_{size} {
    check(cudaMalloc(&data_, size_ * sizeof(Value)));
  }
  explicit DeviceArray(std::vector<double> const& values) : DeviceArray{values.size()} {
    std::vector<Value> const typed(values.begin(), values.end());
    check(cudaMemcpy(data_, typed.data(), size_ * sizeof(Value), cudaMemcpyHostToDevice));
  }
  DeviceArray(DeviceArray const&) = delete;
  DeviceArray& operator=(DeviceArray const&) = delete;
  ~DeviceArray() { cudaFree(data_); }

  Value* data() const { return data_; }

  std::vector<double> read() const {
    std::vector<Value> typed(size_);
    check(cudaMemcpy(typed.data(), data_, size_ * sizeof(Value), cudaMemcpyDeviceToHost));
    return {typed.begin(), typed.end()};
  }

 private:
  std::size_t size_;
  Value* data_ = nullptr;
};

/// Bytes, rounded up to whole values.
DeviceArray bytes(std::size_t count) {
  return DeviceArray{count / sizeof(Value) + 1};
}

}  // namespace

extern "C" [[gnu::visibility("default")]] void GRU_TEST_UNIT(Layer const& layer, Results& results) {
  gru::ForwardPass<Value> const forward{layer.problem};
  gru::BackwardPass<Value> const backward{layer.problem};
  cublasHandle_t blas = nullptr;
  check(cublasCreate(&blas));

  DeviceArray const x{layer.x};
  DeviceArray const h0{layer.h0};
  DeviceArray const kernel{layer.kernel};
  DeviceArray const recurrent_kernel{layer.recurrent_kernel};
  DeviceArray const bias{layer.bias};
  DeviceArray const recurrent_bias{layer.recurrent_bias};
  DeviceArray const dh{layer.dh};
  DeviceArray const h{layer.dh.size()};
  DeviceArray const dx{layer.x.size()};
  DeviceArray const dkernel{layer.kernel.size()};
  DeviceArray const drecurrent_kernel{layer.recurrent_kernel.size()};
  DeviceArray const dbias{layer.bias.size()};
  DeviceArray const drecurrent_bias{layer.recurrent_bias.size()};
  DeviceArray const dh0{layer.h0.size()};
  DeviceArray const reserve = bytes(forward.reserve_bytes());
  DeviceArray const forward_workspace = bytes(forward.workspace_bytes());
  DeviceArray const backward_workspace = bytes(backward.workspace_bytes());

  gru::Weights<Value> weights;
  weights.kernel = kernel.data();
  weights.recurrent_kernel = recurrent_kernel.data();
  weights.bias = bias.data();
  weights.recurrent_bias = recurrent_bias.data();

  gru::ForwardTensors<Value> inputs;
  inputs.x = x.data();
  inputs.h0 = h0.data();
  inputs.random.seed = layer.seed;
  inputs.h = h.data();
  inputs.reserve = {reserve.data(), forward.reserve_bytes()};
  gru::Execution const execution{blas, nullptr};
  forward.run(execution, weights, inputs, {forward_workspace.data(), forward.workspace_bytes()});

  gru::BackwardTensors<Value> gradients;
  gradients.x = x.data();
  gradients.h = h.data();
  gradients.h0 = h0.data();
  gradients.random = inputs.random;
  gradients.dh = dh.data();
  gradients.reserve = {reserve.data(), forward.reserve_bytes()};
  gradients.dx = dx.data();
  gradients.dkernel = dkernel.data();
  gradients.drecurrent_kernel = drecurrent_kernel.data();
  gradients.dbias = dbias.data();
  gradients.drecurrent_bias = drecurrent_bias.data();
  gradients.dh0 = dh0.data();
  backward.run(execution, weights, gradients,
               {backward_workspace.data(), backward.workspace_bytes()});

  results = {h.read(),       dx.read(),
             dkernel.read(), drecurrent_kernel.read(),
             dbias.read(),   drecurrent_bias.read(),
             dh0.read()};
  check(cublasDestroy(blas));
}
