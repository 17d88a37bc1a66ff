// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_test_macros.hpp>

#include <cmath>
#include <memory>
#include <vector>

#include <gru/detail/fma_backward.cuh>
#include <gru/detail/fma_forward.cuh>
#include <gru/gru.cuh>

#include "support/device.hpp"
#include "support/device_backend.cuh"

namespace gru::test {

/// Clusters that wait for more bytes than anyone sends: every wait expires.
struct StarvedFma : detail::FmaClusterShape<float, 8, 4, 128, 32, 1, 1> {
  static constexpr int kRowBytes = kUnits * 4 + 16;
};
using FedFmaBackward = detail::FmaClusterBackwardShape<float, 8, 4, 128, 1, 16, 1, 1>;
struct StarvedFmaBackward : FedFmaBackward {
  static constexpr int kRowBytes = FedFmaBackward::kRowBytes + 16;
};
/// The same where warps share the depth.
using FedFmaParts = detail::FmaClusterBackwardShape<float, 8, 8, 256, 4, 16, 2, 8>;
struct StarvedFmaParts : FedFmaParts {
  static constexpr int kRowBytes = FedFmaParts::kRowBytes + 16;
};

namespace {

constexpr int kSteps = 4;
constexpr int kHidden = 40;

/// A layer of zeros with one row, whose kernel may wait for 100 polls.
class Layer {
 public:
  static constexpr std::size_t kBytes = std::size_t{1} << 22;  // of each buffer: ample

  Layer() {
    for (auto& buffer : buffers_) {
      buffer = std::make_unique<DeviceMemory>(kBytes);
      check_cuda(cudaMemset(buffer->data(), 0, kBytes), "cudaMemset");
    }
  }

  detail::RecurrentForward<float> forward() const {
    detail::RecurrentForward<float> pass;
    set_common(pass);
    pass.p = values(0);
    pass.state = values(1);
    pass.operand = values(2);
    pass.h = values(3);
    pass.h_rows = detail::dense_rows(1, kHidden);
    pass.derive();
    return pass;
  }

  detail::RecurrentBackward<float> backward() const {
    detail::RecurrentBackward<float> pass;
    set_common(pass);
    pass.kept = values(0);
    pass.direct = values(1);
    pass.dq = values(2);
    pass.gradients = values(3);
    pass.entering = values(7);
    pass.dh_rows = detail::dense_rows(1, kHidden);
    pass.derive();
    return pass;
  }

  float4 const* weights() const { return reinterpret_cast<float4 const*>(values(5)); }

  /// An exchange of `width` values of each unit, of which none is there.
  detail::FmaRing ring(int width) const {
    detail::FmaRing ring;
    ring.words = reinterpret_cast<std::uint32_t*>(buffers_[6]->data());
    ring.pitch = width * kHidden;
    ring.rows = 1;
    std::size_t const words = static_cast<std::size_t>(detail::FmaRing::kSlots * ring.pitch);
    check_cuda(cudaMemset(ring.words, 0xff, words * sizeof(float)), "cudaMemset");
    return ring;
  }

  /// check() throws, and the first `units` units of every step but the first are NaN.
  void check_forward_expired(int units) const {
    std::vector<float> const h = expired_outputs(kHidden);
    for (std::size_t i = 0; i < h.size(); ++i) {
      bool const after_the_wait = i >= kHidden;
      bool const is_done = static_cast<int>(i % kHidden) < units;
      INFO("element " << i);
      REQUIRE(std::isnan(h[i]) == (after_the_wait && is_done));
    }
  }

  /// check() throws, and so are those gradients of every step.
  void check_backward_expired(int units) const {
    std::vector<float> const gradients = expired_outputs(4 * kHidden);
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      bool const is_done = static_cast<int>(i % kHidden) < units;
      INFO("element " << i);
      REQUIRE(std::isnan(gradients[i]) == is_done);
    }
  }

 private:
  float* values(int buffer) const { return reinterpret_cast<float*>(buffers_[buffer]->data()); }

  template <typename Steps>
  void set_common(Steps& pass) const {
    pass.batch = 1;
    pass.hidden = kHidden;
    pass.steps = kSteps;
    pass.status = reinterpret_cast<std::uint32_t*>(buffers_[4]->data());
    pass.most_polls = 100;
  }

  /// What the steps wrote, rows of so many values, once check() has thrown.
  std::vector<float> expired_outputs(int width) const {
    CHECK_THROWS_AS(gru::check({buffers_[4]->data(), kBytes}, nullptr), DeviceError);
    std::vector<float> outputs(static_cast<std::size_t>(kSteps * width));
    check_cuda(cudaMemcpy(outputs.data(), values(3), outputs.size() * sizeof(float),
                          cudaMemcpyDeviceToHost),
               "cudaMemcpy");
    return outputs;
  }

  std::unique_ptr<DeviceMemory> buffers_[8];
};

template <typename Kernel>
void allow_shared(Kernel* kernel, int bytes) {
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "the kernel's shared memory");
}

void skip_without(int compute_capability) {
  if (!has_device()) SKIP("no CUDA device");
  if (detail::current_device_facts().compute_capability < compute_capability) {
    SKIP("the device is older than the engine");
  }
}

/// Runs a cluster.
template <typename Shape, typename Kernel, typename Steps>
void run_cluster(Kernel* kernel, Steps const& pass, float4 const* weights) {
  allow_shared(kernel, Shape::kSharedBytes);
  detail::ClusterLaunch const launch{1, Shape::kBlocks, Shape::kThreads, Shape::kSharedBytes};
  check_cuda(cudaLaunchKernelEx(&launch.config, kernel, pass, weights, 1), "the launch");
}

TEST_CASE("A cluster of few rows that waits in vain ends, leaves NaN, and check() throws") {
  skip_without(90);
  Layer const layer;
  SECTION("forward") {
    run_cluster<StarvedFma>(&detail::fma_cluster_kernel<float, StarvedFma>, layer.forward(),
                            layer.weights());
    layer.check_forward_expired(kHidden);
  }
  SECTION("backward") {
    run_cluster<StarvedFmaBackward>(&detail::fma_cluster_backward_kernel<float, StarvedFmaBackward>,
                                    layer.backward(), layer.weights());
    layer.check_backward_expired(kHidden);
  }
  SECTION("backward, where warps share the depth") {
    run_cluster<StarvedFmaParts>(&detail::fma_cluster_backward_kernel<float, StarvedFmaParts>,
                                 layer.backward(), layer.weights());
    layer.check_backward_expired(kHidden);
  }
}

TEST_CASE(
    "A grid of few rows that waits for a missing block ends, leaves NaN, and check() throws") {
  skip_without(80);
  Layer const layer;
  SECTION("forward") {
    using Shape = detail::FmaGridShape<float, 4, 1024, 32, 0, 1, 1>;
    constexpr int kWarps = 1;
    constexpr int kBlocks = kHidden / (kWarps * Shape::kWarpUnits);
    auto* const kernel = &detail::fma_grid_kernel<float, Shape>;
    int const bytes = Shape::shared_bytes(kWarps);
    allow_shared(kernel, bytes);
    kernel<<<kBlocks - 1, 32 * kWarps, bytes>>>(layer.forward(), layer.weights(), layer.ring(1));
    check_cuda(cudaGetLastError(), "the launch");
    layer.check_forward_expired((kBlocks - 1) * kWarps * Shape::kWarpUnits);
  }
  SECTION("backward") {
    using Shape = detail::FmaGridBackwardShape<float, 8, 3, 0, 1>;
    constexpr int kWarps = 1;
    constexpr int kBlocks = kHidden / Shape::kBlockUnits;
    auto* const kernel = &detail::fma_grid_backward_kernel<float, Shape>;
    int const bytes = Shape::shared_bytes(kWarps);
    allow_shared(kernel, bytes);
    kernel<<<kBlocks - 1, 32 * kWarps, bytes>>>(layer.backward(), layer.weights(), layer.ring(3));
    check_cuda(cudaGetLastError(), "the launch");
    layer.check_backward_expired((kBlocks - 1) * Shape::kBlockUnits);
  }
}

}  // namespace
}  // namespace gru::test
