// SPDX-License-Identifier: Apache-2.0
#include <gru/instantiate.cuh>

GRU_INSTANTIATE(__nv_bfloat16);
