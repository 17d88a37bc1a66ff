// SPDX-License-Identifier: Apache-2.0
#define GRU_EXTERN_TEMPLATES
#include <gru/gru.cuh>

#define MISUSE_PASSES ::gru
#include "misuse.hpp"
