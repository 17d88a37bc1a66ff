// SPDX-License-Identifier: Apache-2.0
#include <gru/host.hpp>

// What the passes do inside is compiled elsewhere.
extern template class gru::host::ForwardPass<float>;
extern template class gru::host::BackwardPass<float>;

#define MISUSE_PASSES ::gru::host
#include "misuse.hpp"
