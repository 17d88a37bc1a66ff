// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "support/computation.hpp"
#include "support/device_backend.cuh"

/// Whether the engine that the policy chooses is as fast as the fastest. Hidden, since it measures:
/// run it with the tag [.policy] on a device that nobody else uses. It prints what was predicted
/// and what was measured, a line of CSV for each engine and shape.
namespace gru::test {
namespace {

/// Uniform values in +-magnitude, different for each seed.
template <typename D>
__global__ void fill_kernel(D* values, std::size_t count, float magnitude, std::uint64_t seed) {
  std::size_t const i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x;
  if (i >= count) return;
  PhiloxWords const words = philox(seed, 0, i);
  float const unit = static_cast<float>(words.word[0]) * 0x1p-31f - 1;
  values[i] = static_cast<D>(magnitude * unit);
}

template <typename D>
class RandomArray {
 public:
  RandomArray(std::int64_t count, double magnitude, std::uint64_t seed)
      : memory_{static_cast<std::size_t>(count) * sizeof(D)} {
    auto const blocks = static_cast<unsigned>((count + 255) / 256);
    fill_kernel<D><<<blocks, 256>>>(data(), static_cast<std::size_t>(count),
                                    static_cast<float>(magnitude), seed);
    check_cuda(cudaDeviceSynchronize(), "random values");
  }

  D* data() const { return reinterpret_cast<D*>(memory_.data()); }
  std::size_t bytes() const { return memory_.bytes(); }

 private:
  DeviceMemory memory_;
};

/// The median time of a replay of what `enqueue` enqueues, in microseconds.
template <typename Enqueue>
double measure_us(cudaStream_t stream, Enqueue enqueue) {
  constexpr int kRepeats = 9;
  enqueue();  // loads the kernels
  check_cuda(cudaStreamSynchronize(stream), "the stream");
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "begin of capture");
  enqueue();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  check_cuda(cudaStreamEndCapture(stream, &graph), "end of capture");
  check_cuda(cudaGraphInstantiate(&executable, graph, 0), "the graph");
  cudaEvent_t events[kRepeats + 1];
  for (cudaEvent_t& event : events) check_cuda(cudaEventCreate(&event), "an event");
  for (int i = 0; i < 2; ++i) check_cuda(cudaGraphLaunch(executable, stream), "the launch");
  for (int i = 0; i <= kRepeats; ++i) {
    check_cuda(cudaEventRecord(events[i], stream), "an event");
    if (i < kRepeats) check_cuda(cudaGraphLaunch(executable, stream), "the launch");
  }
  check_cuda(cudaStreamSynchronize(stream), "the stream");
  std::vector<float> times(kRepeats);
  for (int i = 0; i < kRepeats; ++i) {
    check_cuda(cudaEventElapsedTime(&times[static_cast<std::size_t>(i)], events[i], events[i + 1]),
               "the time");
  }
  for (cudaEvent_t const event : events) cudaEventDestroy(event);
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  std::nth_element(times.begin(), times.begin() + kRepeats / 2, times.end());
  return 1e3 * times[kRepeats / 2];
}

/// A layer of this shape with random data on the device.
template <typename Computation>
class RandomLayer {
 public:
  using D = typename DeviceTwin<typename Computation::Type>::type;

  RandomLayer(Sizes const& s, Variant variant) : sizes_{s}, variant_{variant} {}

  Problem problem() const {
    Problem p;
    p.steps = sizes_.T;
    p.batch = sizes_.N;
    p.input_size = sizes_.C;
    p.hidden_size = sizes_.H;
    p.precision = Computation::kPrecision;
    p.variant = variant_;
    return p;
  }
  Weights<D> weights() const {
    return {kernel_.data(), recurrent_kernel_.data(), bias_.data(), bias_.data()};
  }
  ForwardTensors<D> forward() const {
    ForwardTensors<D> tensors;
    tensors.x = x_.data();
    tensors.h = h_.data();
    return tensors;
  }

 private:
  Sizes sizes_;
  Variant variant_;
  double magnitude_ = 1 / std::sqrt(static_cast<double>(sizes_.H));
  RandomArray<D> x_{sizes_.T * sizes_.N * sizes_.C, 1, 1};
  RandomArray<D> kernel_{sizes_.C * 3 * sizes_.H, magnitude_, 2};
  RandomArray<D> recurrent_kernel_{sizes_.H * 3 * sizes_.H, magnitude_, 3};
  RandomArray<D> bias_{3 * sizes_.H, magnitude_, 4};
  RandomArray<D> h_{sizes_.T * sizes_.N * sizes_.H, 1, 5};
};

/// What backward reads and writes beside it.
template <typename D>
class BackwardData {
 public:
  explicit BackwardData(Problem const& p)
      : reserve_{reserve_values(p), 1, 6},
        dh_{p.steps * p.batch * p.hidden_size, 1, 7},
        dx_{p.steps * p.batch * p.input_size, 0, 8},
        dkernel_{p.input_size * 3 * p.hidden_size, 0, 9},
        drecurrent_kernel_{p.hidden_size * 3 * p.hidden_size, 0, 10},
        dbias_{3 * p.hidden_size, 0, 11} {}

  BackwardTensors<D> tensors(ForwardTensors<D> const& forward) const {
    BackwardTensors<D> t;
    t.x = forward.x;
    t.h = forward.h;
    t.dh = dh_.data();
    t.reserve = {reserve_.data(), reserve_.bytes()};
    t.dx = dx_.data();
    t.dkernel = dkernel_.data();
    t.drecurrent_kernel = drecurrent_kernel_.data();
    t.dbias = dbias_.data();
    t.drecurrent_bias = dbias_.data();
    return t;
  }

 private:
  RandomArray<D> reserve_, dh_, dx_, dkernel_, drecurrent_kernel_, dbias_;
};

/// Measures every candidate of a pass, prints them, and tells by how much the choice loses. `run`
/// enqueues a run of a pass with some workspace.
template <typename Pass, typename Run>
double loss_of_choice(char const* computation, Problem p, DeviceContext const& context, Run run) {
  Decision const decision = Pass{p}.decision();
  double chosen = 0;
  double best = INFINITY;
  for (Candidate const& c : decision.candidates) {
    if (!c.can_run) continue;
    p.engine = c.engine;
    Pass const pass{p};
    DeviceMemory const workspace{pass.workspace_bytes()};
    double const us = measure_us(context.stream(), [&] {
      run(pass, Workspace{workspace.data(), pass.workspace_bytes()});
    });
    check({workspace.data(), pass.workspace_bytes()}, context.stream());
    bool const is_choice = c.engine == decision.engine;
    if (is_choice) chosen = us;
    best = std::min(best, us);
    std::cout << computation << ',' << p.steps << ',' << p.batch << ',' << p.input_size << ','
              << p.hidden_size << ',' << to_string(c.engine) << ',' << c.predicted_us << ',' << us
              << ',' << (is_choice ? "chosen" : "") << std::endl;
  }
  return chosen / best;
}

template <typename Computation>
double loss_forward(char const* computation, Sizes const& sizes, Variant variant,
                    DeviceContext const& context) {
  RandomLayer<Computation> const layer{sizes, variant};
  using Pass = ForwardPass<typename RandomLayer<Computation>::D>;
  return loss_of_choice<Pass>(
      computation, layer.problem(), context, [&](Pass const& pass, Workspace workspace) {
        pass.run(context.execution(), layer.weights(), layer.forward(), workspace);
      });
}

template <typename Computation>
double loss_backward(char const* computation, Sizes const& sizes, Variant variant,
                     DeviceContext const& context) {
  using D = typename RandomLayer<Computation>::D;
  using Pass = BackwardPass<D>;
  RandomLayer<Computation> const layer{sizes, variant};
  Problem p = layer.problem();
  p.keep_for_backward = true;
  BackwardData<D> const data{p};
  return loss_of_choice<Pass>(computation, p, context, [&](Pass const& pass, Workspace workspace) {
    pass.run(context.execution(), layer.weights(), data.tensors(layer.forward()), workspace);
  });
}

struct Shape {
  std::int64_t N, C, H;
};

/// The batch from 1 up at each size that an engine is made for.
std::vector<Shape> const kShapes{
    {1, 64, 64},      {1, 256, 256},    {1, 512, 512},    {1, 1024, 1024},  {1, 1536, 1536},
    {1, 2048, 2048},  {4, 128, 128},    {4, 512, 512},    {4, 1024, 1024},  {8, 768, 768},
    {8, 2048, 2048},  {16, 256, 256},   {16, 1024, 1024}, {32, 512, 512},   {32, 100, 200},
    {64, 128, 128},   {64, 256, 256},   {64, 512, 512},   {64, 768, 768},   {64, 1024, 1024},
    {64, 2048, 2048}, {256, 256, 256},  {256, 512, 512},  {512, 128, 128},  {512, 1024, 1024},
    {8, 2304, 2304},  {32, 2816, 2816}, {1024, 64, 64},   {1024, 256, 256}, {4096, 64, 64},
    {4096, 256, 256}};

/// Of the variant that resets before the product.
std::vector<Shape> const kResetBeforeShapes{{1, 256, 256},    {1, 1024, 1024},  {8, 768, 768},
                                            {16, 1024, 1024}, {8, 2048, 2048},  {64, 512, 512},
                                            {64, 1024, 1024}, {256, 512, 512},  {64, 2048, 2048},
                                            {256, 768, 768},  {512, 1024, 1024}};

/// Calls loss(name, computation, sizes, variant) for every shape and way of computing, and fails
/// where the choice loses over 10%.
template <typename Loss>
void check_choices(Loss loss) {
  std::cout << "type,T,N,C,H,engine,predicted_us,measured_us,chosen" << std::setprecision(5)
            << std::endl;
  std::vector<std::string> wrong;
  int count = 0;
  auto const check_shape = [&](char const* name, auto computation, Sizes const& sizes,
                               Variant variant = Variant::kResetAfter) {
    double const lost = loss(name, computation, sizes, variant);
    ++count;
    if (lost <= 1.1) return;
    std::ostringstream text;
    text << name << ", " << to_string(sizes) << ": " << lost << " of the fastest";
    wrong.push_back(text.str());
  };
  for (Shape const& shape : kShapes) {
    for (std::int64_t const T : {1, 10, 100}) {
      // Short runs of a few shapes tell what it takes to start.
      if (T < 100 && (shape.N > 64 || shape.H % 512 != 0)) continue;
      Sizes const sizes{T, shape.N, shape.C, shape.H};
      check_shape("half", Half{}, sizes);
      check_shape("tf32", Tf32{}, sizes);
      check_shape("fp32", Fp32{}, sizes);
      if (shape.N <= 16) check_shape("fp32_strict", Fp32Strict{}, sizes);
      if (T == 100 && shape.N >= 64) check_shape("bfloat16", Bfloat16{}, sizes);
    }
  }
  for (Shape const& shape : kResetBeforeShapes) {
    Sizes const sizes{100, shape.N, shape.C, shape.H};
    check_shape("half_reset_before", Half{}, sizes, Variant::kResetBefore);
    check_shape("tf32_reset_before", Tf32{}, sizes, Variant::kResetBefore);
    check_shape("fp32_reset_before", Fp32{}, sizes, Variant::kResetBefore);
  }
  std::cout << wrong.size() << " of " << count << " shapes go by an engine that loses over 10%\n";
  for (std::string const& shape : wrong) std::cout << "  " << shape << '\n';
  CHECK(count >= 60);
  CHECK(wrong.empty());
}

TEST_CASE("The engine that the policy chooses is within 10% of the fastest", "[.policy]") {
  if (!has_device()) SKIP("no CUDA device");
  DeviceContext const context;
  check_choices([&](char const* name, auto computation, Sizes const& sizes, Variant variant) {
    return loss_forward<decltype(computation)>(name, sizes, variant, context);
  });
}

TEST_CASE("The engine that the policy chooses backward is within 10% of the fastest",
          "[.policy_backward]") {
  if (!has_device()) SKIP("no CUDA device");
  DeviceContext const context;
  check_choices([&](char const* name, auto computation, Sizes const& sizes, Variant variant) {
    return loss_backward<decltype(computation)>(name, sizes, variant, context);
  });
}

}  // namespace
}  // namespace gru::test
