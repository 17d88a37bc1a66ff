// SPDX-License-Identifier: Apache-2.0
//
// A GRU layer over a batch of sequences, on the GPU. To build it alone:
//   nvcc -std=c++17 -arch=native -I include examples/standalone/inference.cu -lcublas -lcublasLt
#include <gru/gru.cuh>

#include <thrust/device_vector.h>
#include <thrust/host_vector.h>

#include <cmath>
#include <cstdio>

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::puts("no CUDA device");
    return 77;
  }
  constexpr int T = 100, N = 8, C = 16, H = 32;
  gru::Problem const problem{T, N, C, H};  // steps, batch, input size, hidden size
  gru::ForwardPass<float> const forward{problem};

  thrust::device_vector<float> const kernel(C * 3 * H, 0.02f), recurrent_kernel(H * 3 * H, -0.03f);
  thrust::device_vector<float> const x(T * N * C, 1.0f);
  thrust::device_vector<float> h(T * N * H);
  thrust::device_vector<char> scratch(forward.workspace_bytes());

  gru::Execution execution;  // the default stream
  if (cublasCreate(&execution.blas) != CUBLAS_STATUS_SUCCESS) return 1;
  gru::Weights<float> const weights{kernel.data().get(), recurrent_kernel.data().get()};
  gru::ForwardTensors<float> tensors;
  tensors.x = x.data().get();
  tensors.h = h.data().get();
  forward.run(execution, weights, tensors, {scratch.data().get(), scratch.size()});

  // As all weights and all inputs are alike, every unit takes the values of this recurrence.
  thrust::host_vector<float> const result = h;
  double s = 0, error = 0;
  for (int t = 0; t < T; ++t) {
    double const p = C * 0.02, q = H * -0.03 * s;
    double const z = 1 / (1 + std::exp(-(p + q)));  // and r
    s = z * s + (1 - z) * std::tanh(p + z * q);
    for (int i = 0; i < N * H; ++i) error = std::fmax(error, std::fabs(result[t * N * H + i] - s));
  }
  std::printf("h ends at %f, the recurrence at %f, largest difference %g\n", result[T * N * H - 1],
              s, error);
  cublasDestroy(execution.blas);
  return error < 1e-5 ? 0 : 1;
}
