// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_test_macros.hpp>

#include <cmath>
#include <memory>
#include <vector>

#include <gru/detail/fma_forward.cuh>
#include <gru/gru.cuh>

#include "support/device.hpp"
#include "support/device_backend.cuh"

namespace gru::test {

/// A cluster that waits for more bytes than anyone sends: every wait expires.
struct StarvedFma : detail::FmaClusterShape<float, 8, 4, 128, 32, 1, 1> {
  static constexpr int kRowBytes = kUnits * 4 + 16;
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
    pass_.batch = 1;
    pass_.hidden = kHidden;
    pass_.steps = kSteps;
    pass_.p = values(0);
    pass_.state = values(1);
    pass_.operand = values(2);
    pass_.h = values(3);
    pass_.h_rows = detail::dense_rows(1, kHidden);
    pass_.status = reinterpret_cast<std::uint32_t*>(buffers_[4]->data());
    pass_.most_polls = 100;
    pass_.derive();
  }

  detail::RecurrentForward<float> const& pass() const { return pass_; }
  float4 const* weights() const { return reinterpret_cast<float4 const*>(values(5)); }
  std::uint32_t* ring() const { return reinterpret_cast<std::uint32_t*>(values(6)); }

  /// check() throws, and the first `units` units of every step but the first are NaN.
  void check_expired(int units) const {
    CHECK_THROWS_AS(gru::check({buffers_[4]->data(), kBytes}, nullptr), DeviceError);
    std::vector<float> h(kSteps * kHidden);
    check_cuda(cudaMemcpy(h.data(), values(3), h.size() * sizeof(float), cudaMemcpyDeviceToHost),
               "cudaMemcpy");
    for (std::size_t i = 0; i < h.size(); ++i) {
      bool const after_the_wait = i >= kHidden;
      bool const is_done = static_cast<int>(i % kHidden) < units;
      INFO("element " << i);
      REQUIRE(std::isnan(h[i]) == (after_the_wait && is_done));
    }
  }

 private:
  float* values(int buffer) const { return reinterpret_cast<float*>(buffers_[buffer]->data()); }

  std::unique_ptr<DeviceMemory> buffers_[7];
  detail::RecurrentForward<float> pass_;
};

template <typename Kernel>
void allow_shared(Kernel* kernel, int bytes) {
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "the kernel's shared memory");
}

TEST_CASE("A cluster of few rows that waits in vain ends, leaves NaN, and check() throws") {
  if (!has_device()) SKIP("no CUDA device");
  if (detail::current_device_facts().compute_capability < 90) SKIP("the device has no clusters");
  Layer const layer;
  using Shape = StarvedFma;
  auto* const kernel = &detail::fma_cluster_kernel<float, Shape>;
  allow_shared(kernel, Shape::kSharedBytes);
  detail::ClusterLaunch const launch{1, Shape::kBlocks, Shape::kThreads, Shape::kSharedBytes};
  check_cuda(cudaLaunchKernelEx(&launch.config, kernel, layer.pass(), layer.weights(), 1),
             "the launch");
  layer.check_expired(kHidden);
}

TEST_CASE(
    "A grid of few rows that waits for a missing block ends, leaves NaN, and check() throws") {
  if (!has_device()) SKIP("no CUDA device");
  if (detail::current_device_facts().compute_capability < 80) {
    SKIP("the device is older than the engine");
  }
  Layer const layer;
  using Shape = detail::FmaGridShape<float, 4, 1024, 32, 0, 1, 1>;
  constexpr int kWarps = 1;
  constexpr int kBlocks = kHidden / (kWarps * Shape::kWarpUnits);
  detail::FmaRing ring;
  ring.words = layer.ring();
  ring.pitch = kHidden;
  ring.rows = 1;
  check_cuda(cudaMemset(ring.words, 0xff, sizeof(float) * detail::FmaRing::kSlots * kHidden),
             "cudaMemset");
  auto* const kernel = &detail::fma_grid_kernel<float, Shape>;
  int const bytes = Shape::shared_bytes(kWarps);
  allow_shared(kernel, bytes);
  kernel<<<kBlocks - 1, 32 * kWarps, bytes>>>(layer.pass(), layer.weights(), ring);
  check_cuda(cudaGetLastError(), "the launch");
  layer.check_expired((kBlocks - 1) * kWarps * Shape::kWarpUnits);
}

}  // namespace
}  // namespace gru::test
