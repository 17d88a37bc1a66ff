// SPDX-License-Identifier: Apache-2.0
#include "support/host.hpp"

#include <Eigen/Core>
#include <algorithm>
#include <gru/host.hpp>
#include <map>
#include <memory>
#include <new>
#include <string>

namespace gru::test {
namespace {

class HostMemory final : public Memory {
 public:
  explicit HostMemory(std::size_t bytes)
      : bytes_{bytes},
        data_{static_cast<std::byte*>(::operator new (bytes, std::align_val_t{kAlignment}))} {}
  HostMemory(HostMemory const&) = delete;
  HostMemory& operator=(HostMemory const&) = delete;
  ~HostMemory() override { ::operator delete (data_, std::align_val_t{kAlignment}); }

  std::byte* data() const override { return data_; }
  void write(RawBytes const& contents) override {
    std::copy(contents.begin(), contents.end(), data_);
  }
  RawBytes read() const override { return {data_, data_ + bytes_}; }

 private:
  static constexpr std::size_t kAlignment = 256;

  std::size_t bytes_;
  std::byte* data_;
};

template <typename T>
class HostBackend final : public Backend<T> {
 public:
  explicit HostBackend(int threads) {
    if (threads > 1) pool_ = std::make_unique<host::ThreadPool>(threads);
  }

  std::unique_ptr<Memory> allocate(std::size_t bytes) const override {
    return std::make_unique<HostMemory>(bytes);
  }
  PassBytes forward_bytes(Problem const& problem) const override {
    host::ForwardPass<T> const pass{problem};
    return {pass.workspace_bytes(), pass.reserve_bytes()};
  }
  PassBytes backward_bytes(Problem const& problem) const override {
    host::BackwardPass<T> const pass{problem};
    return {pass.workspace_bytes(), pass.reserve_bytes()};
  }
  void forward(Problem const& problem, Weights<T> const& weights, ForwardTensors<T> const& tensors,
               Workspace workspace) const override {
    host::ForwardPass<T>{problem}.run(execution(), weights, tensors, workspace);
  }
  void step(Problem const& problem, Weights<T> const& weights, StepTensors<T> const& tensors,
            Workspace workspace) const override {
    host::ForwardPass<T>{problem}.step(execution(), weights, tensors, workspace);
  }
  void backward(Problem const& problem, Weights<T> const& weights,
                BackwardTensors<T> const& tensors, Workspace workspace) const override {
    host::BackwardPass<T>{problem}.run(execution(), weights, tensors, workspace);
  }

 private:
  host::Execution execution() const {
    return pool_ == nullptr ? host::Execution{} : pool_->execution();
  }

  std::unique_ptr<host::ThreadPool> pool_;
};

template <typename T>
struct Entry {
  explicit Entry(int threads)
      : backend{threads},
        engine{threads > 1 ? "host on " + std::to_string(threads) + " threads" : "host", backend} {}

  HostBackend<T> backend;
  BackendEngine<T> engine;
};

template <typename T>
Entry<T> const& entry_of(int threads) {
  static std::map<int, std::unique_ptr<Entry<T>>> entries;
  std::unique_ptr<Entry<T>>& entry = entries[threads];
  if (entry == nullptr) entry = std::make_unique<Entry<T>>(threads);
  return *entry;
}

}  // namespace

template <typename T>
Backend<T> const& host_backend(int threads) {
  return entry_of<T>(threads).backend;
}

template <typename T>
Engine const& host_engine(int threads) {
  return entry_of<T>(threads).engine;
}

#define GRU_TEST_INSTANTIATE(T)                    \
  template Backend<T> const& host_backend<T>(int); \
  template Engine const& host_engine<T>(int);
GRU_TEST_INSTANTIATE(float)
GRU_TEST_INSTANTIATE(double)
GRU_TEST_INSTANTIATE(Eigen::half)
GRU_TEST_INSTANTIATE(Eigen::bfloat16)
#undef GRU_TEST_INSTANTIATE

}  // namespace gru::test
