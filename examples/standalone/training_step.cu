// SPDX-License-Identifier: Apache-2.0
//
// One step of training on the GPU: forward, backward, update. To build it alone:
//   nvcc -std=c++17 -arch=native -I include examples/standalone/training_step.cu
//     -lcublas -lcublasLt
#include <gru/gru.cuh>

#include <thrust/device_vector.h>
#include <thrust/inner_product.h>

#include <algorithm>
#include <cstdio>
#include <random>
#include <vector>

using Values = thrust::device_vector<float>;

Values random_values(int count, float scale) {
  static std::mt19937 generator{1};
  std::vector<float> values(count);
  std::uniform_real_distribution<float> uniform{-scale, scale};
  for (float& value : values) value = uniform(generator);
  return values;
}

double dot(Values const& a, Values const& b) {
  return thrust::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::puts("no CUDA device");
    return 77;
  }
  constexpr int T = 50, N = 16, C = 24, H = 32;
  gru::Problem problem{T, N, C, H};  // steps, batch, input size, hidden size
  problem.keep_for_backward = true;
  gru::ForwardPass<float> const forward{problem};
  gru::BackwardPass<float> const backward{problem};

  Values const x = random_values(T * N * C, 1);
  Values kernel = random_values(C * 3 * H, 0.3f);
  Values recurrent_kernel = random_values(H * 3 * H, 0.3f);
  Values h(T * N * H), last(N * H), dkernel(kernel.size()), drecurrent_kernel(H * 3 * H);
  thrust::device_vector<char> reserve(forward.reserve_bytes());
  thrust::device_vector<char> scratch(
      std::max(forward.workspace_bytes(), backward.workspace_bytes()));

  gru::Execution execution;  // the default stream
  if (cublasCreate(&execution.blas) != CUBLAS_STATUS_SUCCESS) return 1;
  gru::Workspace const workspace{scratch.data().get(), scratch.size()};
  gru::Weights<float> const weights{kernel.data().get(), recurrent_kernel.data().get()};

  gru::ForwardTensors<float> inputs;
  inputs.x = x.data().get();
  inputs.h = h.data().get();
  inputs.final_state = last.data().get();
  inputs.reserve = {reserve.data().get(), reserve.size()};
  forward.run(execution, weights, inputs, workspace);
  double const loss = dot(last, last) / 2;  // its gradient by the last state is that state

  gru::BackwardTensors<float> gradients;
  gradients.x = inputs.x;
  gradients.h = inputs.h;
  gradients.reserve = inputs.reserve;
  gradients.dfinal_state = last.data().get();
  gradients.dkernel = dkernel.data().get();
  gradients.drecurrent_kernel = drecurrent_kernel.data().get();
  backward.run(execution, weights, gradients, workspace);

  // A short step against the gradient lowers the loss by its length times the gradient's square.
  double const square = dot(dkernel, dkernel) + dot(drecurrent_kernel, drecurrent_kernel);
  auto const step = static_cast<float>(-0.01 * loss / square);
  cublasSaxpy(execution.blas, C * 3 * H, &step, dkernel.data().get(), 1, kernel.data().get(), 1);
  cublasSaxpy(execution.blas, H * 3 * H, &step, drecurrent_kernel.data().get(), 1,
              recurrent_kernel.data().get(), 1);
  forward.run(execution, weights, inputs, workspace);
  double const ratio = (loss - dot(last, last) / 2) / (-step * square);
  std::printf("the loss %f fell by %.3f times what the gradient says\n", loss, ratio);
  cublasDestroy(execution.blas);
  return ratio > 0.95 && ratio < 1.05 ? 0 : 1;
}
