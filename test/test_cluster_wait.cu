// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_test_macros.hpp>

#include <cmath>
#include <cstddef>
#include <memory>
#include <vector>

#include <cuda_fp16.h>

#include <gru/detail/cluster_backward.cuh>
#include <gru/detail/cluster_forward.cuh>
#include <gru/gru.cuh>

#include "support/device.hpp"
#include "support/device_backend.cuh"

/// Clusters that wait for more bytes than anyone sends: every wait expires.
namespace gru::test {

using Fed = detail::ClusterShape<__half, 8, 2, 2, 0>;
struct Starved : Fed {
  static constexpr int kOperands = Fed::kOperands + 128;

  static constexpr int shared_bytes(int tiles) {
    return Fed::shared_bytes(tiles) + tiles * 2 * 128;
  }
  static constexpr int reset_before_bytes(int tiles) {
    return Fed::reset_before_bytes(tiles) + tiles * 3 * 128;
  }
};

using FedBackward = detail::ClusterBackwardShape<__half, 8, 128, 0>;
struct StarvedBackward : FedBackward {
  static constexpr int kParts = FedBackward::kParts + 128;
  static constexpr int kTile = FedBackward::kTile + 256;

  static constexpr int shared_bytes(int tiles) {
    return FedBackward::shared_bytes(tiles) + tiles * 256;
  }
};

namespace {

/// A layer of zeros for one cluster, whose kernel may wait for 100 polls.
template <template <typename> class Steps>
class HungryLayer {
 public:
  static constexpr int kSteps = 4;
  static constexpr int kBatch = 11;  // two tiles
  static constexpr int kHidden = 40;
  static constexpr int kTiles = 2;

  HungryLayer() {
    if (!has_device()) SKIP("no CUDA device");
    if (detail::current_device_facts().compute_capability < 90) SKIP("the device has no clusters");
    steps.batch = kBatch;
    steps.hidden = kHidden;
    steps.steps = kSteps;
    steps.status = zeros<std::uint32_t>();
    steps.most_polls = 100;
  }

  /// A buffer of its own.
  template <typename T>
  T* zeros() {
    buffers_.push_back(std::make_unique<DeviceMemory>(kBytes));
    check_cuda(cudaMemset(buffers_.back()->data(), 0, kBytes), "cudaMemset");
    return reinterpret_cast<T*>(buffers_.back()->data());
  }

  /// Launches the kernel and waits for its end, which must be that of a wait in vain.
  template <typename Shape>
  void run(void (*kernel)(Steps<__half>, __half const*, int), int shared_bytes) {
    steps.derive();
    __half const* const weights = zeros<__half>();
    check_cuda(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
        "the kernel's shared memory");
    detail::ClusterLaunch const launch{1, Shape::kBlocks, Shape::kThreads, shared_bytes};
    check_cuda(cudaLaunchKernelEx(&launch.config, kernel, steps, weights, kTiles), "the launch");
    Workspace const workspace{steps.status, kBytes};
    CHECK_THROWS_AS(gru::check(workspace, nullptr), DeviceError);
  }

  /// Checks that an output of rows of `width` values is NaN from step `first_bad` on.
  static void check_output(__half const* output, int width, int first_bad) {
    std::vector<__half> values(static_cast<std::size_t>(kSteps) * kBatch * width);
    check_cuda(
        cudaMemcpy(values.data(), output, values.size() * sizeof(__half), cudaMemcpyDeviceToHost),
        "cudaMemcpy");
    for (std::size_t i = 0; i < values.size(); ++i) {
      INFO("element " << i);
      bool const is_bad = static_cast<int>(i) / (kBatch * width) >= first_bad;
      REQUIRE(std::isnan(__half2float(values[i])) == is_bad);
    }
  }

  Steps<__half> steps;

 private:
  static constexpr std::size_t kBytes = std::size_t{1} << 20;  // of each buffer: ample
  std::vector<std::unique_ptr<DeviceMemory>> buffers_;
};

class HungryForward : public HungryLayer<detail::RecurrentForward> {
 public:
  HungryForward() {
    steps.p = zeros<float>();
    steps.state = zeros<float>();
    steps.operand = zeros<__half>();
    steps.h = zeros<__half>();
    steps.h_rows = detail::dense_rows(kBatch, kHidden);
  }
};

class HungryBackward : public HungryLayer<detail::RecurrentBackward> {
 public:
  HungryBackward() {
    steps.kept = zeros<__half>();
    steps.entering = zeros<__half>();
    steps.direct = zeros<float>();
    steps.dq = zeros<__half>();
    steps.gradients = zeros<__half>();
  }
};

TEST_CASE("A cluster that waits in vain ends, leaves NaN, and check() throws") {
  HungryForward layer;
  layer.run<Starved>(&detail::cluster_forward_kernel<__half, detail::Multiplication::kDirect,
                                                     Starved, detail::GroupTiles::kMany>,
                     Starved::shared_bytes(layer.kTiles));
  // The first step's operands are there already.
  layer.check_output(layer.steps.h, layer.kHidden, 1);
}

TEST_CASE("A cluster that waits in vain for the reset state ends, leaves NaN, and check() throws") {
  HungryForward layer;
  layer.run<Starved>(
      &detail::cluster_reset_before_kernel<__half, detail::Multiplication::kDirect, Starved, false>,
      Starved::reset_before_bytes(layer.kTiles));
  // The first step waits for r * s already.
  layer.check_output(layer.steps.h, layer.kHidden, 0);
}

TEST_CASE("A cluster that waits in vain going back ends, leaves NaN, and check() throws") {
  HungryBackward layer;
  layer.run<StarvedBackward>(
      &detail::cluster_backward_kernel<__half, detail::Multiplication::kDirect, StarvedBackward,
                                       detail::GroupTiles::kMany>,
      StarvedBackward::shared_bytes(layer.kTiles));
  // The first step waits for the sums of the step before the chunk.
  layer.check_output(layer.steps.gradients, 4 * layer.kHidden, 0);
}

}  // namespace
}  // namespace gru::test
