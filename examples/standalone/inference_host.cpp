// SPDX-License-Identifier: Apache-2.0
//
// A GRU layer over a batch of sequences, on the CPU. To build it alone:
//   g++ -std=c++17 -O3 -march=native -pthread -I include -I /usr/include/eigen3
//     examples/standalone/inference_host.cpp
#include <gru/host.hpp>

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <vector>

int main() {
  constexpr int T = 100, N = 8, C = 16, H = 32;
  gru::Problem const problem{T, N, C, H};  // steps, batch, input size, hidden size
  gru::host::ForwardPass<float> const forward{problem};

  std::vector<float> const kernel(C * 3 * H, 0.02f);
  std::vector<float> const recurrent_kernel(H * 3 * H, -0.03f);
  std::vector<float> const x(T * N * C, 1.0f);
  std::vector<float> h(T * N * H);
  struct alignas(256) Block {
    std::byte bytes[256];
  };
  std::vector<Block> scratch((forward.workspace_bytes() + sizeof(Block) - 1) / sizeof(Block));

  gru::Weights<float> const weights{kernel.data(), recurrent_kernel.data()};
  gru::ForwardTensors<float> tensors;
  tensors.x = x.data();
  tensors.h = h.data();
  gru::host::ThreadPool threads;
  forward.run(threads.execution(), weights, tensors,
              {scratch.data(), scratch.size() * sizeof(Block)});

  // As all weights and all inputs are alike, every unit takes the values of this recurrence.
  double s = 0, error = 0;
  for (int t = 0; t < T; ++t) {
    double const p = C * 0.02, q = H * -0.03 * s;
    double const z = 1 / (1 + std::exp(-(p + q)));  // and r
    s = z * s + (1 - z) * std::tanh(p + z * q);
    for (int i = 0; i < N * H; ++i) error = std::fmax(error, std::fabs(h[t * N * H + i] - s));
  }
  std::printf("h ends at %f, the recurrence at %f, largest difference %g\n", h.back(), s, error);
  return error < 1e-5 ? 0 : 1;
}
