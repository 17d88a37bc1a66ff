// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "launch.hpp"

/// One function a type and pass, each in a file of its own, made from device_*.in.
namespace gru::adapter::device {

/// The number of the device that is current.
int current_device();

/// The calling thread's handle for it.
cublasContext* blas_handle();

#define GRU_ADAPTER_DECLARE_PASSES(type)                                                     \
  void forward_##type(Problem const&, Weights const&, Inputs const&, ForwardOutputs const&,  \
                      Place const&);                                                         \
  void backward_##type(Problem const&, Weights const&, Inputs const&, BackwardInputs const&, \
                       Gradients const&, Place const&)

GRU_ADAPTER_DECLARE_PASSES(float);
GRU_ADAPTER_DECLARE_PASSES(double);
GRU_ADAPTER_DECLARE_PASSES(half);
GRU_ADAPTER_DECLARE_PASSES(bfloat16);

#undef GRU_ADAPTER_DECLARE_PASSES

}  // namespace gru::adapter::device
