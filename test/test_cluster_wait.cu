// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_test_macros.hpp>

#include <cmath>
#include <vector>

#include <cuda_fp16.h>

#include <gru/detail/cluster_forward.cuh>
#include <gru/gru.cuh>

#include "support/device.hpp"
#include "support/device_backend.cuh"

namespace gru::test {

/// A cluster that waits for more bytes than anyone sends: every wait expires.
using Fed = detail::ClusterShape<__half, 8, 2, 2, 0>;
struct Starved : Fed {
  static constexpr int kOperands = Fed::kOperands + 128;

  static constexpr int shared_bytes(int tiles) {
    return Fed::shared_bytes(tiles) + tiles * 2 * 128;
  }
};

namespace {

TEST_CASE("A cluster that waits in vain ends, leaves NaN, and check() throws") {
  if (!has_device()) SKIP("no CUDA device");
  detail::DeviceFacts const& facts = detail::current_device_facts();
  if (facts.compute_capability < 90) SKIP("the device has no clusters");
  constexpr int kSteps = 4;
  constexpr int kBatch = 3;
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

  auto* const kernel =
      &detail::cluster_forward_kernel<__half, detail::Multiplication::kDirect, Starved, true>;
  int const bytes = Starved::shared_bytes(1);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "the kernel's shared memory");
  detail::ClusterLaunch const launch{1, Starved::kBlocks, Starved::kThreads, bytes};
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  check_cuda(cudaEventCreate(&begin), "an event");
  check_cuda(cudaEventCreate(&end), "an event");
  check_cuda(cudaEventRecord(begin), "an event");
  check_cuda(cudaLaunchKernelEx(&launch.config, kernel, pass, weights, 1), "the launch");
  check_cuda(cudaEventRecord(end), "an event");
  CHECK_THROWS_AS(gru::check({workspace->data(), kBytes}, nullptr), DeviceError);

  float milliseconds = 0;
  check_cuda(cudaEventElapsedTime(&milliseconds, begin, end), "the time");
  WARN("100 polls took " << milliseconds << " ms");
  std::vector<__half> values(kSteps * kBatch * kHidden);
  check_cuda(
      cudaMemcpy(values.data(), h->data(), values.size() * sizeof(__half), cudaMemcpyDeviceToHost),
      "cudaMemcpy");
  for (std::size_t i = 0; i < values.size(); ++i) {
    bool const after_the_wait = i >= kBatch * kHidden;
    INFO("element " << i);
    REQUIRE(std::isnan(__half2float(values[i])) == after_the_wait);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
}

}  // namespace
}  // namespace gru::test
