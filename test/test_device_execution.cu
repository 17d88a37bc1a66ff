// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "support/device_backend.cuh"
#include "support/options.hpp"
#include "support/tolerance.hpp"

/// How the device passes use streams, graphs, handles and memory.
namespace gru::test {
namespace {

/// Layers with every input that a run may bring; different data for each seed.
Layer rich_layer(Variant variant, DataType type, std::uint64_t seed) {
  Choices choices;
  choices.variant = variant;
  choices.lengths = true;
  choices.episode_starts = true;
  choices.zoneout = Choices::Masks::kDrawn;
  choices.dropconnect = Choices::Masks::kDrawn;
  choices.recurrent_dropout = Choices::Masks::kBrought;
  choices.random_by_pointer = true;
  return make_layer(choices, {7, 5, 9, 33}, type, seed);
}

/// Calls check(engine, variant) for every engine of the device and both variants.
template <typename T, typename Check>
void for_each_engine(Check check) {
  for (gru::Engine const engine : forward_engines<T>()) {
    for (Variant const variant : {Variant::kResetAfter, Variant::kResetBefore}) {
      INFO("engine: " << to_string(engine)
                      << (variant == Variant::kResetAfter ? ", reset after" : ", reset before"));
      check(engine, variant);
    }
  }
}

/// Memory that another object owns.
class BorrowedMemory final : public Memory {
 public:
  explicit BorrowedMemory(DeviceMemory* memory) : memory_{memory} {}

  std::byte* data() const override { return memory_->data(); }
  void write(RawBytes const& contents) override { memory_->write(contents); }
  RawBytes read() const override { return memory_->read(); }

 private:
  DeviceMemory* memory_;
};

/// A graph captured from what `enqueue` enqueues, in the mode that forbids every call that is not
/// safe in a capture, allocations among them.
class CapturedGraph {
 public:
  template <typename Enqueue>
  CapturedGraph(cudaStream_t stream, Enqueue enqueue) {
    check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "begin of capture");
    enqueue();
    cudaGraph_t graph = nullptr;
    check_cuda(cudaStreamEndCapture(stream, &graph), "end of capture");
    check_cuda(cudaGraphInstantiate(&executable_, graph, 0), "the graph");
    check_cuda(cudaGraphDestroy(graph), "the graph");
  }
  CapturedGraph(CapturedGraph const&) = delete;
  CapturedGraph& operator=(CapturedGraph const&) = delete;
  ~CapturedGraph() { cudaGraphExecDestroy(executable_); }

  void launch(cudaStream_t stream) const {
    check_cuda(cudaGraphLaunch(executable_, stream), "the graph's launch");
  }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

/// Captures the first forward and backward in graphs and replays these ever after. Memory is handed
/// out in the same order after each `rewind()`, so that the same kind of layer lies where the graph
/// expects it.
template <typename T>
class GraphBackend final : public DeviceBackend<T> {
  using D = typename DeviceBackend<T>::D;

 public:
  using DeviceBackend<T>::DeviceBackend;

  void rewind() { next_ = 0; }

  std::unique_ptr<Memory> allocate(std::size_t bytes) const override {
    if (next_ == memories_.size()) memories_.push_back(std::make_unique<DeviceMemory>(bytes));
    REQUIRE(memories_[next_]->read().size() == bytes);
    return std::make_unique<BorrowedMemory>(memories_[next_++].get());
  }
  void forward(Problem const& problem, Weights<T> const& weights, ForwardTensors<T> const& tensors,
               Workspace workspace) const override {
    if (forward_ == nullptr) {
      auto const pass = this->template make<ForwardPass<D>>(problem);
      forward_ = std::make_unique<CapturedGraph>(this->context().stream(), [&] {
        pass.run(this->context().execution(), Twin<T>::of(weights), Twin<T>::of(tensors),
                 workspace);
      });
      forward_h_ = tensors.h;
    }
    REQUIRE(tensors.h == forward_h_);
    forward_->launch(this->context().stream());
    this->context().synchronize();
  }
  void backward(Problem const& problem, Weights<T> const& weights,
                BackwardTensors<T> const& tensors, Workspace workspace) const override {
    if (backward_ == nullptr) {
      auto const pass = this->template make<BackwardPass<D>>(problem);
      backward_ = std::make_unique<CapturedGraph>(this->context().stream(), [&] {
        pass.run(this->context().execution(), Twin<T>::of(weights), Twin<T>::of(tensors),
                 workspace);
      });
      backward_dx_ = tensors.dx;
    }
    REQUIRE(tensors.dx == backward_dx_);
    backward_->launch(this->context().stream());
    this->context().synchronize();
  }

 private:
  mutable std::vector<std::unique_ptr<DeviceMemory>> memories_;
  mutable std::size_t next_ = 0;
  mutable std::unique_ptr<CapturedGraph> forward_;
  mutable std::unique_ptr<CapturedGraph> backward_;
  mutable T const* forward_h_ = nullptr;
  mutable T const* backward_dx_ = nullptr;
};

TEMPLATE_TEST_CASE("Device engine: a captured graph replays with new contents", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  for_each_engine<TestType>([](gru::Engine engine, Variant variant) {
    Engine const& plain = device_engine<TestType>(engine);
    GraphBackend<TestType> graphs{engine};
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
      INFO("seed " << seed);
      Layer const layer = rich_layer(variant, plain.type(), seed);
      graphs.rewind();
      check_same_bits(run_layer(graphs, layer), plain.run(layer));
    }
  });
}

__global__ void wait_kernel(long long nanoseconds) {
  long long begin = 0;
  long long now = 0;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
  do {
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  } while (now - begin < nanoseconds);
}

/// Runs each pass behind a long wait on its stream, after which x becomes what it should be. What
/// does not wait for the stream reads NaN.
template <typename T>
class LateBackend final : public DeviceBackend<T> {
  using D = typename DeviceBackend<T>::D;

 public:
  using DeviceBackend<T>::DeviceBackend;

  void forward(Problem const& problem, Weights<T> const& weights, ForwardTensors<T> const& tensors,
               Workspace workspace) const override {
    auto const pass = this->template make<ForwardPass<D>>(problem);
    run_late(problem, tensors.x, [&] {
      pass.run(this->context().execution(), Twin<T>::of(weights), Twin<T>::of(tensors), workspace);
    });
  }
  void backward(Problem const& problem, Weights<T> const& weights,
                BackwardTensors<T> const& tensors, Workspace workspace) const override {
    auto const pass = this->template make<BackwardPass<D>>(problem);
    run_late(problem, tensors.x, [&] {
      pass.run(this->context().execution(), Twin<T>::of(weights), Twin<T>::of(tensors), workspace);
    });
  }

 private:
  template <typename Run>
  void run_late(Problem const& p, T const* x, Run run) const {
    auto* const data = const_cast<T*>(x);
    std::size_t const bytes = static_cast<std::size_t>(p.steps * p.batch * p.input_size) *
                              sizeof(typename DeviceTwin<T>::type);
    DeviceMemory const copy{bytes};
    check_cuda(cudaMemcpy(copy.data(), data, bytes, cudaMemcpyDeviceToDevice), "x");
    // Once at once, so that the lazy loading of kernels does not wait behind the wait.
    run();
    this->context().synchronize();
    check_cuda(cudaMemset(data, 0xFF, bytes), "x");
    check_cuda(cudaDeviceSynchronize(), "the device");
    cudaStream_t const stream = this->context().stream();
    wait_kernel<<<1, 1, 0, stream>>>(100'000'000);
    check_cuda(cudaGetLastError(), "the wait");
    check_cuda(cudaMemcpyAsync(data, copy.data(), bytes, cudaMemcpyDeviceToDevice, stream), "x");
    run();
    CHECK(cudaStreamQuery(stream) == cudaErrorNotReady);
    this->context().synchronize();
  }
};

TEMPLATE_TEST_CASE("Device engine: all work is on the caller's stream, and run() does not wait", "",
                   float, Eigen::bfloat16) {
  for_each_engine<TestType>([](gru::Engine engine, Variant variant) {
    Engine const& plain = device_engine<TestType>(engine);
    LateBackend<TestType> const late{engine};
    Layer const layer = rich_layer(variant, plain.type(), 4);
    check_same_bits(run_layer(late, layer), plain.run(layer));
  });
}

/// A layer whose input product runs beside the recurrence, in memory of its own, at random.
template <typename T>
class OverlappedLayer {
 public:
  explicit OverlappedLayer(ForwardPass<T> const& pass)
      : pass_{pass},
        x_{bytes(p().steps * p().batch * p().input_size)},
        kernel_{bytes(p().input_size * 3 * p().hidden_size)},
        recurrent_kernel_{bytes(p().hidden_size * 3 * p().hidden_size)},
        lengths_{static_cast<std::size_t>(p().batch) * sizeof(std::int32_t)},
        h_{bytes(p().steps * p().batch * p().hidden_size)},
        workspace_{pass_.workspace_bytes()} {
    float const scale = 1 / std::sqrt(static_cast<float>(p().hidden_size));
    fill(x_, p().steps * p().batch * p().input_size, 1, 1);
    fill(kernel_, p().input_size * 3 * p().hidden_size, scale, 2);
    fill(recurrent_kernel_, p().hidden_size * 3 * p().hidden_size, scale, 3);
    std::vector<std::int32_t> lengths;
    for (std::int64_t n = 0; n < p().batch; ++n) {
      lengths.push_back(static_cast<std::int32_t>(p().steps - n));
    }
    check_cuda(cudaMemcpy(lengths_.data(), lengths.data(), lengths.size() * sizeof(std::int32_t),
                          cudaMemcpyHostToDevice),
               "cudaMemcpy");
    check_cuda(cudaDeviceSynchronize(), "the device");
  }

  DeviceMemory const& x() const { return x_; }

  void enqueue(Execution const& execution) const {
    Weights<T> weights;
    weights.kernel = reinterpret_cast<T*>(kernel_.data());
    weights.recurrent_kernel = reinterpret_cast<T*>(recurrent_kernel_.data());
    ForwardTensors<T> tensors;
    tensors.x = reinterpret_cast<T*>(x_.data());
    if (p().lengths) {
      tensors.lengths = reinterpret_cast<std::int32_t*>(lengths_.data());
    }
    tensors.h = reinterpret_cast<T*>(h_.data());
    pass_.run(execution, weights, tensors, {workspace_.data(), pass_.workspace_bytes()});
  }

  /// h, once the device is done; its memory is then cleared.
  RawBytes take_h() const {
    RawBytes const h = h_.read();
    check_cuda(cudaMemset(h_.data(), 0xFF, h.size()), "cudaMemset");
    check_cuda(cudaDeviceSynchronize(), "the device");
    return h;
  }

 private:
  Problem const& p() const { return pass_.problem(); }

  static std::size_t bytes(std::int64_t count) {
    return static_cast<std::size_t>(count) * sizeof(T);
  }
  /// Random values, over and over.
  static void fill(DeviceMemory& memory, std::int64_t count, float scale, unsigned seed) {
    std::mt19937 generator{seed};
    std::uniform_real_distribution<float> uniform{-scale, scale};
    std::vector<T> period(8191);
    for (T& value : period) value = detail::convert<T>(uniform(generator));
    for (std::int64_t i = 0; i < count; i += 8191) {
      std::int64_t const values = std::min<std::int64_t>(8191, count - i);
      check_cuda(cudaMemcpy(reinterpret_cast<T*>(memory.data()) + i, period.data(), bytes(values),
                            cudaMemcpyHostToDevice),
                 "cudaMemcpy");
    }
  }

  ForwardPass<T> const& pass_;
  DeviceMemory x_;
  DeviceMemory kernel_;
  DeviceMemory recurrent_kernel_;
  DeviceMemory lengths_;
  DeviceMemory h_;
  DeviceMemory workspace_;
};

/// Whether an engine can run the Problem on this device and cuts its steps for overlap.
template <typename Recurrence>
bool overlaps(Problem const& p) {
  detail::DeviceFacts const& facts = detail::current_device_facts();
  if (facts.compute_capability < Recurrence::kLeastComputeCapability) return false;
  Recurrence const recurrence{p, facts};
  if (!recurrence.obstacle().empty()) return false;
  auto const costs = overlap_costs(recurrence, p, facts);
  return detail::cut_for_overlap(p.steps, p.steps, costs).size() > 1;
}

TEMPLATE_TEST_CASE("Device engine: a second stream changes no bit, in a graph neither", "",
                   detail::ClusterRecurrence<__half>, detail::ClusterRecurrence<float>,
                   detail::GridRecurrence<__half>) {
  if (!has_device()) SKIP("no CUDA device");
  using T = typename TestType::Value;
  Problem p;
  p.steps = 301;
  bool const is_cluster = TestType::kEngine == gru::Engine::kCluster;
  p.batch = is_cluster ? 40 : 16;
  p.input_size = is_cluster ? 1024 : 4096;
  p.hidden_size = 264;
  p.direction = GENERATE(Direction::kForward, Direction::kReverse);
  p.lengths = GENERATE(false, true);
  p.engine = TestType::kEngine;
  p.overlap_products = true;
  p.workspace_limit = GENERATE(std::size_t{256}, std::size_t{24}) << 20;
  if (!overlaps<TestType>(p)) SKIP("the engine does not overlap here");

  DeviceContext const context;
  DeviceContext const other;
  Execution const plain = context.execution();
  Execution overlapped = plain;
  overlapped.second_stream = other.stream();
  ForwardPass<T> const pass{p};
  OverlappedLayer<T> const layer{pass};
  layer.enqueue(plain);
  RawBytes const expected = layer.take_h();
  for (int i = 0; i < 3; ++i) {
    layer.enqueue(overlapped);
    CHECK(layer.take_h() == expected);
  }
  CapturedGraph const graph{context.stream(), [&] { layer.enqueue(overlapped); }};
  for (int i = 0; i < 3; ++i) {
    graph.launch(context.stream());
    CHECK(layer.take_h() == expected);
  }

  SECTION("the second stream waits for the first, and the first for the second") {
    RawBytes const x = layer.x().read();
    DeviceMemory const copy{x.size()};
    DeviceMemory const h{expected.size()};
    check_cuda(cudaMemcpy(copy.data(), x.data(), x.size(), cudaMemcpyHostToDevice), "x");
    check_cuda(cudaMemset(layer.x().data(), 0xFF, x.size()), "x");
    check_cuda(cudaDeviceSynchronize(), "the device");
    wait_kernel<<<1, 1, 0, context.stream()>>>(50'000'000);
    check_cuda(cudaGetLastError(), "the wait");
    check_cuda(cudaMemcpyAsync(layer.x().data(), copy.data(), x.size(), cudaMemcpyDeviceToDevice,
                               context.stream()),
               "x");
    layer.enqueue(overlapped);
    CHECK(cudaStreamQuery(context.stream()) == cudaErrorNotReady);
    check_cuda(cudaMemsetAsync(layer.x().data(), 0xFF, x.size(), context.stream()), "x");
    CHECK(layer.take_h() == expected);
  }
  SECTION("two runs of one pass at once, each with its own streams") {
    OverlappedLayer<T> const second{pass};
    DeviceContext const third;
    DeviceContext const fourth;
    Execution execution = third.execution();
    execution.second_stream = fourth.stream();
    for (int i = 0; i < 3; ++i) {
      layer.enqueue(overlapped);
      second.enqueue(execution);
    }
    CHECK(layer.take_h() == expected);
    CHECK(second.take_h() == expected);
  }
}

/// Whether an engine can run the Problem on this device.
bool can_run(gru::Engine engine, Problem const& p) {
  std::vector<gru::Engine> const engines = forward_engines<float>(p);
  return std::find(engines.begin(), engines.end(), engine) != engines.end();
}

TEST_CASE("Device engine: a second stream is nothing to engines that run alone") {
  if (!has_device()) SKIP("no CUDA device");
  gru::Engine const engine = GENERATE(gru::Engine::kClusterFma, gru::Engine::kGridFma);
  INFO("engine: " << to_string(engine));
  Problem p;
  p.steps = 8000;  // so many that a product beside them would pay
  p.batch = 1;
  p.input_size = p.hidden_size = 128;
  p.overlap_products = GENERATE(false, true);
  if (!can_run(engine, p)) SKIP("the engine cannot run here");
  p.engine = engine;
  DeviceContext const context;
  DeviceContext const other;
  Execution execution = context.execution();
  ForwardPass<float> const pass{p};
  OverlappedLayer<float> const layer{pass};
  layer.enqueue(execution);
  RawBytes const expected = layer.take_h();
  execution.second_stream = other.stream();
  layer.enqueue(execution);
  CHECK(layer.take_h() == expected);
}

TEST_CASE("Device engine: a pass still runs once others of its kernels were made") {
  if (!has_device()) SKIP("no CUDA device");
  gru::Engine const engine = GENERATE(gru::Engine::kClusterFma, gru::Engine::kGridFma,
                                      gru::Engine::kCluster, gru::Engine::kGrid);
  INFO("engine: " << to_string(engine));
  bool const is_cluster = engine == gru::Engine::kClusterFma || engine == gru::Engine::kCluster;
  Problem p;
  p.steps = 20;
  p.batch = 1;
  p.input_size = 8;
  p.hidden_size = is_cluster ? 512 : 1536;
  if (!can_run(engine, p)) SKIP("the engine cannot run here");
  p.engine = engine;
  DeviceContext const context;
  ForwardPass<float> const pass{p};
  OverlappedLayer<float> const layer{pass};
  layer.enqueue(context.execution());
  RawBytes const expected = layer.take_h();
  for (std::int64_t const less : {1, 100, 256}) {
    Problem other = p;
    other.hidden_size -= less;
    ForwardPass<float> const smaller{other};
    layer.enqueue(context.execution());
    CHECK(layer.take_h() == expected);
  }
}

/// Compares the device's free memory before and after a run.
template <typename T>
class CountingBackend final : public DeviceBackend<T> {
  using D = typename DeviceBackend<T>::D;

 public:
  using DeviceBackend<T>::DeviceBackend;

  void forward(Problem const& problem, Weights<T> const& weights, ForwardTensors<T> const& tensors,
               Workspace workspace) const override {
    auto const pass = this->template make<ForwardPass<D>>(problem);
    check_allocates_nothing([&] {
      pass.run(this->context().execution(), Twin<T>::of(weights), Twin<T>::of(tensors), workspace);
    });
  }
  void backward(Problem const& problem, Weights<T> const& weights,
                BackwardTensors<T> const& tensors, Workspace workspace) const override {
    auto const pass = this->template make<BackwardPass<D>>(problem);
    check_allocates_nothing([&] {
      pass.run(this->context().execution(), Twin<T>::of(weights), Twin<T>::of(tensors), workspace);
    });
  }

 private:
  std::size_t free_bytes() const {
    std::size_t free = 0;
    std::size_t total = 0;
    this->context().synchronize();
    check_cuda(cudaMemGetInfo(&free, &total), "the free memory");
    return free;
  }

  template <typename Run>
  void check_allocates_nothing(Run run) const {
    run();  // loads the kernels
    // Other processes may allocate meanwhile, but hardly every time.
    bool is_equal = false;
    for (int attempt = 0; attempt < 20 && !is_equal; ++attempt) {
      std::size_t const before = free_bytes();
      run();
      is_equal = free_bytes() == before;
    }
    CHECK(is_equal);
  }
};

TEMPLATE_TEST_CASE("Device engine: run() allocates nothing", "", float, Eigen::half) {
  for_each_engine<TestType>([](gru::Engine engine, Variant variant) {
    CountingBackend<TestType> const counting{engine};
    Layer layer = rich_layer(variant, DataTypeOf<TestType>::value, 5);
    layer.problem.reserve = ReservePolicy::kKeep;  // so that backward may run again
    run_layer(counting, layer);
  });
}

/// A cuBLAS handle whose every setting is unusual.
template <typename T>
class UnusualHandleBackend final : public DeviceBackend<T> {
 public:
  explicit UnusualHandleBackend(gru::Engine engine) : DeviceBackend<T>{engine} {
    check_cublas(cublasSetStream(blas(), other_.stream()), "the handle's stream");
    check_cublas(cublasSetPointerMode(blas(), CUBLAS_POINTER_MODE_DEVICE), "its pointer mode");
    check_cublas(cublasSetMathMode(blas(), CUBLAS_TF32_TENSOR_OP_MATH), "its math mode");
    check_cublas(cublasSetAtomicsMode(blas(), CUBLAS_ATOMICS_ALLOWED), "its atomics mode");
  }

  void check_unchanged() const {
    cudaStream_t stream = nullptr;
    cublasPointerMode_t pointers = CUBLAS_POINTER_MODE_HOST;
    cublasMath_t math = CUBLAS_DEFAULT_MATH;
    cublasAtomicsMode_t atomics = CUBLAS_ATOMICS_NOT_ALLOWED;
    check_cublas(cublasGetStream(blas(), &stream), "the handle's stream");
    check_cublas(cublasGetPointerMode(blas(), &pointers), "its pointer mode");
    check_cublas(cublasGetMathMode(blas(), &math), "its math mode");
    check_cublas(cublasGetAtomicsMode(blas(), &atomics), "its atomics mode");
    CHECK(stream == other_.stream());
    CHECK(pointers == CUBLAS_POINTER_MODE_DEVICE);
    CHECK(math == CUBLAS_TF32_TENSOR_OP_MATH);
    CHECK(atomics == CUBLAS_ATOMICS_ALLOWED);
  }

 private:
  cublasHandle_t blas() const { return this->context().blas(); }

  DeviceContext other_;
};

TEMPLATE_TEST_CASE("Device engine: the cuBLAS handle's state is neither read nor written", "",
                   float, double, Eigen::half, Eigen::bfloat16) {
  for_each_engine<TestType>([](gru::Engine engine, Variant variant) {
    Engine const& plain = device_engine<TestType>(engine);
    UnusualHandleBackend<TestType> const unusual{engine};
    Layer const layer = rich_layer(variant, plain.type(), 6);
    check_same_bits(run_layer(unusual, layer), plain.run(layer));
    unusual.check_unchanged();
  });
}

}  // namespace
}  // namespace gru::test
