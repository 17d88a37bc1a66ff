// SPDX-License-Identifier: Apache-2.0
#include <cuda_runtime.h>

#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cstdint>
#include <gru/random.hpp>
#include <vector>

#include "checks/random.hpp"
#include "support/device.hpp"

using namespace gru::test;

namespace {

/// Counters spread over the whole range, 0 and the largest among them.
GRU_HOST_DEVICE std::uint64_t spread(std::uint64_t i) {
  return i % 2 == 0 ? i * 0x9E3779B97F4A7C15u : ~(i * 0x9E3779B97F4A7C15u);
}

GRU_HOST_DEVICE gru::PhiloxWords draw(std::uint64_t i) {
  return gru::philox(spread(i + 1), spread(i + 2), spread(i));
}

/// words [count, 4]
__global__ void draw_all(std::uint64_t count, std::uint32_t* words) {
  std::uint64_t const i = blockIdx.x * std::uint64_t{blockDim.x} + threadIdx.x;
  if (i >= count) return;
  gru::PhiloxWords const w = draw(i);
  for (int k = 0; k < 4; ++k) words[4 * i + k] = w.word[k];
}

}  // namespace

TEST_CASE("device and host draw the same bits", "[random][device]") {
  if (!has_device()) SKIP("no CUDA device");
  std::uint64_t const count = 10007;
  std::vector<std::uint32_t> expected;
  for (std::uint64_t i = 0; i < count; ++i) {
    for (std::uint32_t const word : draw(i).word) expected.push_back(word);
  }
  std::uint32_t* words = nullptr;
  REQUIRE(cudaMalloc(&words, expected.size() * sizeof(std::uint32_t)) == cudaSuccess);
  draw_all<<<(count + 255) / 256, 256>>>(count, words);
  std::vector<std::uint32_t> drawn(expected.size());
  CHECK(cudaMemcpy(drawn.data(), words, drawn.size() * sizeof(std::uint32_t),
                   cudaMemcpyDeviceToHost) == cudaSuccess);
  CHECK(cudaFree(words) == cudaSuccess);
  CHECK(drawn == expected);
}

TEMPLATE_TEST_CASE("the device engine draws the defined masks, forward and backward",
                   "[random][device]", float, double, Eigen::half, Eigen::bfloat16) {
  check_drawn_masks_are_the_defined_ones(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("zoneout keeps the state of the device engine where its mask says so",
                   "[random][device]", float, double) {
  check_zoneout_is_seen(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("DropConnect drops the weights of the device engine that its mask names",
                   "[random][device]", float, double) {
  check_dropconnect_is_seen(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("recurrent dropout drops the units of the device engine that its mask names",
                   "[random][device]", float, double) {
  check_recurrent_dropout_is_seen(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("seed and offset choose the masks of the device engine", "[random][device]",
                   float, double) {
  check_seed_and_offset_matter(device_engine<TestType>());
}
