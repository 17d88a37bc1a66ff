// SPDX-License-Identifier: Apache-2.0
//
// A program of someone who has the device engines. On a machine without a device, which can still
// build it, the library must say so.
#include <cstdio>
#include <stdexcept>
#include <vector>

#include <gru/gru.cuh>

namespace {

/// Throws unless a CUDA or cuBLAS call succeeded.
template <typename Status>
void check(Status status) {
  if (static_cast<int>(status) != 0) throw std::runtime_error{"a CUDA call failed"};
}

template <typename V>
class DeviceArray {
 public:
  explicit DeviceArray(std::vector<V> const& values) : size_{values.size()} {
    check(cudaMalloc(&data_, size_ * sizeof(V)));
    check(cudaMemcpy(data_, values.data(), size_ * sizeof(V), cudaMemcpyHostToDevice));
  }
  DeviceArray(DeviceArray const&) = delete;
  DeviceArray& operator=(DeviceArray const&) = delete;
  ~DeviceArray() { cudaFree(data_); }

  V* data() const { return data_; }

  std::vector<V> read() const {
    std::vector<V> values(size_);
    check(cudaMemcpy(values.data(), data_, size_ * sizeof(V), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  std::size_t size_;
  V* data_ = nullptr;
};

gru::Problem make_problem() {
  gru::Problem problem;
  problem.steps = 3;
  problem.batch = 2;
  problem.input_size = 4;
  problem.hidden_size = 5;
  return problem;
}

/// With weights of zero each gate is 1/2 and each candidate 0, so that a step halves the state.
int halve_the_state() {
  gru::ForwardPass<double> const forward{make_problem()};
  DeviceArray<double> const x{std::vector<double>(3 * 2 * 4, 1.0)};
  DeviceArray<double> const kernel{std::vector<double>(4 * 15, 0.0)};
  DeviceArray<double> const recurrent_kernel{std::vector<double>(5 * 15, 0.0)};
  DeviceArray<double> const h0{std::vector<double>(2 * 5, 1.0)};
  DeviceArray<double> const h{std::vector<double>(3 * 2 * 5)};
  DeviceArray<unsigned char> const workspace{
      std::vector<unsigned char>(forward.workspace_bytes() + 1)};

  gru::Weights<double> weights;
  weights.kernel = kernel.data();
  weights.recurrent_kernel = recurrent_kernel.data();
  gru::ForwardTensors<double> tensors;
  tensors.x = x.data();
  tensors.h0 = h0.data();
  tensors.h = h.data();
  cublasHandle_t blas = nullptr;
  check(cublasCreate(&blas));
  forward.run({blas, nullptr}, weights, tensors, {workspace.data(), forward.workspace_bytes()});
  std::vector<double> const result = h.read();
  check(cublasDestroy(blas));

  double expected = 1.0;
  for (int t = 0; t < 3; ++t) {
    expected *= 0.5;
    for (int i = 0; i < 10; ++i) {
      if (result[t * 10 + i] == expected) continue;
      std::printf("step %d, element %d: %g, not %g\n", t, i, result[t * 10 + i], expected);
      return 1;
    }
  }
  return 0;
}

}  // namespace

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0) return halve_the_state();
  try {
    gru::ForwardPass<double> const forward{make_problem()};
  } catch (gru::DeviceError const& error) {
    std::printf("no device here, and the library says so: %s\n", error.what());
    return 0;
  }
  std::printf("there is no device, but a pass was constructed\n");
  return 1;
}
