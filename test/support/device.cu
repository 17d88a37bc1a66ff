// SPDX-License-Identifier: Apache-2.0
#include "support/device_backend.cuh"

namespace gru::test {

bool has_device() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

template Engine const& device_engine<float>();
template Engine const& device_engine<double>();
template Engine const& device_engine<Eigen::half>();
template Engine const& device_engine<Eigen::bfloat16>();

}  // namespace gru::test
