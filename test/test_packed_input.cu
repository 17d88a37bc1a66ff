// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include <gru/detail/packed_input.cuh>

#include "support/on_device.cuh"

/// The input product of the rows that are within their lengths.
namespace gru::test {
namespace {

/// Lengths from below 0 to beyond T.
std::vector<std::int32_t> some_lengths(std::int64_t T, std::int64_t N) {
  std::mt19937 dice{7};
  std::uniform_int_distribution<std::int32_t> length{-1, static_cast<std::int32_t>(T) + 1};
  std::vector<std::int32_t> lengths(static_cast<std::size_t>(N));
  for (std::int32_t& l : lengths) l = length(dice);
  return lengths;
}

template <typename T>
std::vector<T> some_values(std::int64_t count) {
  std::mt19937 dice{8};
  std::uniform_real_distribution<float> value{-1, 1};
  std::vector<T> values(static_cast<std::size_t>(count));
  for (T& v : values) v = detail::convert<T>(value(dice));
  return values;
}

TEMPLATE_TEST_CASE("Rows within their lengths are packed, sample by sample", "[sanitize]", float,
                   __half) {
  if (!has_device()) SKIP("no CUDA device");
  using T = TestType;
  Problem p;
  p.steps = 40;
  p.batch = GENERATE(1, 9, 300);
  p.input_size = GENERATE(1, 7, 24, 520);
  p.layout = GENERATE(Layout::kTimeMajor, Layout::kBatchMajor);
  p.pitch.x = p.input_size + GENERATE(0, 1, 8);
  p.lengths = p.host_lengths = true;
  std::int64_t const first_time = GENERATE(0, 13);
  std::int64_t const steps = 20;
  INFO("N " << p.batch << ", C " << p.input_size << ", pitch " << p.pitch.x << ", from "
            << first_time);

  std::vector<std::int32_t> const lengths = some_lengths(p.steps, p.batch);
  std::vector<T> const x = some_values<T>(p.steps * p.batch * p.pitch.x);
  detail::Rows const rows = detail::sequence_rows(p, p.pitch.x, p.input_size);
  std::vector<float> expected;
  std::vector<std::int32_t> expected_first;
  for (std::int64_t n = 0; n < p.batch; ++n) {
    expected_first.push_back(static_cast<std::int32_t>(expected.size()) /
                             static_cast<std::int32_t>(p.input_size));
    std::int64_t const length = lengths[static_cast<std::size_t>(n)];
    for (std::int64_t t = first_time; t < std::min({length, p.steps, first_time + steps}); ++t) {
      for (std::int64_t k = 0; k < p.input_size; ++k) {
        expected.push_back(detail::convert<float>(x[static_cast<std::size_t>(rows.at(t, n) + k)]));
      }
    }
  }
  auto const packed_rows = static_cast<std::int64_t>(expected.size()) / p.input_size;
  CHECK(detail::rows_within(p, lengths.data(), first_time, steps) == packed_rows);

  OnDevice<T> const from{x};
  OnDevice<std::int32_t> const given{lengths};
  OnDevice<T> const packed{some_values<T>(steps * p.batch * p.input_size)};
  OnDevice<std::int32_t> const first_rows{std::vector<std::int32_t>(expected_first.size(), -1)};
  detail::Schedule schedule;
  schedule.steps = p.steps;
  schedule.lengths = given.data();
  detail::launch_pack_rows(nullptr, p, schedule, first_time, steps,
                           from.data() + rows.at(first_time, 0), packed.data(), first_rows.data());
  CHECK(first_rows.read() == expected_first);
  std::vector<float> actual;
  for (T const value : packed.read()) actual.push_back(detail::convert<float>(value));
  actual.resize(expected.size());
  CHECK(actual == expected);
}

TEMPLATE_TEST_CASE("Packed rows are multiplied in pieces, as many as hold any", "", float, __half) {
  if (!has_device()) SKIP("no CUDA device");
  using T = TestType;
  Problem p;
  p.steps = 500;
  p.batch = 21;
  p.input_size = 24;
  p.hidden_size = 16;
  p.precision = GENERATE(Precision::kFp32, Precision::kTf32);
  p.lengths = p.host_lengths = true;
  std::int64_t const all = p.steps * p.batch;  // in three pieces
  detail::DeviceFacts const& facts = detail::current_device_facts();
  auto const parts = detail::InputParts::choose<T>(p, facts, 0);
  detail::PackedInputProduct<T> const product{p, parts, p.steps, facts,
                                              detail::kMostProductWorkspace};
  CHECK(product.spares(0));
  CHECK(product.spares(4096));
  CHECK(product.spares(8192));
  CHECK_FALSE(product.spares(8193));
  CHECK_FALSE(product.spares(all));

  std::vector<T> const x = some_values<T>(all * p.input_size);
  std::vector<T> const kernel = some_values<T>(p.input_size * 3 * p.hidden_size);
  OnDevice<T> const x_on_device{x};
  OnDevice<T> const kernel_on_device{kernel};
  detail::Carver size;
  parts.lay_out(size, p, p.steps);
  DeviceMemory const parts_memory{size.bytes() + 256};
  detail::Carver carver{parts_memory.data()};
  detail::InputParts::Scratch const scratch = parts.lay_out(carver, p, p.steps);
  DeviceMemory const workspace{product.workspace_bytes() + 256};
  cublasHandle_t blas = nullptr;
  REQUIRE(cublasCreate(&blas) == CUBLAS_STATUS_SUCCESS);
  for (std::int64_t const rows :
       {std::int64_t{0}, std::int64_t{1}, std::int64_t{4096}, std::int64_t{5000}, all - 1, all}) {
    INFO(rows << " rows");
    constexpr float kUntouched = 1e6f;
    OnDevice<float> const result{
        std::vector<float>(static_cast<std::size_t>(all * 3 * p.hidden_size), kUntouched)};
    Execution execution;
    execution.blas = blas;
    product.run(execution, x_on_device.data(), rows,
                detail::kernel_matrix<T>(p, kernel_on_device.data()), result.data(), scratch,
                workspace.data());
    std::vector<float> const actual = result.read();
    double const tolerance = p.precision == Precision::kTf32 ? 1e-2 : 1e-5;
    double worst = 0;
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t j = 0; j < 3 * p.hidden_size; ++j) {
        double sum = 0;
        for (std::int64_t k = 0; k < p.input_size; ++k) {
          sum +=
              double{detail::convert<float>(x[static_cast<std::size_t>(row * p.input_size + k)])} *
              detail::convert<float>(kernel[static_cast<std::size_t>(k * 3 * p.hidden_size + j)]);
        }
        double const got = actual[static_cast<std::size_t>(row * 3 * p.hidden_size + j)];
        worst = std::max(worst, std::abs(got - sum));
      }
    }
    CHECK(worst <= tolerance);
    if (rows <= 8192) CHECK(actual.back() == kUntouched);
  }
  cublasDestroy(blas);
}

}  // namespace
}  // namespace gru::test
