// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <cmath>
#include <memory>
#include <vector>

#include <cuda_fp16.h>

#include <gru/detail/cluster_forward.cuh>
#include <gru/gru.cuh>

#include "support/computation.hpp"
#include "support/device.hpp"
#include "support/device_backend.cuh"
#include "support/options.hpp"

/// The variant that resets before the product, where it has a kernel of its own: two exchanges a
/// step, and operands of two kinds.
namespace gru::test {

/// A cluster that waits for more bytes than anyone sends: every wait expires.
using FedReset = detail::ClusterShape<__half, 8, 2, 2, 0>;
struct StarvedReset : FedReset {
  static constexpr int kOperands = FedReset::kOperands + 128;

  static constexpr int reset_before_bytes(int tiles) {
    return FedReset::reset_before_bytes(tiles) + tiles * 3 * 128;
  }
};

namespace {

/// Reset before, with or without what makes steps, rows and units differ.
Choices reset_before(bool rich, Direction direction = Direction::kForward) {
  Choices choices;
  choices.variant = Variant::kResetBefore;
  choices.keep_for_backward = rich;
  choices.direction = direction;
  choices.lengths = choices.episode_starts = rich;
  if (rich) choices.zoneout = choices.recurrent_dropout = Choices::Masks::kDrawn;
  return choices;
}

TEMPLATE_TEST_CASE("Reset before gives the host engine's numbers for sizes at every limit", "",
                   Half, Bfloat16, Fp32, Tf32) {
  std::int64_t const H =
      GENERATE(1, 15, 16, 17, 33, 127, 128, 129, 256, 257, 384, 385, 512, 513, 768, 769);
  check_engines<TestType>(reset_before(false), {4, 3, 5, H}, 1);
  check_engines<TestType>(reset_before(true), {5, 3, 5, H}, 1);
}

TEMPLATE_TEST_CASE("Reset before gives the host engine's numbers for rows and steps in turns", "",
                   Half, Bfloat16, Fp32, Tf32) {
  std::int64_t const N = GENERATE(0, 1, 2, 7, 8, 9, 17, 64, 121, 250, 700);
  std::int64_t const T = GENERATE(0, 1, 2, 3, 4, 5, 9);
  check_engines<TestType>(reset_before(false), {T, N, 3, 40}, 2);
  check_engines<TestType>(reset_before(true, Direction::kReverse), {T, N, 3, 33}, 2);
}

TEMPLATE_TEST_CASE("Reset before drops the state's units in episodes and before them", "", Half,
                   Bfloat16, Fp32, Tf32) {
  // The dropout's factor is on r * s in the steps where an episode begins, too.
  Choices choices = reset_before(true, GENERATE(Direction::kForward, Direction::kReverse));
  choices.zoneout = {};
  choices.recurrent_dropout = GENERATE(Choices::Masks::kDrawn, Choices::Masks::kBrought);
  choices.dropconnect = Choices::Masks::kDrawn;
  check_engines<TestType>(choices, {40, 20, 6, 70}, 3);
}

TEST_CASE("A cluster that waits in vain for the reset state ends, leaves NaN, and check() throws") {
  if (!has_device()) SKIP("no CUDA device");
  if (detail::current_device_facts().compute_capability < 90) SKIP("the device has no clusters");
  constexpr int kSteps = 3;
  constexpr int kBatch = 11;  // two tiles
  constexpr int kHidden = 40;
  constexpr std::size_t kBytes = std::size_t{1} << 20;  // of each buffer: ample
  auto const zeros = [&] {
    auto memory = std::make_unique<DeviceMemory>(kBytes);
    check_cuda(cudaMemset(memory->data(), 0, kBytes), "cudaMemset");
    return memory;
  };
  auto const p = zeros();
  auto const state = zeros();
  auto const operand = zeros();
  auto const packed = zeros();
  auto const h = zeros();
  auto const workspace = zeros();

  detail::RecurrentForward<__half> pass;
  pass.batch = kBatch;
  pass.hidden = kHidden;
  pass.steps = kSteps;
  pass.is_last = true;
  pass.p = reinterpret_cast<float*>(p->data());
  pass.state = reinterpret_cast<float*>(state->data());
  pass.operand = reinterpret_cast<__half*>(operand->data());
  pass.h = reinterpret_cast<__half*>(h->data());
  pass.h_rows = detail::dense_rows(kBatch, kHidden);
  pass.status = reinterpret_cast<std::uint32_t*>(workspace->data());
  pass.most_polls = 100;
  pass.derive();
  auto const* const weights = reinterpret_cast<__half const*>(packed->data());

  auto* const kernel = &detail::cluster_reset_before_kernel<__half, detail::Multiplication::kDirect,
                                                            StarvedReset, false>;
  constexpr int kTiles = 2;
  int const bytes = StarvedReset::reset_before_bytes(kTiles);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "the kernel's shared memory");
  detail::ClusterLaunch const launch{1, StarvedReset::kBlocks, StarvedReset::kThreads, bytes};
  check_cuda(cudaLaunchKernelEx(&launch.config, kernel, pass, weights, kTiles), "the launch");
  CHECK_THROWS_AS(gru::check({workspace->data(), kBytes}, nullptr), DeviceError);

  // The first step waits for r * s already.
  std::vector<__half> values(kSteps * kBatch * kHidden);
  check_cuda(
      cudaMemcpy(values.data(), h->data(), values.size() * sizeof(__half), cudaMemcpyDeviceToHost),
      "cudaMemcpy");
  for (std::size_t i = 0; i < values.size(); ++i) {
    INFO("element " << i);
    REQUIRE(std::isnan(__half2float(values[i])));
  }
}

}  // namespace
}  // namespace gru::test
