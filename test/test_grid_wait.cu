// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_test_macros.hpp>

#include <cmath>
#include <memory>
#include <vector>

#include <cuda_fp16.h>

#include <gru/detail/grid_backward.cuh>
#include <gru/detail/grid_forward.cuh>
#include <gru/gru.cuh>

#include "support/device.hpp"
#include "support/device_backend.cuh"

namespace gru::test {
namespace {

template <detail::Pass kPass, int kTeam = 1>
using Grid = detail::GridShape<__half, detail::Multiplication::kDirect, 1, 4, kPass, kTeam>;
template <detail::Pass kPass>
using ResetBefore = detail::ResetBeforeShape<__half, detail::Multiplication::kDirect, 1, 4, kPass>;
template <detail::Pass kPass>
using Streamed = detail::StreamedShape<__half, 3, 12, kPass>;

/// A layer that is spread over two blocks or teams, of which the second is never launched. All
/// inputs are 0.
template <typename Shape>
class HalfGrid {
 public:
  using Work = typename Shape::Work;
  static constexpr int kTeam = Shape::kTeam;
  static constexpr int kSteps = 4;
  static constexpr int kBatch = 19;
  static constexpr int kLaunchedUnits = kTeam * Shape::kBlockUnits;
  static constexpr int kHidden = 2 * kLaunchedUnits;

  HalfGrid() {
    work.steps.batch = kBatch;
    work.steps.hidden = kHidden;
    work.steps.steps = kSteps;
    work.steps.status = zeros<std::uint32_t>();
    work.steps.most_polls = 100;
    work.packed_weights = zeros<__half>();
    work.exchange = zeros<std::byte>();
    work.ranks = 2 * kTeam;
    work.tiles = 3;
  }

  /// A buffer of its own.
  template <typename T>
  T* zeros() {
    buffers_.push_back(std::make_unique<DeviceMemory>(kBytes));
    check_cuda(cudaMemset(buffers_.back()->data(), 0, kBytes), "cudaMemset");
    return reinterpret_cast<T*>(buffers_.back()->data());
  }

  /// Launches the first half alone and waits for its end, which must be that of a wait in vain.
  void run() {
    auto* const kernel = detail::grid_kernel<Shape>();
    work.steps.derive();
    int const words = detail::kSlots * work.tiles * Shape::kTile / 4;
    detail::start_exchange_kernel<Shape><<<(words + 255) / 256, 256>>>(work);
    check_cuda(cudaGetLastError(), "the launch");
    int const bytes = Shape::layout(work.tiles).bytes;
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
               "the kernel's shared memory");
    detail::CooperativeLaunch const launch{nullptr, kTeam, Shape::kThreads, bytes, kTeam};
    check_cuda(cudaLaunchKernelEx(&launch.config, kernel, work), "the launch");
    Workspace const workspace{work.steps.status, kBytes};
    CHECK_THROWS_AS(gru::check(workspace, nullptr), DeviceError);
  }

  /// Checks which of an output's values are NaN: those of the launched from the wait on, of which
  /// is_after_wait(step, column) tells.
  template <typename IsAfterWait>
  static void check_output(__half const* output, int width, IsAfterWait is_after_wait) {
    std::vector<__half> values(kSteps * kBatch * width);
    check_cuda(
        cudaMemcpy(values.data(), output, values.size() * sizeof(__half), cudaMemcpyDeviceToHost),
        "cudaMemcpy");
    for (int i = 0; i < static_cast<int>(values.size()); ++i) {
      bool const is_launched = i % kHidden < kLaunchedUnits;
      INFO("element " << i);
      bool const is_bad = is_launched && is_after_wait(i / (kBatch * width), i % width);
      REQUIRE(std::isnan(__half2float(values[static_cast<std::size_t>(i)])) == is_bad);
    }
  }

  Work work;

 private:
  static constexpr std::size_t kBytes = std::size_t{1} << 24;  // of each buffer: ample
  std::vector<std::unique_ptr<DeviceMemory>> buffers_;
};

void skip_below(int compute_capability) {
  if (!has_device()) SKIP("no CUDA device");
  bool const is_older = detail::current_device_facts().compute_capability < compute_capability;
  if (is_older) SKIP("the device is older than what is tested");
}

template <typename Shape>
void check_forward() {
  HalfGrid<Shape> grid;
  auto& steps = grid.work.steps;
  steps.p = grid.template zeros<float>();
  steps.state = grid.template zeros<float>();
  steps.operand = grid.template zeros<__half>();
  steps.h = grid.template zeros<__half>();
  steps.h_rows = detail::dense_rows(grid.kBatch, grid.kHidden);
  grid.run();
  // What the first step waits for is there; reset before, what multiplies R_g in it is not.
  bool const has_first = Shape::kExchanges == 1;
  grid.check_output(steps.h, grid.kHidden, [&](int step, int) { return step > 0 || !has_first; });
}

template <typename Shape>
void check_backward() {
  HalfGrid<Shape> grid;
  auto& steps = grid.work.steps;
  steps.kept = grid.template zeros<__half>();
  steps.entering = grid.template zeros<__half>();
  steps.gradients = grid.template zeros<__half>();
  steps.direct = grid.template zeros<float>();
  steps.dq = grid.template zeros<__half>();
  grid.run();
  // As forward; the first step done is the last one. Reset before, the fourth block of a row is no
  // gradient, but what multiplied R_g.
  bool const has_first = Shape::kExchanges == 1;
  grid.check_output(steps.gradients, 4 * grid.kHidden, [&](int step, int column) {
    int const block = column / grid.kHidden;
    if (!has_first && block == 3) return false;
    return step < grid.kSteps - 1 || (block == 1 && !has_first);
  });
}

TEST_CASE("A grid that waits for a missing block ends, leaves NaN, and check() throws") {
  skip_below(80);
  check_forward<Grid<detail::Pass::kForward>>();
}

TEST_CASE("A grid that waits for a missing block going back ends and leaves NaN as well") {
  skip_below(80);
  check_backward<Grid<detail::Pass::kBackward>>();
}

TEST_CASE("A grid that waits in vain for what reset leaves of the state ends and leaves NaN") {
  skip_below(80);
  check_forward<ResetBefore<detail::Pass::kForward>>();
  check_backward<ResetBefore<detail::Pass::kBackward>>();
}

TEST_CASE("A team of a grid that waits for a missing team ends and leaves NaN") {
  skip_below(90);
  check_backward<Grid<detail::Pass::kBackward, 2>>();
}

TEST_CASE("A grid that streams R and waits for a missing block ends and leaves NaN") {
  skip_below(90);
  check_forward<Streamed<detail::Pass::kForward>>();
  check_backward<Streamed<detail::Pass::kBackward>>();
}

}  // namespace
}  // namespace gru::test
