// SPDX-License-Identifier: Apache-2.0
#include "support/device_backend.cuh"

namespace gru::test {

bool has_device() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

#define GRU_TEST_INSTANTIATE(T)                                  \
  template Backend<T> const& device_backend<T>(gru::Engine);     \
  template Engine const& device_engine<T>(gru::Engine);          \
  template std::vector<gru::Engine> forward_engines<T>(Problem); \
  template std::vector<gru::Engine> forward_engines<T>();
GRU_TEST_INSTANTIATE(float)
GRU_TEST_INSTANTIATE(double)
GRU_TEST_INSTANTIATE(Eigen::half)
GRU_TEST_INSTANTIATE(Eigen::bfloat16)
#undef GRU_TEST_INSTANTIATE

}  // namespace gru::test
