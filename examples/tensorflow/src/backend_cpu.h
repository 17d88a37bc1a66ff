// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <functional>
#include <utility>

#include "launch.hpp"
#include "tensorflow/core/framework/device_base.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/platform/threadpool.h"

/// The CPU: gru's host engine on TensorFlow's intra-op threads.
namespace gru_tf::backend {

inline constexpr char const* kDevice = "CPU";

using gru::adapter::host::backward;
using gru::adapter::host::forward;

inline gru::adapter::host::Place place(tensorflow::OpKernelContext* context,
                                       gru::adapter::Allocate allocate) {
  gru::adapter::host::Place result;
  auto* const threads = context->device()->tensorflow_cpu_worker_threads()->workers;
  if (threads->NumThreads() > 1) {
    using Scheduling = tensorflow::thread::ThreadPool::SchedulingParams;
    result.parallel_for = [threads](std::int64_t count,
                                    std::function<void(std::int64_t)> const& task) {
      threads->ParallelFor(count, Scheduling::Fixed(1), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) task(i);
      });
    };
  }
  result.allocate = std::move(allocate);
  return result;
}

inline void copy_to_host(tensorflow::OpKernelContext*, void* to, void const* from,
                         std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

}  // namespace gru_tf::backend
