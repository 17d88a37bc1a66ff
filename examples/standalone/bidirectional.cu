// SPDX-License-Identifier: Apache-2.0
//
// A bidirectional layer on the GPU: two passes that write the halves of one [T, N, 2H] tensor by
// its row pitch; nothing is concatenated. To build it alone:
//   nvcc -std=c++17 -arch=native -I include examples/standalone/bidirectional.cu
//     -lcublas -lcublasLt
#include <gru/gru.cuh>

#include <thrust/device_vector.h>

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <random>
#include <vector>

std::vector<float> random_values(int count, float scale, std::mt19937& generator) {
  std::vector<float> values(count);
  std::uniform_real_distribution<float> uniform{-scale, scale};
  for (float& value : values) value = uniform(generator);
  return values;
}

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::puts("no CUDA device");
    return 77;
  }
  constexpr int T = 40, N = 4, C = 16, H = 32;

  // A sequence that reads the same from both ends, for the check below.
  std::mt19937 generator{1};
  std::vector<float> sequence = random_values(T * N * C, 1, generator);
  for (int t = 0; t < T / 2; ++t) {
    for (int i = 0; i < N * C; ++i) sequence[(T - 1 - t) * N * C + i] = sequence[t * N * C + i];
  }
  thrust::device_vector<float> const x = sequence;
  thrust::device_vector<float> const kernel = random_values(C * 3 * H, 0.3f, generator);
  thrust::device_vector<float> const recurrent_kernel = random_values(H * 3 * H, 0.3f, generator);
  thrust::device_vector<float> h(T * N * 2 * H);

  gru::Execution execution;  // the default stream
  if (cublasCreate(&execution.blas) != CUBLAS_STATUS_SUCCESS) return 1;
  for (gru::Direction const direction : {gru::Direction::kForward, gru::Direction::kReverse}) {
    gru::Problem problem{T, N, C, H};  // steps, batch, input size, hidden size
    problem.direction = direction;
    problem.pitch.h = 2 * H;
    gru::ForwardPass<float> const pass{problem};
    thrust::device_vector<std::byte> scratch(pass.workspace_bytes());

    gru::Weights<float> const weights{
        kernel.data().get(),
        recurrent_kernel.data().get()};  // a real layer has other weights for each direction
    gru::ForwardTensors<float> tensors;
    tensors.x = x.data().get();
    tensors.h = h.data().get() + (direction == gru::Direction::kForward ? 0 : H);
    pass.run(execution, weights, tensors, {scratch.data().get(), scratch.size()});
  }

  // With such a sequence and the same weights, the halves are each other's mirror image.
  std::vector<float> result(h.size());
  thrust::copy(h.begin(), h.end(), result.begin());
  float error = 0;
  float largest = 0;
  for (int t = 0; t < T; ++t) {
    for (int n = 0; n < N; ++n) {
      float const* const ascending = &result[(t * N + n) * 2 * H];
      float const* const descending = &result[((T - 1 - t) * N + n) * 2 * H + H];
      for (int i = 0; i < H; ++i) {
        error = std::fmax(error, std::fabs(ascending[i] - descending[i]));
        largest = std::fmax(largest, std::fabs(ascending[i]));
      }
    }
  }
  std::printf("the halves differ by %g at most; largest value %g\n", error, largest);
  cublasDestroy(execution.blas);
  return error < 1e-5f && largest > 0.01f ? 0 : 1;
}
