// SPDX-License-Identifier: Apache-2.0
#include "support/host.hpp"

#include <Eigen/Core>
#include <cstdlib>
#include <gru/host.hpp>
#include <map>
#include <new>

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

}  // namespace

template <typename T>
Engine const& host_engine(int threads) {
  struct Entry {
    explicit Entry(int count)
        : backend{count},
          engine{count > 1 ? "host on " + std::to_string(count) + " threads" : "host", backend} {}

    HostBackend<T> backend;
    BackendEngine<T> engine;
  };
  static std::map<int, std::unique_ptr<Entry>> entries;
  std::unique_ptr<Entry>& entry = entries[threads];
  if (entry == nullptr) entry = std::make_unique<Entry>(threads);
  return entry->engine;
}

template Engine const& host_engine<float>(int);
template Engine const& host_engine<double>(int);
template Engine const& host_engine<Eigen::half>(int);
template Engine const& host_engine<Eigen::bfloat16>(int);

}  // namespace gru::test
