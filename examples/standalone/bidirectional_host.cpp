// SPDX-License-Identifier: Apache-2.0
//
// A bidirectional layer on the CPU: two passes that write the halves of one [T, N, 2H] tensor by
// its row pitch; nothing is concatenated. To build it alone:
//   g++ -std=c++17 -O3 -march=native -pthread -I include -I /usr/include/eigen3
//     examples/standalone/bidirectional_host.cpp
#include <gru/host.hpp>

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <random>
#include <vector>

std::vector<float> random_values(int count, float scale, std::mt19937& generator) {
  std::vector<float> values(static_cast<std::size_t>(count));
  std::uniform_real_distribution<float> uniform{-scale, scale};
  for (float& value : values) value = uniform(generator);
  return values;
}

struct alignas(256) Block {
  std::byte bytes[256];
};

int main() {
  constexpr int T = 40, N = 4, C = 16, H = 32;

  // A sequence that reads the same from both ends, for the check below.
  std::mt19937 generator{1};
  std::vector<float> x = random_values(T * N * C, 1, generator);
  for (int t = 0; t < T / 2; ++t) {
    for (int i = 0; i < N * C; ++i) x[(T - 1 - t) * N * C + i] = x[t * N * C + i];
  }
  std::vector<float> const kernel = random_values(C * 3 * H, 0.3f, generator);
  std::vector<float> const recurrent_kernel = random_values(H * 3 * H, 0.3f, generator);
  std::vector<float> h(T * N * 2 * H);

  gru::host::ThreadPool threads;
  for (gru::Direction const direction : {gru::Direction::kForward, gru::Direction::kReverse}) {
    gru::Problem problem{T, N, C, H};  // steps, batch, input size, hidden size
    problem.direction = direction;
    problem.pitch.h = 2 * H;
    gru::host::ForwardPass<float> const pass{problem};
    std::vector<Block> scratch((pass.workspace_bytes() + sizeof(Block) - 1) / sizeof(Block));

    gru::Weights<float> const weights{
        kernel.data(),
        recurrent_kernel.data()};  // a real layer has other weights for each direction
    gru::ForwardTensors<float> tensors;
    tensors.x = x.data();
    tensors.h = h.data() + (direction == gru::Direction::kForward ? 0 : H);
    pass.run(threads.execution(), weights, tensors,
             {scratch.data(), scratch.size() * sizeof(Block)});
  }

  // With such a sequence and the same weights, the halves are each other's mirror image.
  float error = 0;
  float largest = 0;
  for (int t = 0; t < T; ++t) {
    for (int n = 0; n < N; ++n) {
      float const* const ascending = &h[(t * N + n) * 2 * H];
      float const* const descending = &h[((T - 1 - t) * N + n) * 2 * H + H];
      for (int i = 0; i < H; ++i) {
        error = std::fmax(error, std::fabs(ascending[i] - descending[i]));
        largest = std::fmax(largest, std::fabs(ascending[i]));
      }
    }
  }
  std::printf("the halves differ by %g at most; largest value %g\n", static_cast<double>(error),
              static_cast<double>(largest));
  return error < 1e-5f && largest > 0.01f ? 0 : 1;
}
