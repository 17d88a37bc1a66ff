// SPDX-License-Identifier: Apache-2.0
//
// Compiled to PTX for compute capability 7.5 alone. On a newer device that runs, but the persistent
// kernels are empty in it: nothing but the stepwise engine may be chosen, whatever the device has.

#include <cstdio>
#include <cstring>

#include <gru/gru.cuh>

#include "skip.hpp"

namespace {

/// Whether each candidate but the stepwise engine says why it cannot run.
bool knows_what_it_lacks(gru::Decision const& decision) {
  bool knows = decision.engine == gru::Engine::kStepwise;
  for (gru::Candidate const& candidate : decision.candidates) {
    std::printf("%s: %s\n", gru::to_string(candidate.engine), candidate.reason.c_str());
    bool const is_persistent =
        candidate.engine != gru::Engine::kStepwise && candidate.engine != gru::Engine::kHost;
    if (!is_persistent) continue;
    knows &= !candidate.can_run;
    knows &= std::strstr(candidate.reason.c_str(), "needs compute capability") != nullptr;
  }
  return knows;
}

}  // namespace

int main() {
  if (!has_device()) return kSkipped;
  gru::Problem problem;
  problem.steps = 100;
  problem.batch = 1;
  problem.input_size = problem.hidden_size = 256;
  if (!knows_what_it_lacks(gru::ForwardPass<float>{problem}.decision())) {
    std::puts("FAILED: a persistent engine is taken, or does not say what it lacks");
    return 1;
  }
  problem.engine = gru::Engine::kGridFma;
  try {
    gru::ForwardPass<float> const pass{problem};
    std::puts("FAILED: grid_fma claims that it can run");
    return 1;
  } catch (gru::Unsupported const& error) {
    std::puts(error.what());
    return 0;
  }
}
