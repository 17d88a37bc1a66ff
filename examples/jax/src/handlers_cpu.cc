// SPDX-License-Identifier: Apache-2.0
//
// XLA's handlers for the CPU: gru's host engine on XLA's intra-op threads.
#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "buffers.h"
#include "launch.hpp"
#include "layer.h"
#include "xla/ffi/api/ffi.h"

namespace gru_jax {
namespace {

namespace host = gru::adapter::host;
using Task = std::function<void(std::int64_t)>;

/// Tasks that several threads take one by one. A helper that XLA starts late, even after the pass
/// has returned, finds none left and touches nothing else: hence the shared ownership.
class SharedTasks {
 public:
  SharedTasks(std::int64_t count, Task const& task) : count_{count}, task_{&task} {}

  /// Does tasks until none is left to begin.
  void drain() {
    std::unique_lock<std::mutex> lock{mutex_};
    while (next_ < count_) {
      std::int64_t const index = next_++;
      ++running_;
      lock.unlock();
      std::exception_ptr failure;
      try {
        (*task_)(index);
      } catch (...) {
        failure = std::current_exception();
      }
      lock.lock();
      --running_;
      if (failure) {
        next_ = count_;
        if (!failure_) failure_ = failure;
      }
    }
    if (running_ == 0) done_.notify_all();
  }

  /// Waits for the tasks that helpers are at, and throws what the first failing one threw.
  void finish() {
    std::unique_lock<std::mutex> lock{mutex_};
    done_.wait(lock, [this] { return running_ == 0; });
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  std::mutex mutex_;
  std::condition_variable done_;
  std::int64_t const count_;
  Task const* const task_;
  std::int64_t next_ = 0;
  std::int64_t running_ = 0;
  std::exception_ptr failure_;
};

/// The calling thread works too and waits for no helper that has not begun, so that a pass ends
/// however busy XLA's threads are.
host::Place place(ffi::ThreadPool& threads, gru::adapter::Allocate allocate) {
  host::Place result;
  std::int64_t const helpers = threads.num_threads() - 1;
  if (helpers > 0) {
    result.parallel_for = [&threads, helpers](std::int64_t count, Task const& task) {
      auto const shared = std::make_shared<SharedTasks>(count, task);
      for (std::int64_t i = 0; i < std::min(helpers, count - 1); ++i) {
        threads.Schedule([shared] { shared->drain(); });
      }
      shared->drain();
      shared->finish();
    };
  }
  result.allocate = std::move(allocate);
  return result;
}

ffi::Error forward_on_cpu(ffi::ThreadPool threads, ffi::RemainingArgs operands,
                          ffi::RemainingRets results, ffi::Dictionary attributes) {
  return guarded([&] {
    forward(operands, results, attributes,
            [&](LayerCall const& call, gru::adapter::ForwardOutputs const& outputs,
                gru::adapter::Allocate allocate) {
              host::forward(call.type, call.problem, call.weights, call.inputs, outputs,
                            place(threads, std::move(allocate)));
            });
  });
}

ffi::Error backward_on_cpu(ffi::ThreadPool threads, ffi::RemainingArgs operands,
                           ffi::RemainingRets results, ffi::Dictionary attributes) {
  return guarded([&] {
    backward(operands, results, attributes,
             [&](LayerCall const& call, gru::adapter::BackwardInputs const& incoming,
                 gru::adapter::Gradients const& gradients, gru::adapter::Allocate allocate) {
               host::backward(call.type, call.problem, call.weights, call.inputs, incoming,
                              gradients, place(threads, std::move(allocate)));
             });
  });
}

}  // namespace
}  // namespace gru_jax

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    gru_jax_forward, gru_jax::forward_on_cpu,
    xla::ffi::Ffi::Bind().Ctx<xla::ffi::ThreadPool>().RemainingArgs().RemainingRets().Attrs());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    gru_jax_backward, gru_jax::backward_on_cpu,
    xla::ffi::Ffi::Bind().Ctx<xla::ffi::ThreadPool>().RemainingArgs().RemainingRets().Attrs());

/// As gru_jax::workspace_bytes.
extern "C" std::int64_t gru_jax_workspace_bytes(int is_backward, int type,
                                                gru_jax::Layer const* layer, char* message,
                                                std::int64_t message_bytes) {
  using gru::adapter::Allocate;
  using gru::adapter::Type;
  return gru_jax::workspace_bytes(
      is_backward != 0, static_cast<Type>(type), *layer, message, message_bytes,
      [](Type t, gru::Problem const& problem, Allocate const& allocate) {
        gru::adapter::host::forward(t, problem, {}, {}, {}, {{}, allocate});
      },
      [](Type t, gru::Problem const& problem, Allocate const& allocate) {
        gru::adapter::host::backward(t, problem, {}, {}, {}, {}, {{}, allocate});
      });
}

#pragma GCC visibility pop
