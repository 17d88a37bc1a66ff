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

#include <gru/detail/gradient_products.cuh>
#include <gru/gru.cuh>

#include "support/device.hpp"
#include "support/device_backend.cuh"

/// The product of floats by parts, and the products of layers that use it.
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

/// The largest error of `actual` as A B + beta * `before`, and the largest exact value.
struct Accuracy {
  double error = 0;
  double value = 0;

  Accuracy(Extents const& e, std::vector<float> const& a, std::vector<float> const& b,
           bool transposed, std::vector<float> const& actual, double beta = 0,
           std::vector<float> const& before = {}) {
    for (std::int64_t row = 0; row < e.rows; ++row) {
      for (std::int64_t column = 0; column < e.columns; ++column) {
        auto const i = static_cast<std::size_t>(row * e.columns + column);
        double exact = beta == 0 ? 0 : beta * double{before[i]};
        for (std::int64_t k = 0; k < e.depth; ++k) {
          auto const at = transposed ? column * e.depth + k : k * e.columns + column;
          exact += double{a[static_cast<std::size_t>(row * e.depth + k)]} *
                   double{b[static_cast<std::size_t>(at)]};
        }
        error = std::max(error, std::abs(double{actual[i]} - exact));
        value = std::max(value, std::abs(exact));
      }
    }
  }
};

TEST_CASE("A product of floats by parts is as exact as sums in float are") {
  if (!has_device()) SKIP("no CUDA device");
  if (detail::current_device_facts().compute_capability < 80) SKIP("no bfloat16");
  auto const e = GENERATE(Extents{1, 1, 1}, Extents{3, 5, 7}, Extents{31, 33, 100},
                          Extents{64, 96, 513}, Extents{17, 40, 1025}, Extents{200, 24, 2048});
  bool const transposed = GENERATE(false, true);
  INFO("rows " << e.rows << ", columns " << e.columns << ", depth " << e.depth);
  auto const a = random_values(e.rows * e.depth, 1);
  auto const b = random_values(e.depth * e.columns, 2);
  Accuracy const accuracy{e, a, b, transposed, multiply_by_parts(e, a, b, transposed)};
  CHECK(accuracy.error <= kEpsilon * std::sqrt(static_cast<double>(e.depth)) * accuracy.value);
}

/// How a product of parts that other products share is made.
struct SharedWay {
  bool along_rows = false;
  detail::PartOrder order_of_a = detail::PartOrder::kLargeFirst;
  std::int64_t sums = 1;
};

/// A B + beta * before by parts that other products share; B's memory is [depth, columns].
std::vector<float> multiply_shared(Extents const& e, SharedWay const& way,
                                   std::vector<float> const& a, std::vector<float> const& b,
                                   double beta, std::vector<float> const& before) {
  DeviceContext const context;
  auto const left = on_device(a);
  auto const right = on_device(b);
  auto const d = on_device(before);
  detail::SplitSource a_source;
  a_source.data = floats(*left);
  detail::SplitSource b_source;
  b_source.data = floats(*right);
  if (way.along_rows) {  // parts of A^T and B
    a_source.rows = {1, 0};
    a_source.depth_stride = e.depth;
    b_source.rows = {e.columns, 0};
    a_source.row_count = b_source.row_count = e.depth;
    a_source.depth = e.rows;
    b_source.depth = e.columns;
  } else {  // of A and B^T
    a_source.rows = {e.depth, 0};
    b_source.rows = {1, 0};
    b_source.depth_stride = e.columns;
    a_source.row_count = e.rows;
    b_source.row_count = e.columns;
    a_source.depth = b_source.depth = e.depth;
  }
  detail::SharedParts const a_parts{a_source.row_count, a_source.depth};
  detail::SharedParts const b_parts{b_source.row_count, b_source.depth};
  detail::DeviceFacts const& facts = detail::current_device_facts();
  detail::ProductShape shape;
  shape.m = e.rows;
  shape.n = e.columns;
  shape.a = {1};
  shape.d = {e.columns};
  auto const product = way.along_rows
                           ? detail::SharedProduct::along_rows(shape, a_parts, b_parts,
                                                               way.order_of_a, way.sums, facts, 0)
                           : detail::SharedProduct::along_width(shape, a_parts, b_parts, facts, 0);
  auto const memory_of = [](detail::SplitSource const& source) {
    auto const values = detail::SharedParts::room(source.row_count, source.depth);
    return std::make_unique<DeviceMemory>(static_cast<std::size_t>(values) * sizeof(__nv_bfloat16));
  };
  auto const a_memory = memory_of(a_source);
  auto const b_memory = memory_of(b_source);
  auto* const a_values = reinterpret_cast<__nv_bfloat16*>(a_memory->data());
  auto* const b_values = reinterpret_cast<__nv_bfloat16*>(b_memory->data());
  DeviceMemory const sums{static_cast<std::size_t>(way.sums * e.rows * e.columns) * sizeof(float)};
  bool const a_is_first = way.order_of_a == detail::PartOrder::kLargeFirst;
  a_parts.split(context.stream(), a_source, way.order_of_a, a_values);
  b_parts.split(context.stream(), b_source,
                a_is_first ? detail::PartOrder::kSmallFirst : detail::PartOrder::kLargeFirst,
                b_values);
  product.run(context.execution(), a_values, b_values, beta, floats(*d), floats(sums), nullptr);
  context.synchronize();
  return from_device(*d, e.rows * e.columns);
}

TEST_CASE("A product of shared parts is as exact as sums in float are") {
  if (!has_device()) SKIP("no CUDA device");
  if (detail::current_device_facts().compute_capability < 80) SKIP("no bfloat16");
  auto const e =
      GENERATE(Extents{1, 1, 1}, Extents{3, 5, 7}, Extents{31, 33, 100}, Extents{64, 96, 513},
               Extents{17, 40, 1025}, Extents{40, 24, 4099}, Extents{24, 16, 20000});
  using detail::PartOrder;
  auto const way = GENERATE(
      SharedWay{false, PartOrder::kLargeFirst, 1}, SharedWay{true, PartOrder::kLargeFirst, 1},
      SharedWay{true, PartOrder::kSmallFirst, 1}, SharedWay{true, PartOrder::kSmallFirst, 4},
      SharedWay{true, PartOrder::kLargeFirst, 16});
  double const beta = GENERATE(0.0, 1.0);
  INFO("rows " << e.rows << ", columns " << e.columns << ", depth " << e.depth << ", along rows "
               << way.along_rows << ", sums " << way.sums << ", beta " << beta);
  auto const a = random_values(e.rows * e.depth, 1);
  auto const b = random_values(e.depth * e.columns, 2);
  auto const before = beta == 0 ? std::vector<float>(static_cast<std::size_t>(e.rows * e.columns),
                                                     std::numeric_limits<float>::quiet_NaN())
                                : random_values(e.rows * e.columns, 3);
  Accuracy const accuracy{e,    a,     b, false, multiply_shared(e, way, a, b, beta, before),
                          beta, before};
  CHECK(accuracy.error <= kEpsilon * std::sqrt(static_cast<double>(e.depth)) * accuracy.value);
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
  std::vector<float> const before(8, nan);
  using detail::PartOrder;
  auto const d =
      GENERATE_COPY(multiply_by_parts(kExtents, a, b, false),
                    multiply_shared(kExtents, {false, PartOrder::kLargeFirst, 1}, a, b, 0, before),
                    multiply_shared(kExtents, {true, PartOrder::kLargeFirst, 1}, a, b, 0, before),
                    multiply_shared(kExtents, {true, PartOrder::kSmallFirst, 2}, a, b, 0, before));
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

/// The gradients that backward's products make.
struct Gradients {
  std::vector<float> dx;  // [T, N, C]
  std::vector<float> dkernel;
  std::vector<float> drecurrent_kernel;
};

/// What the products of backward multiply, on the device.
struct GradientOperands {
  float const* gradients;  // [T * N, 4H]
  float const* x;
  float const* kernel;
  float const* states;  // [T * N, H] what multiplied R
};

/// The products, the steps in two chunks, added to `before` where that is asked for.
Gradients run_gradient_products(Problem const& p, GradientOperands const& operands,
                                detail::GradientParts const& parts, Gradients const& before,
                                bool accumulates) {
  DeviceContext const context;
  detail::DeviceFacts const& facts = detail::current_device_facts();
  std::int64_t const C = p.input_size;
  std::int64_t const H = p.hidden_size;
  std::int64_t const N = p.batch;
  std::int64_t const first_steps = p.steps * 2 / 3;
  std::int64_t const g = detail::GateColumns::g;
  bool const after = p.variant == Variant::kResetAfter;
  detail::Carver counting;
  parts.lay_out(counting, p, first_steps);
  DeviceMemory const memory{std::max<std::size_t>(1, counting.bytes())};
  detail::Carver carver{memory.data()};
  auto const scratch = parts.lay_out(carver, p, first_steps);
  auto const dx = on_device(before.dx);
  auto const dkernel = on_device(before.dkernel);
  auto const drecurrent_kernel = on_device(before.drecurrent_kernel);
  detail::Rows const x_rows = detail::sequence_rows(p, 0, C);
  for (std::int64_t const begin : {std::int64_t{0}, first_steps}) {
    std::int64_t const steps = begin == 0 ? first_steps : p.steps - first_steps;
    double const beta = begin == 0 && !accumulates ? 0 : 1;
    detail::InputGradient<float> const input{p, parts, steps, facts, 0};
    auto const weight_gradient = [&](detail::WeightBlocks blocks, std::int64_t in_pitch) {
      std::int64_t const in = detail::block_rows(p, blocks);
      return detail::WeightGradient<float>{p,          parts,    blocks,
                                           steps,      in_pitch, detail::by_input(p) ? 3 * H : in,
                                           CUDA_R_32F, facts,    0};
    };
    float const* const gradients = operands.gradients + begin * N * 4 * H;
    float const* const states = operands.states + begin * N * H;
    float const* const x = operands.x + x_rows.at(begin, 0);
    detail::WeightMatrix<float> const kernel = detail::kernel_matrix<float>(p, operands.kernel);
    parts.split_gradients(context.stream(), p, steps, gradients, scratch);
    input.run(context.execution(), gradients, kernel, accumulates ? 1 : 0,
              floats(*dx) + x_rows.at(begin, 0), scratch, nullptr);
    parts.split_input(context.stream(), p, steps, x, scratch);
    weight_gradient(detail::WeightBlocks::kKernel, C)
        .run(context.execution(), x, gradients, beta, floats(*dkernel), scratch, nullptr);
    parts.split_recurrent_operands(context.stream(), p, steps, states, scratch);
    weight_gradient(detail::WeightBlocks::kRecurrentGates, H)
        .run(context.execution(), states, gradients, beta, floats(*drecurrent_kernel), scratch,
             nullptr);
    detail::WeightMatrix<float> const place = detail::recurrent_matrix<float>(p, nullptr);
    weight_gradient(detail::WeightBlocks::kRecurrentCandidate, after ? H : 4 * H)
        .run(context.execution(), after ? states : gradients + 3 * H,
             gradients + (after ? 3 : g) * H, beta, floats(*drecurrent_kernel) + place.block(g),
             scratch, nullptr);
  }
  context.synchronize();
  return {from_device(*dx, p.steps * N * C), from_device(*dkernel, 3 * C * H),
          from_device(*drecurrent_kernel, 3 * H * H)};
}

/// [N, T, C] from [T, N, C].
std::vector<float> batch_major(Problem const& p, std::vector<float> const& values) {
  std::vector<float> result(values.size());
  for (std::int64_t t = 0; t < p.steps; ++t) {
    for (std::int64_t n = 0; n < p.batch; ++n) {
      std::copy_n(values.begin() + (t * p.batch + n) * p.input_size, p.input_size,
                  result.begin() + (n * p.steps + t) * p.input_size);
    }
  }
  return result;
}

void check_close(std::vector<float> const& actual, std::vector<float> const& expected,
                 std::int64_t depth) {
  double worst = 0;
  double largest = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    worst = std::max(worst, std::abs(double{actual[i]} - double{expected[i]}));
    largest = std::max(largest, std::abs(double{expected[i]}));
  }
  CHECK(worst <= 2 * kEpsilon * std::sqrt(static_cast<double>(depth)) * largest);
}

TEST_CASE("The products of backward by parts give what FFMA gives") {
  if (!has_device()) SKIP("no CUDA device");
  detail::DeviceFacts const& facts = detail::current_device_facts();
  Problem p;
  p.steps = 251;
  p.batch = 33;
  p.input_size = 520;
  p.hidden_size = 648;
  p.workspace_limit = std::size_t{1} << 30;
  p.variant = GENERATE(Variant::kResetAfter, Variant::kResetBefore);
  p.weight_format.shape =
      GENERATE(WeightFormat::Shape::kInputByGates, WeightFormat::Shape::kGatesByInput);
  bool const is_batch_major = GENERATE(false, true);
  bool const accumulates = GENERATE(false, true);
  INFO("batch-major " << is_batch_major << ", accumulates " << accumulates);
  auto const parts = detail::GradientParts::choose<float>(p, facts, 0, 0);
  if (!parts.any()) SKIP("the products are plain");
  CHECK(parts.dx());
  CHECK(parts.dkernel());
  CHECK(parts.makes(detail::WeightBlocks::kRecurrentGates));
  std::int64_t const C = p.input_size;
  std::int64_t const H = p.hidden_size;
  std::int64_t const rows = p.steps * p.batch;
  auto const x_values = random_values(rows * C, 1);
  auto const x = on_device(x_values);
  auto const x_batch_major = on_device(batch_major(p, x_values));
  auto const gradients = on_device(random_values(rows * 4 * H, 2));
  auto const states = on_device(random_values(rows * H, 3));
  auto const kernel = on_device(random_values(3 * C * H, 4));
  Gradients before{random_values(rows * C, 5), random_values(3 * C * H, 6),
                   random_values(3 * H * H, 7)};
  GradientOperands operands{floats(*gradients), floats(*x), floats(*kernel), floats(*states)};
  Problem plain = p;
  plain.precision = Precision::kFp32Strict;
  auto expected = run_gradient_products(plain, operands, {}, before, accumulates);
  if (is_batch_major) {
    p.layout = Layout::kBatchMajor;
    operands.x = floats(*x_batch_major);
    before.dx = batch_major(p, before.dx);
    expected.dx = batch_major(p, expected.dx);
  }
  auto const actual = run_gradient_products(p, operands, parts, before, accumulates);
  check_close(actual.dx, expected.dx, 3 * H);
  check_close(actual.dkernel, expected.dkernel, rows);
  check_close(actual.drecurrent_kernel, expected.drecurrent_kernel, rows);
}

}  // namespace
}  // namespace gru::test
