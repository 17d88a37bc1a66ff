// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>

#include <gru/gru.cuh>

#include "case.hpp"
#include "device.cuh"
#include "device_cases.hpp"

namespace gru::bench {

/// Values uniform in [-bound, bound).
template <typename T>
__global__ void fill_kernel(T* out, std::int64_t size, float bound, std::uint64_t seed) {
  std::int64_t const i = blockIdx.x * std::int64_t{blockDim.x} + threadIdx.x;
  if (i >= size) return;
  std::uint32_t const word = philox(seed, 0, static_cast<std::uint64_t>(i)).word[0];
  out[i] = static_cast<T>(bound * (static_cast<float>(word >> 8) / 8388608.f - 1.f));
}

/// One layer with its weights, inputs, outputs and gradients on the device, all of them random.
template <typename T>
class DeviceLayer {
 public:
  DeviceLayer(Device const& device, Shape const& shape, Precision precision)
      : inference_{problem(shape, precision, false)},
        forward_{problem(shape, precision, true)},
        backward_{problem(shape, precision, true)},
        stream_{device.execution().stream},
        C_{shape.input_size},
        H_{shape.hidden_size},
        x_{shape.steps * shape.batch * C_},
        h0_{shape.batch * H_},
        kernel_{C_ * 3 * H_},
        recurrent_kernel_{H_ * 3 * H_},
        bias_{3 * H_},
        recurrent_bias_{3 * H_},
        h_{shape.steps * shape.batch * H_},
        final_state_{shape.batch * H_},
        dh_{shape.steps * shape.batch * H_},
        dfinal_state_{shape.batch * H_},
        dx_{shape.steps * shape.batch * C_},
        dkernel_{C_ * 3 * H_},
        drecurrent_kernel_{H_ * 3 * H_},
        dbias_{3 * H_},
        drecurrent_bias_{3 * H_},
        dh0_{shape.batch * H_},
        reserve_{static_cast<std::int64_t>(forward_.reserve_bytes())},
        workspace_{static_cast<std::int64_t>(memory_of(Work::kInference).workspace)},
        training_workspace_{static_cast<std::int64_t>(memory_of(Work::kTrainingStep).workspace)} {
    float const bound = 1 / std::sqrt(static_cast<float>(H_));
    fill(x_, 1);
    fill(h0_, 1);
    fill(kernel_, bound);
    fill(recurrent_kernel_, bound);
    fill(bias_, bound);
    fill(recurrent_bias_, bound);
    fill(dh_, 1);
    fill(dfinal_state_, 1);
    enqueue(device.execution(), Work::kForward);  // so that backward has something to read
    check(cudaStreamSynchronize(stream_), "the first forward pass");
  }

  void enqueue(Execution const& execution, Work work) const {
    if (work == Work::kInference) {
      inference_.run(execution, weights(), outputs({}), {workspace_.data(), workspace_.bytes()});
    }
    if (work == Work::kForward || work == Work::kTrainingStep) {
      forward_.run(execution, weights(), outputs({reserve_.data(), reserve_.bytes()}),
                   training_workspace());
    }
    if (work == Work::kBackward || work == Work::kTrainingStep) {
      backward_.run(execution, weights(), gradients(), training_workspace());
    }
  }

  Memory memory_of(Work work) const {
    std::size_t const reserve = forward_.reserve_bytes();
    switch (work) {
      case Work::kInference:
        return {inference_.workspace_bytes(), 0};
      case Work::kForward:
        return {forward_.workspace_bytes(), reserve};
      case Work::kBackward:
        return {backward_.workspace_bytes(), reserve};
      case Work::kTrainingStep:
        return {std::max(forward_.workspace_bytes(), backward_.workspace_bytes()), reserve};
    }
    return {};
  }

  /// The engines that do the work, by name.
  std::string engine(Work work) const {
    switch (work) {
      case Work::kInference:
        return to_string(inference_.decision().engine);
      case Work::kForward:
        return to_string(forward_.decision().engine);
      case Work::kBackward:
        return to_string(backward_.decision().engine);
      case Work::kTrainingStep:
        return engine(Work::kForward) + ", " + engine(Work::kBackward);
    }
    return "unknown";
  }

 private:
  static Problem problem(Shape const& shape, Precision precision, bool keep) {
    Problem p;
    p.steps = shape.steps;
    p.batch = shape.batch;
    p.input_size = shape.input_size;
    p.hidden_size = shape.hidden_size;
    p.precision = precision;
    p.keep_for_backward = keep;
    return p;
  }

  void fill(DeviceBuffer<T> const& buffer, float bound) {
    auto const size = static_cast<std::int64_t>(buffer.bytes() / sizeof(T));
    constexpr unsigned kThreads = 256;
    auto const blocks = static_cast<unsigned>((size + kThreads - 1) / kThreads);
    fill_kernel<T><<<blocks, kThreads, 0, stream_>>>(buffer.data(), size, bound, ++seed_);
    check(cudaGetLastError(), "fill_kernel");
  }

  Weights<T> weights() const {
    Weights<T> w;
    w.kernel = kernel_.data();
    w.recurrent_kernel = recurrent_kernel_.data();
    w.bias = bias_.data();
    w.recurrent_bias = recurrent_bias_.data();
    return w;
  }

  ForwardTensors<T> outputs(Reserve reserve) const {
    ForwardTensors<T> t;
    t.x = x_.data();
    t.h0 = h0_.data();
    t.h = h_.data();
    t.final_state = final_state_.data();
    t.reserve = reserve;
    return t;
  }

  BackwardTensors<T> gradients() const {
    BackwardTensors<T> t;
    t.x = x_.data();
    t.h = h_.data();
    t.h0 = h0_.data();
    t.dh = dh_.data();
    t.dfinal_state = dfinal_state_.data();
    t.reserve = {reserve_.data(), reserve_.bytes()};
    t.dx = dx_.data();
    t.dkernel = dkernel_.data();
    t.drecurrent_kernel = drecurrent_kernel_.data();
    t.dbias = dbias_.data();
    t.drecurrent_bias = drecurrent_bias_.data();
    t.dh0 = dh0_.data();
    return t;
  }

  Workspace training_workspace() const {
    return {training_workspace_.data(), training_workspace_.bytes()};
  }

  ForwardPass<T> inference_;
  ForwardPass<T> forward_;
  BackwardPass<T> backward_;
  cudaStream_t stream_;
  std::int64_t C_;
  std::int64_t H_;
  std::uint64_t seed_ = 0;

  DeviceBuffer<T> x_;                  // [T, N, C]
  DeviceBuffer<T> h0_;                 // [N, H]
  DeviceBuffer<T> kernel_;             // [C, 3H]
  DeviceBuffer<T> recurrent_kernel_;   // [H, 3H]
  DeviceBuffer<T> bias_;               // [3H]
  DeviceBuffer<T> recurrent_bias_;     // [3H]
  DeviceBuffer<T> h_;                  // [T, N, H]
  DeviceBuffer<T> final_state_;        // [N, H]
  DeviceBuffer<T> dh_;                 // [T, N, H]
  DeviceBuffer<T> dfinal_state_;       // [N, H]
  DeviceBuffer<T> dx_;                 // [T, N, C]
  DeviceBuffer<T> dkernel_;            // [C, 3H]
  DeviceBuffer<T> drecurrent_kernel_;  // [H, 3H]
  DeviceBuffer<T> dbias_;              // [3H]
  DeviceBuffer<T> drecurrent_bias_;    // [3H]
  DeviceBuffer<T> dh0_;                // [N, H]
  DeviceBuffer<std::byte> reserve_;
  DeviceBuffer<std::byte> workspace_;
  DeviceBuffer<std::byte> training_workspace_;
};

/// How a case is run.
enum class Way {
  kPlain,  ///< enqueued anew each time
  kGraph,  ///< captured once, then replayed
};

/// Measures one case.
template <typename T>
void run_device_case(benchmark::State& state, Device& device, Shape const& shape,
                     std::string const& type, Precision precision, Work work, Way way,
                     Budget const& budget) {
  try {
    auto& layer = device.layer<DeviceLayer<T>>(type + '/' + shape.name, [&] {
      return std::make_shared<DeviceLayer<T>>(device, shape, precision);
    });
    Execution const execution = device.execution();
    auto const enqueue = [&] { layer.enqueue(execution, work); };
    Timing timing;
    if (way == Way::kGraph) {
      Graph const graph{execution.stream, enqueue};
      timing = repeat([&] { return device.time([&] { graph.launch(execution.stream); }); }, budget);
    } else {
      timing = repeat([&] { return device.time(enqueue); }, budget);
    }
    report(state, shape, timing, layer.memory_of(work));
    state.SetLabel(layer.engine(work));
  } catch (std::exception const& error) {
    state.SkipWithError(error.what());
  }
}

template <typename T>
void add_device_cases(char const* type, Precision precision, Device& device, Budget budget) {
  for (Shape const& shape : kShapes) {
    for (Work const work : kAllWork) {
      for (Way const way : {Way::kPlain, Way::kGraph}) {
        add_case(case_name(type, shape, work, way == Way::kGraph ? "graph" : "plain"),
                 [=, &device](benchmark::State& state) {
                   run_device_case<T>(state, device, shape, type, precision, work, way, budget);
                 });
      }
    }
  }
}

}  // namespace gru::bench
