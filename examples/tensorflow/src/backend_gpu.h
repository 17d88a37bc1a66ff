// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "launch.hpp"
#include "tensorflow/core/framework/device_base.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "xla/stream_executor/stream.h"

/// The GPU: gru's passes on TensorFlow's stream.
namespace gru_tf::backend {

inline constexpr char const* kDevice = "GPU";

using gru::adapter::device::backward;
using gru::adapter::device::forward;

/// The cudaStream_t of the op's device.
inline void* stream_of(tensorflow::OpKernelContext* context) {
  return context->op_device_context()->stream()->platform_specific_handle().stream;
}

inline gru::adapter::device::Place place(tensorflow::OpKernelContext* context,
                                         gru::adapter::Allocate allocate) {
  return {stream_of(context), std::move(allocate)};
}

inline void copy_to_host(tensorflow::OpKernelContext* context, void* to, void const* from,
                         std::size_t bytes) {
  if (bytes > 0) gru::adapter::device::copy_to_host(to, from, bytes, stream_of(context));
}

}  // namespace gru_tf::backend
