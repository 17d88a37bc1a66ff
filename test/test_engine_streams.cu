// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>

#include <memory>
#include <vector>

#include "support/computation.hpp"
#include "support/device_backend.cuh"
#include "support/green_context.cuh"
#include "support/tolerance.hpp"

/// Every engine beside other work: kernels whose blocks wait for each other must neither hang nor
/// give other numbers, whatever else the device does.
namespace gru::test {
namespace {

/// A stream of some priority.
class Stream {
 public:
  explicit Stream(int priority = 0) {
    check_cuda(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, priority), "a stream");
  }
  Stream(Stream const&) = delete;
  Stream& operator=(Stream const&) = delete;
  ~Stream() { cudaStreamDestroy(stream_); }

  cudaStream_t get() const { return stream_; }
  void synchronize() const { check_cuda(cudaStreamSynchronize(stream_), "the stream"); }

 private:
  cudaStream_t stream_ = nullptr;
};

/// A forward pass by one engine with inputs and outputs of its own, for any stream.
template <typename Computation>
class Run {
  using T = typename Computation::Type;
  using D = typename DeviceTwin<T>::type;

 public:
  Run(gru::Engine engine, Sizes const& sizes, std::uint64_t seed)
      : pass_{problem(engine, sizes)}, workspace_{pass_.workspace_bytes()} {
    Layer const layer = make_layer<Computation>({}, sizes, seed);
    x_ = upload(layer.x);
    h0_ = upload(layer.h0);
    kernel_ = upload(layer.kernel);
    recurrent_kernel_ = upload(layer.recurrent_kernel);
    bias_ = upload(layer.bias);
    h_ = std::make_unique<DeviceMemory>(static_cast<std::size_t>(sizes.T * sizes.N * sizes.H) *
                                        sizeof(D));
  }

  static Problem problem(gru::Engine engine, Sizes const& sizes) {
    Problem p;
    p.steps = sizes.T;
    p.batch = sizes.N;
    p.input_size = sizes.C;
    p.hidden_size = sizes.H;
    p.precision = Computation::kPrecision;
    p.engine = engine;
    return p;
  }

  void enqueue(cublasHandle_t blas, cudaStream_t stream) const {
    Weights<D> weights;
    weights.kernel = at(kernel_);
    weights.recurrent_kernel = at(recurrent_kernel_);
    weights.bias = at(bias_);
    ForwardTensors<D> tensors;
    tensors.x = at(x_);
    tensors.h0 = OrFloat<D const>{at(h0_)};
    tensors.h = reinterpret_cast<D*>(h_->data());
    pass_.run({blas, stream}, weights, tensors, {workspace_.data(), pass_.workspace_bytes()});
  }

  /// Forgets what the last run gave.
  void poison() const { h_->write(RawBytes(h_->bytes(), kPoison)); }

  /// Waits for the stream, throws where the run gave up, and returns h.
  RawBytes finish(cudaStream_t stream) const {
    gru::check({workspace_.data(), pass_.workspace_bytes()}, stream);
    return h_->read();
  }

  /// h of a run with nothing beside it.
  RawBytes alone(cublasHandle_t blas, Stream const& stream) const {
    poison();
    enqueue(blas, stream.get());
    RawBytes h = finish(stream.get());
    poison();
    return h;
  }

 private:
  static std::unique_ptr<DeviceMemory> upload(Values const& values) {
    std::vector<D> typed;
    for (double const value : values) typed.push_back(static_cast<D>(static_cast<float>(value)));
    RawBytes bytes(typed.size() * sizeof(D));
    std::memcpy(bytes.data(), typed.data(), bytes.size());
    auto memory = std::make_unique<DeviceMemory>(bytes.size());
    memory->write(bytes);
    return memory;
  }
  static D const* at(std::unique_ptr<DeviceMemory> const& memory) {
    return reinterpret_cast<D const*>(memory->data());
  }

  ForwardPass<D> pass_;
  DeviceMemory workspace_;
  std::unique_ptr<DeviceMemory> x_, h0_, kernel_, recurrent_kernel_, bias_, h_;
};

/// The engines that can run these sizes.
template <typename Computation>
std::vector<gru::Engine> engines_of(Sizes const& sizes) {
  Problem const p = Run<Computation>::problem(gru::Engine::kAutomatic, sizes);
  return forward_engines<typename Computation::Type>(p);
}

/// Few rows, which leave room on the chip, and more than fill it. Long enough to meet.
std::vector<Sizes> const kSizes{{300, 1, 16, 200}, {150, 90, 16, 256}, {60, 500, 16, 120}};

TEMPLATE_TEST_CASE("Two runs at once on two streams give what each gives alone", "", Half, Fp32) {
  for (Sizes const& sizes : kSizes) {
    std::vector<gru::Engine> const engines = engines_of<TestType>(sizes);
    DeviceContext const context;
    Stream const streams[2];
    for (std::size_t a = 0; a < engines.size(); ++a) {
      for (std::size_t b = a; b < engines.size(); ++b) {
        INFO(to_string(sizes) << ": " << to_string(engines[a]) << " and " << to_string(engines[b]));
        Run<TestType> const runs[2] = {{engines[a], sizes, 1}, {engines[b], sizes, 2}};
        RawBytes const expected[2] = {runs[0].alone(context.blas(), streams[0]),
                                      runs[1].alone(context.blas(), streams[1])};
        for (int turn = 0; turn < 6; ++turn) {
          for (int i = 0; i < 2; ++i) runs[i].enqueue(context.blas(), streams[i].get());
        }
        for (int i = 0; i < 2; ++i) {
          RawBytes const h = runs[i].finish(streams[i].get());
          CHECK(h == expected[i]);
        }
      }
    }
  }
}

/// Makes a device the current one as long as it lives.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) {
    check_cuda(cudaGetDevice(&before_), "the device");
    check_cuda(cudaSetDevice(device), "the device");
  }
  CurrentDevice(CurrentDevice const&) = delete;
  CurrentDevice& operator=(CurrentDevice const&) = delete;
  ~CurrentDevice() { cudaSetDevice(before_); }

 private:
  int before_ = 0;
};

TEMPLATE_TEST_CASE("Runs on two devices at once give the same", "", Half, Fp32) {
  int devices = 0;
  if (has_device()) check_cuda(cudaGetDeviceCount(&devices), "the devices");
  if (devices < 2) SKIP("fewer than two CUDA devices");
  for (Sizes const& sizes : kSizes) {
    for (gru::Engine const engine : engines_of<TestType>(sizes)) {
      INFO(to_string(sizes) << ": " << to_string(engine));
      std::unique_ptr<DeviceContext> contexts[2];
      std::unique_ptr<Run<TestType>> runs[2];
      RawBytes h[2];
      auto const enqueue = [&](int i) {
        runs[i]->enqueue(contexts[i]->blas(), contexts[i]->stream());
      };
      auto const on_each = [](auto const& act) {
        for (int i = 0; i < 2; ++i) {
          CurrentDevice const current{i};
          act(i);
        }
      };
      on_each([&](int i) {
        contexts[i] = std::make_unique<DeviceContext>();
        runs[i] = std::make_unique<Run<TestType>>(engine, sizes, 1);
        runs[i]->poison();
      });
      for (int turn = 0; turn < 6; ++turn) on_each(enqueue);
      on_each([&](int i) { h[i] = runs[i]->finish(contexts[i]->stream()); });
      CHECK(h[0] == h[1]);
      // A pass belongs to the device that was current when it was made.
      CHECK_THROWS_AS(enqueue(1), InvalidArgument);
    }
  }
}

/// Keeps its blocks on the device for so many nanoseconds.
__global__ void spin_kernel(long long nanoseconds) {
  long long begin = 0;
  long long now = 0;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
  do {
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  } while (now - begin < nanoseconds);
}

/// Blocks so large that nothing fits beside one on its multiprocessor.
void spin(int blocks, long long nanoseconds, Stream const& stream) {
  int bytes = 0;
  check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0),
             "the shared memory");
  check_cuda(cudaFuncSetAttribute(spin_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "the shared memory");
  spin_kernel<<<static_cast<unsigned>(blocks), 1024, static_cast<std::size_t>(bytes),
                stream.get()>>>(nanoseconds);
  check_cuda(cudaGetLastError(), "the spinning kernel");
}

TEMPLATE_TEST_CASE("A spinning kernel on another stream delays a run and does not break it", "",
                   Half, Fp32) {
  int multiprocessors = 0;
  if (has_device()) {
    check_cuda(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0),
               "the multiprocessors");
  }
  for (Sizes const& sizes : kSizes) {
    for (gru::Engine const engine : engines_of<TestType>(sizes)) {
      INFO(to_string(sizes) << ": " << to_string(engine));
      DeviceContext const context;
      Stream const own;
      Run<TestType> const run{engine, sizes, 3};
      RawBytes const expected = run.alone(context.blas(), own);
      int least = 0;
      int greatest = 0;
      check_cuda(cudaDeviceGetStreamPriorityRange(&least, &greatest), "the priorities");
      for (int const priority : {least, greatest}) {
        Stream const other{priority};
        for (int const blocks : {multiprocessors, multiprocessors / 2, 1}) {
          INFO(blocks << " spinning blocks, priority " << priority);
          spin(blocks, 5'000'000, other);
          run.enqueue(context.blas(), own.get());
          spin(blocks, 2'000'000, other);
          run.enqueue(context.blas(), own.get());
          CHECK(run.finish(own.get()) == expected);
          other.synchronize();
          run.poison();
        }
      }
    }
  }
}

TEMPLATE_TEST_CASE("Runs on streams of every priority give the same, one by one and at once", "",
                   Half, Fp32) {
  for (Sizes const& sizes : kSizes) {
    for (gru::Engine const engine : engines_of<TestType>(sizes)) {
      INFO(to_string(sizes) << ": " << to_string(engine));
      DeviceContext const context;
      int least = 0;
      int greatest = 0;
      check_cuda(cudaDeviceGetStreamPriorityRange(&least, &greatest), "the priorities");
      Stream const streams[2] = {Stream{least}, Stream{greatest}};
      Run<TestType> const runs[2] = {{engine, sizes, 4}, {engine, sizes, 4}};
      RawBytes const expected = runs[0].alone(context.blas(), streams[0]);
      CHECK(runs[1].alone(context.blas(), streams[1]) == expected);
      for (int turn = 0; turn < 4; ++turn) {
        for (int i = 0; i < 2; ++i) runs[i].enqueue(context.blas(), streams[i].get());
      }
      for (int i = 0; i < 2; ++i) CHECK(runs[i].finish(streams[i].get()) == expected);
    }
  }
}

#if CUDART_VERSION >= 12050

TEMPLATE_TEST_CASE("With fewer multiprocessors a run ends, or is refused", "[green]", Half, Fp32) {
  using T = typename TestType::Type;
  if (!has_device()) SKIP("no CUDA device");
  Choices choices;
  choices.lengths = true;
  for (Sizes const& sizes : std::vector<Sizes>{{20, 1, 8, 200}, {12, 90, 8, 256}, {6, 9, 8, 700}}) {
    Layer const layer = make_layer<TestType>(choices, sizes, 5);
    Results const expected = exact(layer);
    for (gru::Engine const engine : forward_engines<T>(layer.problem)) {
      for (unsigned const wanted : {8u, 16u, 40u, 100u}) {
        GreenContext const some{wanted};
        INFO(to_string(sizes) << ": " << to_string(engine) << " on " << some.multiprocessors()
                              << " multiprocessors");
        DeviceBackend<T> const backend{engine};
        try {
          check_close(run_layer(backend, layer), expected, layer, DataTypeOf<T>::value);
        } catch (DeviceError const& refusal) {
          cudaGetLastError();  // is known
          WARN(to_string(engine) << " on " << some.multiprocessors()
                                 << " multiprocessors: " << refusal.what());
        }
      }
    }
  }
}

#endif

}  // namespace
}  // namespace gru::test
