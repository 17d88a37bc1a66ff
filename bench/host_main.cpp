// SPDX-License-Identifier: Apache-2.0
//
// Times the host engine through the public API. Takes the flags of Google Benchmark, and
// --budget_ms=MS; see bench/README.md.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gru/host.hpp>

#include "aligned_buffer.hpp"
#include "case.hpp"
#include "flags.hpp"

namespace gru::bench {
namespace {

/// One layer with its weights, inputs, outputs and gradients, all of them random.
template <typename T>
class HostLayer {
 public:
  explicit HostLayer(Shape const& s)
      : inference_{problem(s, false)},
        forward_{problem(s, true)},
        backward_{problem(s, true)},
        x_(random(s.steps * s.batch * s.input_size, 1)),
        h0_(random(s.batch * s.hidden_size, 1)),
        kernel_(random(s.input_size * 3 * s.hidden_size, weight_bound(s))),
        recurrent_kernel_(random(s.hidden_size * 3 * s.hidden_size, weight_bound(s))),
        bias_(random(3 * s.hidden_size, weight_bound(s))),
        recurrent_bias_(random(3 * s.hidden_size, weight_bound(s))),
        h_(random(s.steps * s.batch * s.hidden_size, 1)),
        final_state_(h0_),
        dh_(h_),
        dfinal_state_(h0_),
        dx_(x_),
        dkernel_(kernel_),
        drecurrent_kernel_(recurrent_kernel_),
        dbias_(bias_),
        drecurrent_bias_(bias_),
        dh0_(h0_),
        reserve_{forward_.reserve_bytes()},
        workspace_{memory_of(Work::kInference).workspace},
        training_workspace_{memory_of(Work::kTrainingStep).workspace} {
    run({}, Work::kForward);  // so that backward has something to read
  }
  HostLayer(HostLayer const&) = delete;
  HostLayer& operator=(HostLayer const&) = delete;

  void run(host::Execution const& execution, Work work) {
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

 private:
  static Problem problem(Shape const& s, bool keep) {
    Problem p;
    p.steps = s.steps;
    p.batch = s.batch;
    p.input_size = s.input_size;
    p.hidden_size = s.hidden_size;
    p.keep_for_backward = keep;
    return p;
  }

  static double weight_bound(Shape const& s) {
    return 1 / std::sqrt(static_cast<double>(s.hidden_size));
  }

  /// Values uniform in [-bound, bound).
  static std::vector<T> random(std::int64_t size, double bound) {
    static std::mt19937 generator;
    std::uniform_real_distribution<float> uniform{static_cast<float>(-bound),
                                                  static_cast<float>(bound)};
    std::vector<T> values(static_cast<std::size_t>(size));
    for (T& value : values) value = static_cast<T>(uniform(generator));
    return values;
  }

  Weights<T> weights() const {
    Weights<T> w;
    w.kernel = kernel_.data();
    w.recurrent_kernel = recurrent_kernel_.data();
    w.bias = bias_.data();
    w.recurrent_bias = recurrent_bias_.data();
    return w;
  }

  ForwardTensors<T> outputs(Reserve reserve) {
    ForwardTensors<T> t;
    t.x = x_.data();
    t.h0 = h0_.data();
    t.h = h_.data();
    t.final_state = final_state_.data();
    t.reserve = reserve;
    return t;
  }

  BackwardTensors<T> gradients() {
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

  host::ForwardPass<T> inference_;
  host::ForwardPass<T> forward_;
  host::BackwardPass<T> backward_;

  std::vector<T> x_;                  // [T, N, C]
  std::vector<T> h0_;                 // [N, H]
  std::vector<T> kernel_;             // [C, 3H]
  std::vector<T> recurrent_kernel_;   // [H, 3H]
  std::vector<T> bias_;               // [3H]
  std::vector<T> recurrent_bias_;     // [3H]
  std::vector<T> h_;                  // [T, N, H]
  std::vector<T> final_state_;        // [N, H]
  std::vector<T> dh_;                 // [T, N, H]
  std::vector<T> dfinal_state_;       // [N, H]
  std::vector<T> dx_;                 // [T, N, C]
  std::vector<T> dkernel_;            // [C, 3H]
  std::vector<T> drecurrent_kernel_;  // [H, 3H]
  std::vector<T> dbias_;              // [3H]
  std::vector<T> drecurrent_bias_;    // [3H]
  std::vector<T> dh0_;                // [N, H]
  AlignedBuffer reserve_;
  AlignedBuffer workspace_;
  AlignedBuffer training_workspace_;
};

/// Measures one case.
template <typename T>
void run_host_case(benchmark::State& state, host::Execution const& execution, Shape const& shape,
                   Work work, Budget const& budget) {
  try {
    HostLayer<T> layer{shape};
    auto const run = [&] { layer.run(execution, work); };
    Timing const timing = repeat([&] { return milliseconds_of(run); }, budget);
    report(state, shape, timing, layer.memory_of(work));
    state.SetLabel(to_string(Engine::kHost));
  } catch (std::exception const& error) {
    state.SkipWithError(error.what());
  }
}

template <typename T>
void add_host_cases(char const* type, host::Execution const& execution, char const* way,
                    Budget budget) {
  for (Shape const& shape : host_shapes()) {
    for (Work const work : kAllWork) {
      add_case(case_name(type, shape, work, way), [=](benchmark::State& state) {
        run_host_case<T>(state, execution, shape, work, budget);
      });
    }
  }
}

int run(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  Budget budget;
  if (!read_flags(argc, argv, budget)) return kUsage;
  add_version_context();
  unsigned const threads = std::max(1u, std::thread::hardware_concurrency());
  benchmark::AddCustomContext("threads", std::to_string(threads));
  host::ThreadPool pool{static_cast<int>(threads)};
  for (bool const serial : {true, false}) {
    host::Execution const execution = serial ? host::Execution{} : pool.execution();
    char const* const way = serial ? "serial" : "threads";
    add_host_cases<float>("fp32", execution, way, budget);
    add_host_cases<Eigen::bfloat16>("bf16", execution, way, budget);
  }
  bool const any = benchmark::RunSpecifiedBenchmarks() > 0;
  benchmark::ClearRegisteredBenchmarks();
  return any ? 0 : kNothingMatches;
}

}  // namespace
}  // namespace gru::bench

int main(int argc, char** argv) {
  try {
    return gru::bench::run(argc, argv);
  } catch (std::exception const& error) {
    std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
    return 1;
  }
}
