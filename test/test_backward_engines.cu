// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include <cuda_fp16.h>

#include <gru/gru.cuh>

#include "support/computation.hpp"
#include "support/device_backend.cuh"
#include "support/options.hpp"
#include "support/tolerance.hpp"

/// Training on every engine of the device, each asked for by name, over shapes. All pairs of
/// options are in test_device_engines.cu.
namespace gru::test {
namespace {

/// Forward and backward with what makes steps, rows and units differ.
Choices rich(Direction direction) {
  Choices choices;
  choices.direction = direction;
  choices.lengths = choices.episode_starts = true;
  choices.zoneout = choices.recurrent_dropout = Choices::Masks::kDrawn;
  return choices;
}

template <typename Computation>
void check_training(Sizes const& sizes, std::uint64_t seed) {
  check_engines<Computation>({}, sizes, seed);
  check_engines<Computation>(rich(Direction::kForward), sizes, seed);
  check_engines<Computation>(rich(Direction::kReverse), sizes, seed);
}

TEMPLATE_TEST_CASE("Every engine trains with every hidden size", "[training]", Half, Bfloat16, Fp32,
                   Fp32Strict, Tf32) {
  std::int64_t const H =
      GENERATE(1, 2, 7, 15, 16, 17, 31, 33, 48, 63, 65, 96, 127, 128, 129, 160, 191, 255, 256, 257);
  check_training<TestType>({5, 3, 4, H}, 11);
}

TEMPLATE_TEST_CASE("Every engine trains with every batch", "[training]", Half, Bfloat16, Fp32,
                   Fp32Strict, Tf32) {
  std::int64_t const N = GENERATE(1, 2, 3, 7, 8, 9, 15, 16, 17, 24, 25, 33, 64, 65, 127, 250);
  check_training<TestType>({6, N, 3, 40}, 12);
  check_engines<TestType>({}, {3, N, 4, 200}, 12);
}

TEMPLATE_TEST_CASE("Every engine trains with every number of steps", "[training]", Half, Bfloat16,
                   Fp32, Fp32Strict, Tf32) {
  std::int64_t const T = GENERATE(0, 1, 2, 3, 4, 5, 8, 17, 200);
  check_training<TestType>({T, 9, 3, 48}, 13);
  check_engines<TestType>(rich(Direction::kForward), {T, 1, 2, 130}, 13);
}

TEMPLATE_TEST_CASE("Every engine trains where the engines' limits are", "[training]", Half,
                   Bfloat16, Fp32, Fp32Strict, Tf32) {
  std::int64_t const H = GENERATE(383, 384, 385, 511, 512, 513, 767, 768, 769, 1024, 1025);
  Choices choices = H < 1000 ? rich(Direction::kForward) : Choices{};
  if (H < 1000) choices.dropconnect = Choices::Masks::kDrawn;
  check_engines<TestType>(choices, {4, 3, 5, H}, 14);
}

TEMPLATE_TEST_CASE("Every engine trains where the largest limits are", "[training]", Half, Fp32,
                   Tf32) {
  std::int64_t const H = GENERATE(1535, 1536, 1537, 2048, 2049, 3072, 3073);
  check_engines<TestType>({}, {3, 3, 5, H}, 14);
}

TEMPLATE_TEST_CASE("Every engine trains where R does not fit on the chip", "[training]", Half,
                   Bfloat16, Tf32) {
  std::int64_t const H = std::is_same_v<TestType, Tf32> ? 1551 : 2065;
  std::int64_t const N = GENERATE(9, 35);  // 35 takes two launches
  Choices choices = rich(Direction::kForward);
  choices.dropconnect = Choices::Masks::kDrawn;
  check_engines<TestType>(choices, {24, N, 3, H}, 14);
}

TEMPLATE_TEST_CASE("Every engine trains where the batch takes turns", "[training]", Half, Bfloat16,
                   Fp32, Fp32Strict, Tf32) {
  // More rows than the chip has room for at once.
  check_training<TestType>({5, 500, 3, 33}, 15);
  check_engines<TestType>({}, {4, 300, 3, 257}, 15);
  check_engines<TestType>({}, {3, 1500, 2, 100}, 15);
  check_engines<TestType>(rich(Direction::kReverse), {3, 700, 2, 385}, 15);
  check_engines<TestType>({}, {3, 190, 3, 800}, 15);
}

TEMPLATE_TEST_CASE("Every engine trains where backward's steps come in chunks", "[training]", Half,
                   Bfloat16, Fp32, Fp32Strict, Tf32) {
  using T = typename TestType::Type;
  std::int64_t const chunk = GENERATE(2, 3, 4, 17);
  Choices choices = rich(GENERATE(Direction::kForward, Direction::kReverse));
  choices.dropconnect = Choices::Masks::kDrawn;
  Layer layer = make_layer<TestType>(choices, {40, 11, 5, 70}, 16);
  std::vector<gru::Engine> const engines = forward_engines<T>(layer.problem);
  Results const expected = exact(layer);
  for (gru::Engine const engine : engines) {
    INFO("engine: " << to_string(engine) << "; about " << chunk << " steps a chunk");
    Problem one_chunk = layer.problem;
    one_chunk.workspace_limit = Problem{}.workspace_limit;
    one_chunk.steps = chunk;
    Engine const& by = device_engine<T>(engine);
    layer.problem.workspace_limit =
        std::max(by.forward_bytes(one_chunk).workspace, by.backward_bytes(one_chunk).workspace);
    check_close(by.run(layer), expected, layer, DataTypeOf<T>::value);
  }
}

TEMPLATE_TEST_CASE("A gate near 1 keeps its gradient on every engine", "[training]", Half, Bfloat16,
                   Fp32, Tf32) {
  Choices choices;
  choices.update_bias = 6;
  check_engines<TestType>(choices, {60, 9, 8, 64}, 17);
  check_engines<TestType>(choices, {30, 3, 8, 300}, 17);
}

/// Passes run with a second stream.
template <typename T>
class OverlappingBackend final : public DeviceBackend<T> {
  using D = typename DeviceBackend<T>::D;

 public:
  explicit OverlappingBackend(gru::Engine engine) : DeviceBackend<T>{engine} {
    check_cuda(cudaStreamCreateWithFlags(&second_stream_, cudaStreamNonBlocking), "a stream");
  }
  ~OverlappingBackend() override { cudaStreamDestroy(second_stream_); }

  void backward(Problem const& problem, Weights<T> const& weights,
                BackwardTensors<T> const& tensors, Workspace workspace) const override {
    Execution execution = this->context().execution();
    execution.second_stream = second_stream_;
    this->template make<BackwardPass<D>>(problem).run(execution, Twin<T>::of(weights),
                                                      Twin<T>::of(tensors), workspace);
    this->context().synchronize();
    check(workspace, this->context().stream());
    // Nothing is left on it.
    check_cuda(cudaStreamQuery(second_stream_), "the second stream");
  }

 private:
  cudaStream_t second_stream_ = nullptr;
};

TEMPLATE_TEST_CASE("Products beside the steps give the host engine's gradients", "[training]", Half,
                   Fp32, Tf32) {
  using T = typename TestType::Type;
  Choices choices = rich(GENERATE(Direction::kForward, Direction::kReverse));
  choices.reserve = GENERATE(ReservePolicy::kKeep, ReservePolicy::kOverwrite);
  Layer layer = make_layer<TestType>(choices, {400, 40, 200, 128}, 18);
  layer.problem.overlap_products = true;
  std::vector<gru::Engine> const engines = forward_engines<T>(layer.problem);
  Results const expected = exact(layer);
  for (gru::Engine const engine : engines) {
    INFO("engine: " << to_string(engine));
    OverlappingBackend<T> const overlapping{engine};
    Results const beside = run_layer(overlapping, layer);
    check_close(beside, expected, layer, DataTypeOf<T>::value);
    CHECK(device_engine<T>(engine).run(layer).drecurrent_kernel == beside.drecurrent_kernel);
  }
}

}  // namespace
}  // namespace gru::test
