// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gru/gru.cuh>

/// Defines both passes for one type, at global scope of one .cu file, for the files that were
/// compiled with GRU_EXTERN_TEMPLATES:
///
///     #include <gru/instantiate.cuh>
///     GRU_INSTANTIATE(float);
#define GRU_INSTANTIATE(T)              \
  template class ::gru::ForwardPass<T>; \
  template class ::gru::BackwardPass<T>
