// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "case.hpp"

namespace gru::bench {

class Device;

/// Register the cases of one type, each defined in a file of its own. `device` outlives the runs.
void add_float_cases(Device& device, Budget const& budget);  // fp32 and tf32
void add_half_cases(Device& device, Budget const& budget);
void add_bfloat16_cases(Device& device, Budget const& budget);

}  // namespace gru::bench
