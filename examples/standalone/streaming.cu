// SPDX-License-Identifier: Apache-2.0
//
// Streaming on the GPU: one step a call, the state updated in place, the call captured once in a
// CUDA graph that is launched for every step that arrives. To build it alone:
//   nvcc -std=c++17 -arch=native -I include examples/standalone/streaming.cu -lcublas -lcublasLt
#include <gru/gru.cuh>

#include <thrust/device_vector.h>

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <vector>

void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error{cudaGetErrorString(status)};
}

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
  constexpr int T = 200, C = 16, H = 64;  // one stream: N = 1
  std::mt19937 generator{1};
  std::vector<float> const x = random_values(T * C, 1, generator);
  thrust::device_vector<float> const all_x = x;
  thrust::device_vector<float> const kernel = random_values(C * 3 * H, 0.3f, generator);
  thrust::device_vector<float> const recurrent_kernel = random_values(H * 3 * H, 0.2f, generator);
  gru::Weights<float> const weights{kernel.data().get(), recurrent_kernel.data().get()};

  gru::Execution execution;
  check(cudaStreamCreate(&execution.stream));
  if (cublasCreate(&execution.blas) != CUBLAS_STATUS_SUCCESS) return 1;

  // Captured once: the step reads `input` and `state`, and writes `state`.
  gru::Problem problem{1, 1, C, H};  // steps, batch, input size, hidden size
  gru::ForwardPass<float> const one_step{problem};
  thrust::device_vector<float> input(C), state(H, 0.0f);
  thrust::device_vector<std::byte> scratch(one_step.workspace_bytes());
  gru::StepTensors<float> tensors;
  tensors.x = input.data().get();
  tensors.state = state.data().get();
  tensors.new_state = state.data().get();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  check(cudaStreamBeginCapture(execution.stream, cudaStreamCaptureModeThreadLocal));
  one_step.step(execution, weights, tensors, {scratch.data().get(), scratch.size()});
  check(cudaStreamEndCapture(execution.stream, &graph));
  check(cudaGraphInstantiate(&executable, graph, 0));

  // The stream: a step arrives, is copied in, and the graph is launched.
  for (int t = 0; t < T; ++t) {
    check(cudaMemcpyAsync(input.data().get(), &x[t * C], C * sizeof(float), cudaMemcpyHostToDevice,
                          execution.stream));
    check(cudaGraphLaunch(executable, execution.stream));
  }
  check(cudaStreamSynchronize(execution.stream));

  // The whole sequence in one call ends in the same state.
  problem.steps = T;
  gru::ForwardPass<float> const whole{problem};
  thrust::device_vector<float> h(T * H), last(H);
  thrust::device_vector<std::byte> whole_scratch(whole.workspace_bytes());
  gru::ForwardTensors<float> sequence;
  sequence.x = all_x.data().get();
  sequence.h = h.data().get();
  sequence.final_state = last.data().get();
  whole.run(execution, weights, sequence, {whole_scratch.data().get(), whole_scratch.size()});
  check(cudaStreamSynchronize(execution.stream));

  float error = 0;
  for (int i = 0; i < H; ++i) error = std::fmax(error, std::fabs(state[i] - last[i]));
  std::printf("after %d steps the states differ by %g at most\n", T, error);
  check(cudaGraphExecDestroy(executable));
  check(cudaGraphDestroy(graph));
  cublasDestroy(execution.blas);
  check(cudaStreamDestroy(execution.stream));
  return error < 1e-5f ? 0 : 1;
}
