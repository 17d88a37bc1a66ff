// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include <gru/error.hpp>
#include <gru/host/execution.hpp>

namespace gru::host {

/// Threads for host passes, owned by the caller. The thread that calls `run` works as one of them.
/// A pass calls it several times in a row, so that a thread without work polls for a while before
/// it sleeps: to wake one up takes longer than many a task.
///
/// `run` may be called from several threads, and from within a task: while the pool is busy, such a
/// call does its tasks in its own thread. The pool must outlive the Executions made from it.
class ThreadPool {
 public:
  /// A pool of `threads` threads, the calling one among them; 0 = as many as the hardware has.
  explicit ThreadPool(int threads = 0) {
    GRU_EXPECT(threads >= 0, InvalidArgument, "threads is ", threads, ", must be at least 0");
    int const hardware = static_cast<int>(std::thread::hardware_concurrency());
    int const count = threads > 0 ? threads : std::max(1, hardware);
    workers_.reserve(static_cast<std::size_t>(count - 1));
    try {
      for (int i = 1; i < count; ++i) workers_.emplace_back([this] { work(); });
    } catch (...) {
      stop();
      throw;
    }
  }

  ~ThreadPool() { stop(); }

  ThreadPool(ThreadPool const&) = delete;
  ThreadPool& operator=(ThreadPool const&) = delete;

  /// Threads that work on a `run`, the calling one among them.
  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls task(i) for each i in [0, count) and returns when all calls have. Throws what the first
  /// failing task threw; the tasks not begun by then are left out.
  void run(std::int64_t count, Task const& task) {
    std::unique_lock<std::mutex> lock{mutex_};
    bool const busy = task_ != nullptr;
    if (busy || workers_.empty() || count <= 1) {
      lock.unlock();
      for (std::int64_t i = 0; i < count; ++i) task(i);
      return;
    }
    task_ = &task;
    next_ = 0;
    count_ = count;
    failure_ = nullptr;
    ++runs_;
    wake_.notify_all();
    drain(lock);
    poll(lock, [this] { return running_ == 0; });
    done_.wait(lock, [this] { return running_ == 0; });
    task_ = nullptr;
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

  /// What passes are given.
  Execution execution() {
    return {[this](std::int64_t count, Task const& task) { run(count, task); }};
  }

 private:
  /// Takes and does tasks until none is left to begin. The lock is held between tasks.
  void drain(std::unique_lock<std::mutex>& lock) {
    while (task_ != nullptr && next_ < count_) {
      std::int64_t const index = next_++;
      Task const& task = *task_;
      ++running_;
      lock.unlock();
      std::exception_ptr failure;
      try {
        task(index);
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
  }

  /// Polls, without the lock, until a condition holds or for a while.
  template <typename Condition>
  static void poll(std::unique_lock<std::mutex>& lock, Condition const& holds) {
    constexpr std::chrono::microseconds kLongest{50};
    if (holds()) return;
    lock.unlock();
    auto const end = std::chrono::steady_clock::now() + kLongest;
    while (!holds() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    lock.lock();
  }

  void work() {
    std::unique_lock<std::mutex> lock{mutex_};
    while (true) {
      std::int64_t const seen = runs_;
      auto const has_tasks = [this] { return task_ != nullptr && next_ < count_; };
      if (!has_tasks()) poll(lock, [&] { return stopping_ || runs_ != seen; });
      wake_.wait(lock, [&] { return stopping_ || has_tasks(); });
      if (stopping_) return;
      drain(lock);
      if (running_ == 0) done_.notify_one();
    }
  }

  void stop() {
    {
      std::lock_guard<std::mutex> const lock{mutex_};
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::condition_variable done_;
  Task const* task_ = nullptr;  // of the `run` that has the workers; null while they are free
  std::int64_t next_ = 0;
  std::int64_t count_ = 0;
  std::exception_ptr failure_;
  // Changed under the mutex, polled without it.
  std::atomic<std::int64_t> runs_ = 0;     // begun
  std::atomic<std::int64_t> running_ = 0;  // tasks
  std::atomic<bool> stopping_ = false;
};

}  // namespace gru::host
