// SPDX-License-Identifier: Apache-2.0
//
// Compiled for sm_90 alone: on a device of compute capability 9.0 the policy must know that this is
// not code for sm_90a.

#include <cstdio>

#include <gru/detail/device.cuh>

#include "skip.hpp"

int main() {
  if (!has_device()) return kSkipped;
  gru::detail::DeviceFacts const& facts = gru::detail::current_device_facts();
  if (facts.compute_capability != 90) {
    std::puts("the device is not of compute capability 9.0");
    return kSkipped;
  }
  if (facts.has_code() && facts.lacks_sm_90a_code()) return 0;
  std::printf("FAILED: has code: %d, for sm_90a: %d\n", facts.has_code(), facts.has_sm_90a_code);
  return 1;
}
