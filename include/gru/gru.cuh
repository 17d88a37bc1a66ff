// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Everything for the device: descriptors, passes, errors. For nvcc; the host engine is
/// <gru/host.hpp>, for any C++17 compiler.

#include <gru/backward.cuh>
#include <gru/check.cuh>
#include <gru/error.hpp>
#include <gru/execution.hpp>
#include <gru/forward.cuh>
#include <gru/policy.hpp>
#include <gru/problem.hpp>
#include <gru/random.hpp>
#include <gru/tensors.hpp>
#include <gru/version.hpp>

// Define GRU_EXTERN_TEMPLATES, and <gru/instantiate.cuh> in one file a type, to compile each pass
// once in a project.
#if defined(GRU_EXTERN_TEMPLATES)
namespace gru {
extern template class ForwardPass<float>;
extern template class ForwardPass<double>;
extern template class ForwardPass<__half>;
extern template class ForwardPass<__nv_bfloat16>;
extern template class BackwardPass<float>;
extern template class BackwardPass<double>;
extern template class BackwardPass<__half>;
extern template class BackwardPass<__nv_bfloat16>;
}  // namespace gru
#endif
