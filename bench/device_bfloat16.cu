// SPDX-License-Identifier: Apache-2.0
#include "device_layer.cuh"

namespace gru::bench {

void add_bfloat16_cases(Device& device, Budget const& budget) {
  add_device_cases<__nv_bfloat16>("bf16", Precision::kFp32, device, budget);
}

}  // namespace gru::bench
