// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>

#include <cuda_runtime_api.h>

inline constexpr int kSkipped = 77;  // the exit status that ctest takes for a skipped test

/// Whether there is a device to ask; says so where there is none.
inline bool has_device() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0) return true;
  std::puts("no CUDA device");
  return false;
}
