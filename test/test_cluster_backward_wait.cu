// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_test_macros.hpp>

#include <cmath>
#include <memory>
#include <vector>

#include <cuda_fp16.h>

#include <gru/detail/cluster_backward.cuh>
#include <gru/gru.cuh>

#include "support/device.hpp"
#include "support/device_backend.cuh"

namespace gru::test {

/// A cluster that waits for more bytes than anyone sends: every wait expires.
using FedBackward = detail::ClusterBackwardShape<__half, 8, 128, 0>;
struct StarvedBackward : FedBackward {
  static constexpr int kParts = FedBackward::kParts + 128;
  static constexpr int kTile = FedBackward::kTile + 256;

  static constexpr int shared_bytes(int tiles) {
    return FedBackward::shared_bytes(tiles) + tiles * 256;
  }
};

namespace {

TEST_CASE("A cluster that waits in vain backward ends, leaves NaN, and check() throws") {
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
  auto const kept = zeros();
  auto const entering = zeros();
  auto const direct = zeros();
  auto const dq = zeros();
  auto const packed = zeros();
  auto const gradients = zeros();
  auto const workspace = zeros();

  detail::RecurrentBackward<__half> pass;
  pass.batch = kBatch;
  pass.hidden = kHidden;
  pass.steps = kSteps;
  pass.kept = reinterpret_cast<__half*>(kept->data());
  pass.entering = reinterpret_cast<__half*>(entering->data());
  pass.direct = reinterpret_cast<float*>(direct->data());
  pass.dq = reinterpret_cast<__half*>(dq->data());
  pass.gradients = reinterpret_cast<__half*>(gradients->data());
  pass.status = reinterpret_cast<std::uint32_t*>(workspace->data());
  pass.most_polls = 100;
  pass.derive();
  auto const* const weights = reinterpret_cast<__half const*>(packed->data());

  auto* const kernel = &detail::cluster_backward_kernel<__half, detail::Multiplication::kDirect,
                                                        StarvedBackward, true>;
  int const bytes = StarvedBackward::shared_bytes(1);
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "the kernel's shared memory");
  detail::ClusterLaunch const launch{1, StarvedBackward::kBlocks, StarvedBackward::kThreads, bytes};
  check_cuda(cudaLaunchKernelEx(&launch.config, kernel, pass, weights, 1), "the launch");
  CHECK_THROWS_AS(gru::check({workspace->data(), kBytes}, nullptr), DeviceError);

  std::vector<__half> values(kSteps * kBatch * 4 * kHidden);
  check_cuda(cudaMemcpy(values.data(), gradients->data(), values.size() * sizeof(__half),
                        cudaMemcpyDeviceToHost),
             "cudaMemcpy");
  for (std::size_t i = 0; i < values.size(); ++i) {
    INFO("element " << i);
    REQUIRE(std::isnan(__half2float(values[i])));
  }
}

}  // namespace
}  // namespace gru::test
