// SPDX-License-Identifier: Apache-2.0
//
// Drives the launchers on a GPU, as an adapter does, and compares with the launchers of the CPU on
// the same inputs. Exits with 77 where there is no GPU.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include <cuda_runtime_api.h>

#include <Eigen/Core>

#include <gru/error.hpp>

#include "launch.hpp"

namespace {

namespace adapter = gru::adapter;
using gru::Problem;

int failures = 0;

void expect(bool holds, std::string const& what) {
  std::printf("%s %s\n", holds ? "ok  " : "FAIL", what.c_str());
  if (!holds) ++failures;
}

void check(cudaError_t status) {
  if (status == cudaSuccess) return;
  throw gru::DeviceError{cudaGetErrorString(status), static_cast<int>(status)};
}

struct FreeDevice {
  void operator()(void* pointer) const { cudaFree(pointer); }
};
using DeviceMemory = std::unique_ptr<void, FreeDevice>;

DeviceMemory allocate_on_device(std::size_t bytes) {
  void* pointer = nullptr;
  check(cudaMalloc(&pointer, bytes == 0 ? 1 : bytes));
  return DeviceMemory{pointer};
}

struct Stream {
  Stream() { check(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking)); }
  ~Stream() { cudaStreamDestroy(handle); }
  Stream(Stream const&) = delete;
  Stream& operator=(Stream const&) = delete;
  cudaStream_t handle = nullptr;
};

/// A tensor on the host, and its twin on the device where wanted.
struct Tensor {
  std::vector<std::byte> host;
  DeviceMemory device;

  void to_device(cudaStream_t stream) {
    device = allocate_on_device(host.size());
    check(cudaMemcpyAsync(device.get(), host.data(), host.size(), cudaMemcpyHostToDevice, stream));
  }
  void from_device(cudaStream_t stream) {
    adapter::device::copy_to_host(host.data(), device.get(), host.size(), stream);
  }
};

template <typename T>
adapter::Type type_of() {
  if (std::is_same_v<T, float>) return adapter::Type::kFloat;
  if (std::is_same_v<T, double>) return adapter::Type::kDouble;
  if (std::is_same_v<T, Eigen::half>) return adapter::Type::kHalf;
  return adapter::Type::kBfloat16;
}

template <typename T>
double epsilon() {
  return static_cast<double>(Eigen::NumTraits<T>::epsilon());
}

template <typename V>
Tensor of_values(std::vector<V> const& values) {
  Tensor tensor;
  auto const* const bytes = reinterpret_cast<std::byte const*>(values.data());
  tensor.host.assign(bytes, bytes + values.size() * sizeof(V));
  return tensor;
}

/// A layer's inputs, and what a backend makes of them.
template <typename T>
class Layer {
 public:
  explicit Layer(Problem const& problem) : problem_{problem} {
    std::int64_t const T_ = problem.steps, N = problem.batch;
    std::int64_t const C = problem.input_size, H = problem.hidden_size;
    x_ = normal(T_ * N * C, 1);
    kernel_ = normal(C * 3 * H, 1 / std::sqrt(C));
    recurrent_kernel_ = normal(H * 3 * H, 1 / std::sqrt(H));
    bias_ = normal(3 * H, 0.3);
    recurrent_bias_ = normal(3 * H, 0.3);
    h0_ = normal(N * H, 0.5);
    dh_ = normal(T_ * N * H, 1);
    dfinal_state_ = normal(N * H, 1);
    std::vector<std::int32_t> lengths(N);
    for (auto& length : lengths) length = static_cast<int>(random_() % (T_ + 3)) - 1;
    lengths_ = of_values(lengths);
    std::vector<std::uint8_t> starts(T_ * N);
    for (auto& start : starts) start = random_() % 5 == 0;
    starts_ = of_values(starts);
    seed_ = of_values(std::vector<std::uint64_t>{20261123, 7});
    h_ = zeros(T_ * N * H);
    final_state_ = zeros(N * H);
    reserve_ = zeros(gru::reserve_values(problem));
    dx_ = zeros(T_ * N * C);
    dkernel_ = zeros(C * 3 * H);
    drecurrent_kernel_ = zeros(H * 3 * H);
    dbias_ = zeros(3 * H);
    drecurrent_bias_ = zeros(3 * H);
    dh0_ = zeros(N * H);
  }

  /// The results of the CPU, as double.
  std::vector<std::vector<double>> on_host() {
    std::vector<std::byte> workspace;
    adapter::host::Place place;
    place.allocate = [&](std::size_t bytes) {
      workspace.resize(bytes + 256);
      auto const address = reinterpret_cast<std::uintptr_t>(workspace.data());
      return reinterpret_cast<void*>((address + 255) / 256 * 256);
    };
    auto const at = [](Tensor& tensor) -> void* { return tensor.host.data(); };
    adapter::host::forward(type_of<T>(), problem_, weights(at), inputs(at), outputs(at), place);
    adapter::host::backward(type_of<T>(), problem_, weights(at), inputs(at), incoming(at),
                            gradients(at), place);
    return results();
  }

  /// The results of the GPU, as double.
  std::vector<std::vector<double>> on_device() {
    Stream const stream;
    for (Tensor* tensor : all()) tensor->to_device(stream.handle);
    std::vector<DeviceMemory> workspaces;
    adapter::device::Place place;
    place.stream = stream.handle;
    place.allocate = [&](std::size_t bytes) {
      workspaces.push_back(allocate_on_device(bytes));
      return workspaces.back().get();
    };
    auto const at = [](Tensor& tensor) -> void* { return tensor.device.get(); };
    adapter::device::forward(type_of<T>(), problem_, weights(at), inputs(at), outputs(at), place);
    adapter::device::backward(type_of<T>(), problem_, weights(at), inputs(at), incoming(at),
                              gradients(at), place);
    for (Tensor* tensor : written()) tensor->from_device(stream.handle);
    return results();
  }

 private:
  Tensor normal(std::int64_t count, double deviation) {
    std::normal_distribution<double> draw{0, deviation};
    std::vector<T> values(count);
    for (T& value : values) value = static_cast<T>(draw(random_));
    return of_values(values);
  }
  static Tensor zeros(std::int64_t count) { return of_values(std::vector<T>(count, T(0))); }

  template <typename At>
  adapter::Weights weights(At const& at) {
    return {at(kernel_), at(recurrent_kernel_), at(bias_), at(recurrent_bias_)};
  }
  template <typename At>
  adapter::Inputs inputs(At const& at) {
    adapter::Inputs result;
    result.x = at(x_);
    result.h0 = at(h0_);
    if (problem_.lengths) result.lengths = static_cast<std::int32_t*>(at(lengths_));
    if (problem_.episode_starts) result.episode_starts = static_cast<std::uint8_t*>(at(starts_));
    result.random.state = static_cast<std::uint64_t*>(at(seed_));
    return result;
  }
  template <typename At>
  adapter::ForwardOutputs outputs(At const& at) {
    return {at(h_), at(final_state_), has_reserve() ? at(reserve_) : nullptr};
  }
  template <typename At>
  adapter::BackwardInputs incoming(At const& at) {
    return {at(h_), has_reserve() ? at(reserve_) : nullptr, at(dh_), at(dfinal_state_)};
  }
  template <typename At>
  adapter::Gradients gradients(At const& at) {
    return {at(dx_),    at(dkernel_),         at(drecurrent_kernel_),
            at(dbias_), at(drecurrent_bias_), at(dh0_)};
  }
  bool has_reserve() const { return gru::reserve_values(problem_) > 0; }

  std::vector<Tensor*> written() {
    return {&h_,     &final_state_,     &dx_, &dkernel_, &drecurrent_kernel_,
            &dbias_, &drecurrent_bias_, &dh0_};
  }
  std::vector<Tensor*> all() {
    std::vector<Tensor*> tensors = written();
    for (Tensor* tensor : {&x_, &kernel_, &recurrent_kernel_, &bias_, &recurrent_bias_, &h0_,
                           &lengths_, &starts_, &seed_, &reserve_, &dh_, &dfinal_state_}) {
      tensors.push_back(tensor);
    }
    return tensors;
  }
  std::vector<std::vector<double>> results() {
    std::vector<std::vector<double>> values;
    for (Tensor const* tensor : written()) {
      auto const* const data = reinterpret_cast<T const*>(tensor->host.data());
      values.emplace_back();
      for (std::size_t i = 0; i < tensor->host.size() / sizeof(T); ++i) {
        values.back().push_back(static_cast<double>(data[i]));
      }
    }
    return values;
  }

  Problem problem_;
  std::mt19937_64 random_{1};
  Tensor x_, kernel_, recurrent_kernel_, bias_, recurrent_bias_, h0_, lengths_, starts_, seed_;
  Tensor h_, final_state_, reserve_, dh_, dfinal_state_;
  Tensor dx_, dkernel_, drecurrent_kernel_, dbias_, drecurrent_bias_, dh0_;
};

/// The largest difference in units of what rounding explains: eps(T), the root of the length of the
/// sums, and the largest value.
template <typename T>
double difference(Problem const& p, std::vector<std::vector<double>> const& a,
                  std::vector<std::vector<double>> const& b) {
  double const terms = static_cast<double>(p.steps * p.batch + p.input_size + p.hidden_size);
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    double scale = 1;
    for (double const value : b[i]) scale = std::max(scale, std::abs(value));
    for (std::size_t j = 0; j < a[i].size(); ++j) {
      double const error = std::abs(a[i][j] - b[i][j]) / (epsilon<T>() * std::sqrt(terms) * scale);
      largest = std::isnan(error) ? 1e300 : std::max(largest, error);
    }
  }
  return largest;
}

struct Case {
  char const* name;
  Problem problem;
};

std::vector<Case> cases() {
  Problem base;
  base.steps = 13;
  base.batch = 7;
  base.input_size = 11;
  base.hidden_size = 33;
  base.keep_for_backward = true;
  base.stochastic = true;
  std::vector<Case> result{{"plain", base}};
  auto const add = [&](char const* name, auto const& change) {
    Problem problem = base;
    change(problem);
    result.push_back({name, problem});
  };
  add("reset before", [](Problem& p) { p.variant = gru::Variant::kResetBefore; });
  add("reverse, batch-major", [](Problem& p) {
    p.direction = gru::Direction::kReverse;
    p.layout = gru::Layout::kBatchMajor;
  });
  add("lengths and episode starts", [](Problem& p) { p.lengths = p.episode_starts = true; });
  add("all masks", [](Problem& p) {
    p.zoneout.rate = 0.1;
    p.dropconnect.rate = 0.2;
    p.recurrent_dropout.rate = 0.3;
  });
  add("zoneout in inference", [](Problem& p) {
    p.zoneout.rate = 0.3;
    p.stochastic = false;
  });
  add("recompute", [](Problem& p) { p.reserve = gru::ReservePolicy::kRecompute; });
  add("all at once", [](Problem& p) {
    p.variant = gru::Variant::kResetBefore;
    p.direction = gru::Direction::kReverse;
    p.layout = gru::Layout::kBatchMajor;
    p.lengths = p.episode_starts = true;
    p.zoneout.rate = 0.1;
    p.dropconnect.rate = 0.2;
    p.recurrent_dropout.rate = 0.3;
    p.reserve = gru::ReservePolicy::kRecompute;
  });
  add("T 100, N 64, C 128, H 256", [](Problem& p) {
    p.steps = 100;
    p.batch = 64;
    p.input_size = 128;
    p.hidden_size = 256;
  });
  return result;
}

template <typename T>
void compare(char const* type) {
  constexpr double kAllowed = 2;
  for (Case const& c : cases()) {
    auto const host = Layer<T>{c.problem}.on_host();
    auto const device = Layer<T>{c.problem}.on_device();
    double const error = difference<T>(c.problem, device, host);
    char text[160];
    std::snprintf(text, sizeof text, "%s, %s: the GPU gives the CPU's numbers, %.3f of %.0f", type,
                  c.name, error, kAllowed);
    expect(error <= kAllowed, text);
    auto const again = Layer<T>{c.problem}.on_device();
    expect(again == device,
           std::string{type} + ", " + c.name + ": a second run gives the same bits");
  }

  // Each thread has a handle of its own.
  Problem const problem = cases().front().problem;
  auto const expected = Layer<T>{problem}.on_device();
  std::vector<std::vector<std::vector<double>>> found(4);
  std::vector<std::thread> threads;
  for (auto& result : found) {
    threads.emplace_back([&] { result = Layer<T>{problem}.on_device(); });
  }
  for (std::thread& thread : threads) thread.join();
  bool same = true;
  for (auto const& result : found) same = same && result == expected;
  expect(same, std::string{type} + ": four threads at once give the same bits");

  Problem bad = problem;
  bad.zoneout.rate = 1.5;
  try {
    Layer<T>{bad}.on_device();
    expect(false, std::string{type} + ": zoneout of 1.5 throws InvalidArgument");
  } catch (gru::InvalidArgument const& error) {
    expect(true, std::string{type} + ": zoneout of 1.5 throws: " + error.what());
  }
}

template <typename T>
void compare_if_built(char const* type) {
  if (std::string{" " GRU_ADAPTER_TYPES " "}.find(std::string{" "} + type + " ") !=
      std::string::npos) {
    compare<T>(type);
    return;
  }
  try {
    Layer<T>{cases().front().problem}.on_device();
    expect(false, std::string{type} + ": was left out, and throws Unsupported");
  } catch (gru::Unsupported const& error) {
    expect(true, std::string{type} + ": was left out, and throws: " + error.what());
  }
}

}  // namespace

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: there is no GPU\n");
    return 77;
  }
  try {
    compare_if_built<float>("float");
    compare_if_built<double>("double");
    compare_if_built<Eigen::half>("half");
    compare_if_built<Eigen::bfloat16>("bfloat16");
  } catch (std::exception const& error) {
    expect(false, error.what());
  }
  std::printf("%d failed\n", failures);
  return failures == 0 ? 0 : 1;
}
