// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_test_macros.hpp>

#include <cmath>
#include <memory>
#include <vector>

#include <cuda_fp16.h>

#include <gru/detail/grid_forward.cuh>
#include <gru/gru.cuh>

#include "support/device.hpp"
#include "support/device_backend.cuh"

namespace gru::test {
namespace {

TEST_CASE("A grid that waits for a missing block ends, leaves NaN, and check() throws") {
  if (!has_device()) SKIP("no CUDA device");
  detail::DeviceFacts const& facts = detail::current_device_facts();
  if (facts.compute_capability < 80) SKIP("the device is older than the engine");
  constexpr int kSteps = 4;
  constexpr int kBatch = 19;
  constexpr int kHidden = 32;
  constexpr int kBlockUnits = 16;
  constexpr std::size_t kBytes = std::size_t{1} << 22;  // of each buffer: ample
  auto const zeros = [&] {
    auto memory = std::make_unique<DeviceMemory>(kBytes);
    check_cuda(cudaMemset(memory->data(), 0, kBytes), "cudaMemset");
    return memory;
  };
  auto const p = zeros();
  auto const state = zeros();
  auto const operand = zeros();
  auto const packed = zeros();
  auto const exchange = zeros();
  auto const h = zeros();
  auto const workspace = zeros();

  using Shape = detail::GridShape<__half, detail::Multiplication::kDirect, 1, 4>;
  static_assert(Shape::kBlockUnits == kBlockUnits, "two blocks are needed");
  detail::GridForward<__half> pass;
  pass.steps.batch = kBatch;
  pass.steps.hidden = kHidden;
  pass.steps.steps = kSteps;
  pass.steps.p = reinterpret_cast<float*>(p->data());
  pass.steps.state = reinterpret_cast<float*>(state->data());
  pass.steps.operand = reinterpret_cast<__half*>(operand->data());
  pass.steps.h = reinterpret_cast<__half*>(h->data());
  pass.steps.h_rows = detail::dense_rows(kBatch, kHidden);
  pass.steps.status = reinterpret_cast<std::uint32_t*>(workspace->data());
  pass.steps.most_polls = 100;
  pass.steps.derive();
  pass.packed_weights = reinterpret_cast<__half*>(packed->data());
  pass.exchange = exchange->data();
  pass.ranks = 2;
  pass.groups = 1;
  pass.tiles = 3;

  int const words = detail::kSlots * pass.tiles * Shape::kTile / 4;
  detail::start_exchange_kernel<Shape><<<(words + 255) / 256, 256>>>(pass);
  check_cuda(cudaGetLastError(), "the launch");
  auto* const kernel = &detail::grid_forward_kernel<Shape>;
  int const bytes = Shape::layout(pass.tiles).bytes;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "the kernel's shared memory");
  kernel<<<1, Shape::kThreads, bytes>>>(pass);
  check_cuda(cudaGetLastError(), "the launch");
  CHECK_THROWS_AS(gru::check({workspace->data(), kBytes}, nullptr), DeviceError);

  std::vector<__half> values(kSteps * kBatch * kHidden);
  check_cuda(
      cudaMemcpy(values.data(), h->data(), values.size() * sizeof(__half), cudaMemcpyDeviceToHost),
      "cudaMemcpy");
  for (std::size_t i = 0; i < values.size(); ++i) {
    bool const after_the_wait = i >= kBatch * kHidden;
    bool const of_this_block = i % kHidden < kBlockUnits;
    INFO("element " << i);
    REQUIRE(std::isnan(__half2float(values[i])) == (after_the_wait && of_this_block));
  }
}

}  // namespace
}  // namespace gru::test
