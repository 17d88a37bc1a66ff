// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mutex>

#include <cuda_runtime.h>

#include <gru/detail/device.cuh>

/// What ties one stream to another.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// An event without timing.
class Event {
 public:
  Event() { GRU_CUDA_TRY(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
  Event(Event const&) = delete;
  Event& operator=(Event const&) = delete;
  ~Event() { cudaEventDestroy(event_); }

  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

inline void record(Event const& event, cudaStream_t stream) {
  GRU_CUDA_TRY(cudaEventRecord(event.get(), stream));
}

inline void wait(cudaStream_t stream, Event const& event) {
  GRU_CUDA_TRY(cudaStreamWaitEvent(stream, event.get(), 0));
}

inline bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  GRU_CUDA_TRY(cudaStreamIsCapturing(stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

/// What ties a second stream to the first. A wait is for what an event recorded last when the wait
/// was enqueued, so that the same events serve all runs, as long as one enqueues at a time.
struct OverlapEvents {
  std::mutex mutex;
  Event ready;       // forward: what comes before a chunk's recurrence is done; backward: that is
  Event started;     // the recurrence that products are to run beside has its multiprocessors
  Event multiplied;  // the products beside it are done
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
