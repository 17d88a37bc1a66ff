// SPDX-License-Identifier: Apache-2.0
//
// A program of someone who has only the host engine.
#include <cstdint>
#include <cstdio>
#include <vector>

#include <gru/host.hpp>

int main() {
  gru::Problem problem;
  problem.steps = 3;
  problem.batch = 2;
  problem.input_size = 4;
  problem.hidden_size = 5;
  gru::host::ForwardPass<float> const forward{problem};

  // With weights of zero each gate is 1/2 and each candidate 0, so that a step halves the state.
  std::vector<float> const x(3 * 2 * 4, 1.0f);
  std::vector<float> const kernel(4 * 15, 0.0f);
  std::vector<float> const recurrent_kernel(5 * 15, 0.0f);
  std::vector<float> const h0(2 * 5, 1.0f);
  std::vector<float> h(3 * 2 * 5);
  gru::Weights<float> weights;
  weights.kernel = kernel.data();
  weights.recurrent_kernel = recurrent_kernel.data();
  gru::ForwardTensors<float> tensors;
  tensors.x = x.data();
  tensors.h0 = h0.data();
  tensors.h = h.data();

  std::vector<unsigned char> memory(forward.workspace_bytes() + 256);
  auto const address = reinterpret_cast<std::uintptr_t>(memory.data());
  unsigned char* const aligned = memory.data() + (256 - address % 256);
  gru::host::ThreadPool pool{2};
  forward.run(pool.execution(), weights, tensors, {aligned, forward.workspace_bytes()});

  float expected = 1.0f;
  for (int t = 0; t < 3; ++t) {
    expected *= 0.5f;
    for (int i = 0; i < 10; ++i) {
      if (h[static_cast<std::size_t>(t * 10 + i)] == expected) continue;
      std::printf("step %d, element %d: not %g\n", t, i, static_cast<double>(expected));
      return 1;
    }
  }
  return 0;
}
