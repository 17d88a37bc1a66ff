// SPDX-License-Identifier: Apache-2.0
//
// Compiled for sm_75 alone, without PTX: on any other GPU there is no code that could run, and
// constructing a pass must say so.

#include <cstdio>
#include <cstring>

#include <gru/gru.cuh>

#include "skip.hpp"

int main() {
  if (!has_device()) return kSkipped;
  cudaDeviceProp properties;
  if (cudaGetDeviceProperties(&properties, 0) != cudaSuccess) return 1;
  if (properties.major == 7) {
    std::puts("the device runs sm_75 code");
    return kSkipped;
  }
  gru::Problem problem;
  problem.steps = problem.batch = problem.input_size = problem.hidden_size = 4;
  try {
    gru::ForwardPass<float> const pass{problem};
    std::puts("FAILED: the pass claims that it can run");
    return 1;
  } catch (gru::Unsupported const& error) {
    std::puts(error.what());
    bool const says_why = std::strstr(error.what(), "built without code") != nullptr;
    return says_why ? 0 : 1;
  }
}
