// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include <gru/detail/layer_products.cuh>
#include <gru/gru.cuh>

#include "support/device.hpp"
#include "support/device_backend.cuh"

/// The product of floats by parts, and the input product that uses it.
namespace gru::test {
namespace {

constexpr double kEpsilon = std::numeric_limits<float>::epsilon();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();

std::vector<float> random_values(std::int64_t count, unsigned seed) {
  std::mt19937 generator{seed};
  std::uniform_real_distribution<float> uniform{-1, 1};
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = uniform(generator);
  return values;
}

std::unique_ptr<DeviceMemory> on_device(std::vector<float> const& values) {
  auto memory = std::make_unique<DeviceMemory>(values.size() * sizeof(float));
  std::size_t const bytes = values.size() * sizeof(float);
  check_cuda(cudaMemcpy(memory->data(), values.data(), bytes, cudaMemcpyHostToDevice),
             "cudaMemcpy");
  return memory;
}

float* floats(DeviceMemory const& memory) {
  return reinterpret_cast<float*>(memory.data());
}

std::vector<float> from_device(DeviceMemory const& memory, std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  check_cuda(cudaDeviceSynchronize(), "the device");
  check_cuda(cudaMemcpy(values.data(), memory.data(), values.size() * sizeof(float),
                        cudaMemcpyDeviceToHost),
             "cudaMemcpy");
  return values;
}

/// Extents of a product A [rows, depth] B [depth, columns].
struct Extents {
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t depth;
};

/// A B by parts. B's memory is [depth, columns], or its transpose.
std::vector<float> multiply_by_parts(Extents const& e, std::vector<float> const& a,
                                     std::vector<float> const& b, bool transposed) {
  DeviceContext const context;
  auto const left = on_device(a);
  auto const right = on_device(b);
  detail::SplitProduct const product{
      {e.rows, e.columns, e.depth, e.columns}, detail::current_device_facts(), 0};
  auto const parts_of = [&](std::int64_t rows) {
    auto const count = detail::SplitProduct::part_count(rows, e.depth);
    return std::make_unique<DeviceMemory>(static_cast<std::size_t>(count) * sizeof(__nv_bfloat16));
  };
  auto const left_memory = parts_of(e.rows);
  auto const right_memory = parts_of(e.columns);
  DeviceMemory const d{static_cast<std::size_t>(e.rows * e.columns) * sizeof(float)};
  auto* const left_parts = reinterpret_cast<__nv_bfloat16*>(left_memory->data());
  auto* const right_parts = reinterpret_cast<__nv_bfloat16*>(right_memory->data());
  detail::SplitSource source;
  source.data = floats(*left);
  source.rows = {e.depth, 0};
  source.row_count = e.rows;
  source.depth = e.depth;
  detail::SplitProduct::split(context.stream(), source, detail::SplitSide::kLeft, left_parts);
  source.data = floats(*right);
  source.rows = {transposed ? e.depth : 1, 0};
  source.row_count = e.columns;
  source.depth_stride = transposed ? 1 : e.columns;
  detail::SplitProduct::split(context.stream(), source, detail::SplitSide::kRight, right_parts);
  product.run(context.execution(), left_parts, right_parts, floats(d), nullptr);
  context.synchronize();
  return from_device(d, e.rows * e.columns);
}

TEST_CASE("A product of floats by parts is as exact as sums in float are") {
  if (!has_device()) SKIP("no CUDA device");
  if (detail::current_device_facts().compute_capability < 80) SKIP("no bfloat16");
  auto const e = GENERATE(Extents{1, 1, 1}, Extents{3, 5, 7}, Extents{31, 33, 100},
                          Extents{64, 96, 513}, Extents{17, 40, 1025}, Extents{200, 24, 2048});
  bool const transposed = GENERATE(false, true);
  INFO("rows " << e.rows << ", columns " << e.columns << ", depth " << e.depth);
  auto const a = random_values(e.rows * e.depth, 1);
  auto const b = random_values(e.depth * e.columns, 2);
  auto const actual = multiply_by_parts(e, a, b, transposed);
  double worst = 0;
  double largest = 0;
  for (std::int64_t row = 0; row < e.rows; ++row) {
    for (std::int64_t column = 0; column < e.columns; ++column) {
      double exact = 0;
      for (std::int64_t k = 0; k < e.depth; ++k) {
        auto const at = transposed ? column * e.depth + k : k * e.columns + column;
        exact += double{a[static_cast<std::size_t>(row * e.depth + k)]} *
                 double{b[static_cast<std::size_t>(at)]};
      }
      double const got = actual[static_cast<std::size_t>(row * e.columns + column)];
      worst = std::max(worst, std::abs(got - exact));
      largest = std::max(largest, std::abs(exact));
    }
  }
  CHECK(worst <= kEpsilon * std::sqrt(static_cast<double>(e.depth)) * largest);
}

TEST_CASE("A product by parts passes infinity and NaN on as a plain product does") {
  if (!has_device()) SKIP("no CUDA device");
  if (detail::current_device_facts().compute_capability < 80) SKIP("no bfloat16");
  constexpr Extents kExtents{4, 2, 3};
  float const nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> const a{kInfinity,  0.1f,      0.2f,  //
                             -kInfinity, kInfinity, 0.3f,  //
                             nan,        0.4f,      0.5f,  //
                             kLargest,   0,         0};
  std::vector<float> const b{0.7f, -0.3f, 0.1f, 0.3f, 0.9f, 0.6f};
  auto const d = multiply_by_parts(kExtents, a, b, false);
  CHECK(d[0] == kInfinity);
  CHECK(d[1] == -kInfinity);
  CHECK(std::isnan(d[2]));
  CHECK(d[3] == kInfinity);
  CHECK(std::isnan(d[4]));
  CHECK(std::isnan(d[5]));
  CHECK(std::abs(d[6] / (0.7f * kLargest) - 1) <= kEpsilon);
  CHECK(std::abs(d[7] / (0.3f * -kLargest) - 1) <= kEpsilon);
}

/// h of a layer on the device.
std::vector<float> run_layer(Problem const& p, DeviceMemory const& x, DeviceMemory const& kernel,
                             DeviceMemory const& recurrent_kernel) {
  DeviceContext const context;
  ForwardPass<float> const pass{p};
  DeviceMemory const h{static_cast<std::size_t>(p.steps * p.batch * p.hidden_size) * sizeof(float)};
  DeviceMemory const workspace{pass.workspace_bytes()};
  CHECK(pass.workspace_bytes() <= p.workspace_limit);
  Weights<float> weights;
  weights.kernel = floats(kernel);
  weights.recurrent_kernel = floats(recurrent_kernel);
  ForwardTensors<float> tensors;
  tensors.x = floats(x);
  tensors.h = floats(h);
  pass.run(context.execution(), weights, tensors, {workspace.data(), pass.workspace_bytes()});
  context.synchronize();
  return from_device(h, p.steps * p.batch * p.hidden_size);
}

TEST_CASE("A layer whose input product is by parts gives what FFMA gives") {
  if (!has_device()) SKIP("no CUDA device");
  detail::DeviceFacts const& facts = detail::current_device_facts();
  Problem p;
  p.steps = 61;
  p.batch = 67;
  p.input_size = 509;
  p.hidden_size = 136;
  p.layout = GENERATE(Layout::kTimeMajor, Layout::kBatchMajor);
  p.direction = GENERATE(Direction::kForward, Direction::kReverse);
  p.weight_format.shape =
      GENERATE(WeightFormat::Shape::kInputByGates, WeightFormat::Shape::kGatesByInput);
  p.engine = gru::Engine::kStepwise;
  auto const limit = GENERATE(std::size_t{256}, std::size_t{48}, std::size_t{30});  // MiB
  p.workspace_limit = limit << 20;
  INFO("workspace limit " << limit << " MiB");
  if (detail::InputParts::choose<float>(p, facts, 0).gates() == 0) SKIP("the product is plain");
  auto const x = on_device(random_values(p.steps * p.batch * p.input_size, 3));
  float const scale = 1 / std::sqrt(static_cast<float>(p.hidden_size));
  auto const weight = [&](std::int64_t rows, unsigned seed) {
    auto values = random_values(rows * 3 * p.hidden_size, seed);
    for (float& value : values) value *= scale;
    return on_device(values);
  };
  auto const kernel = weight(p.input_size, 4);
  auto const recurrent_kernel = weight(p.hidden_size, 5);
  auto const actual = run_layer(p, *x, *kernel, *recurrent_kernel);
  p.precision = Precision::kFp32Strict;
  auto const expected = run_layer(p, *x, *kernel, *recurrent_kernel);
  double worst = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    worst = std::max(worst, std::abs(double{actual[i]} - double{expected[i]}));
  }
  double const terms = static_cast<double>(p.input_size + 3 * p.hidden_size + p.steps);
  CHECK(worst <= 4 * kEpsilon * std::sqrt(terms));
}

}  // namespace
}  // namespace gru::test
