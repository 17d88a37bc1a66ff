// SPDX-License-Identifier: Apache-2.0
#include "device_layer.cuh"

namespace gru::bench {

void add_float_cases(Device& device, Budget const& budget) {
  add_device_cases<float>("fp32", Precision::kFp32, device, budget);
  add_device_cases<float>("tf32", Precision::kTf32, device, budget);
}

}  // namespace gru::bench
