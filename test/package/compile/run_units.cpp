// SPDX-License-Identifier: Apache-2.0
//
// Runs the functions that each device_unit.cu linked into this program exports, and compares them
// with the host engine. With GRU_TEST_FAST_MATH there is one, built with --use_fast_math.
#include <cuda_runtime_api.h>

#include "compare.hpp"

extern "C" {
RunOnDevice run_unit_a;
RunOnDevice run_unit_b;
}

#if defined(GRU_TEST_FAST_MATH)
RunOnDevice* const kUnits[] = {run_unit_a};
bool const kFastMath = true;
#else
RunOnDevice* const kUnits[] = {run_unit_a, run_unit_b};
bool const kFastMath = false;
#endif

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) return kSkipped;
  Layer const layer = make_layer();
  Results const expected = run_on_host(layer);
  double const epsilon = std::numeric_limits<GRU_TEST_VALUE>::epsilon();
  double const allowed = kFastMath ? kFastMathError : tolerance(layer.problem, epsilon);
  bool all_agree = true;
  for (RunOnDevice* const run : kUnits) {
    Results actual;
    run(layer, actual);
    all_agree = agree("device", actual, expected, allowed) && all_agree;
  }
  return all_agree ? 0 : 1;
}
