// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <gru/detail/grid_forward_kernel.cuh>
#include <gru/detail/launch.cuh>
#include <gru/detail/recurrence_engine.cuh>

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// A step's time where each group has one tile, of one row or of 8, and where it has several: base
/// + tiles * tile. Fitted on an H200 to builds for sm_90a; those for sm_90 take 5% to 20% more.
struct GridCosts {
  double one_row_us;
  double one_tile_us;
  double base_us;
  double tile_us;
};

/// A shape of the grid kernel for one T, as the engine sees it.
template <typename T>
struct GridKernel {
  int units = 0;        // the largest H
  int block_units = 0;  // units that a block computes
  int threads = 0;
  int tile_bytes = 0;  // of the exchange
  GridCosts costs = {};
  PackedOrder (*packed_order)(int ranks) = nullptr;
  GridLayout (*layout)(int tiles) = nullptr;
  void (*start)(GridForward<T>) = nullptr;
  void (*forward)(GridForward<T>) = nullptr;

  template <typename Shape>
  static GridKernel of(GridCosts const& costs) {
    GridKernel kernel;
    kernel.units = Shape::kUnits;
    kernel.block_units = Shape::kBlockUnits;
    kernel.threads = Shape::kThreads;
    kernel.tile_bytes = Shape::kTile;
    kernel.costs = costs;
    kernel.packed_order = &Shape::packed_order;
    kernel.layout = &Shape::layout;
    kernel.start = &start_exchange_kernel<Shape>;
    kernel.forward = &grid_forward_kernel<Shape>;
    return kernel;
  }

  int ranks(std::int64_t hidden) const {
    return static_cast<int>((hidden + block_units - 1) / block_units);
  }

  /// All shapes for a precision. Blocks of 16 units are faster where each group has a tile or two,
  /// since they multiply less; blocks of 32 units make twice the groups.
  static std::vector<GridKernel> all(Precision precision) {
    constexpr Multiplication kDirect = Multiplication::kDirect;
    constexpr Multiplication kSplit = Multiplication::kSplit;
    if constexpr (sizeof(T) == 2) {
      return {of<GridShape<T, kDirect, 1, 4>>({0.93, 1.10, 0.35, 0.46}),
              of<GridShape<T, kDirect, 2, 3>>({1.04, 1.17, 0.35, 0.58}),
              of<GridShape<T, kDirect, 2, 4>>({1.17, 1.40, 0.19, 0.80}),
              of<GridShape<T, kDirect, 1, 6>>({1.08, 1.33, 0.20, 0.62}),
              of<GridShape<T, kDirect, 1, 8>>({1.22, 1.52, 0.28, 0.74})};
    } else if (precision == Precision::kTf32) {
      return {of<GridShape<T, kDirect, 1, 4>>({0.97, 1.08, 0.35, 0.46}),
              of<GridShape<T, kDirect, 2, 4>>({1.22, 1.40, 0.19, 0.80}),
              of<GridShape<T, kDirect, 1, 8>>({1.29, 1.46, 0.28, 0.73}),
              of<GridShape<T, kDirect, 1, 12>>({1.75, 1.95, 0.60, 1.25})};
    } else if (precision == Precision::kFp32) {
      return {of<GridShape<T, kSplit, 1, 4>>({1.52, 1.60, 0.15, 1.09}),
              of<GridShape<T, kSplit, 2, 4>>({2.36, 2.42, 0.20, 1.84}),
              of<GridShape<T, kSplit, 1, 8>>({2.45, 2.60, 0.16, 1.88}),
              of<GridShape<T, kSplit, 1, 12>>({3.50, 3.70, 0.55, 2.60})};
    }
    return {};
  }
};

/// How the blocks of a device share the batch.
struct GridPlan {
  int ranks = 0;   // blocks of a group
  int groups = 0;  // of a launch; 0 where not even one fits on the device
  int tiles = 0;   // of a group
  std::int64_t launches = 0;
  int shared_bytes = 0;
};

/// Asks the device how many blocks fit, forms as many groups of them as the batch has use for, and
/// gives each as few tiles as it can.
template <typename T>
GridPlan plan_grid(GridKernel<T> const& kernel, std::int64_t hidden, std::int64_t batch,
                   DeviceFacts const& facts) {
  constexpr int kMostTiles = 16;
  int shared_limit = 0;
  GRU_CUDA_TRY(
      cudaDeviceGetAttribute(&shared_limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, facts.device));
  GridPlan plan;
  plan.ranks = kernel.ranks(hidden);
  int most_tiles = kMostTiles;
  while (most_tiles > 0 && kernel.layout(most_tiles).bytes > shared_limit) --most_tiles;
  if (most_tiles == 0) return plan;
  GRU_CUDA_TRY(cudaFuncSetAttribute(kernel.forward, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    shared_limit));
  int blocks = 0;  // on a multiprocessor
  GRU_CUDA_TRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor(
      &blocks, kernel.forward, kernel.threads, static_cast<std::size_t>(shared_limit)));
  std::int64_t const all_tiles = std::max<std::int64_t>(1, (batch + kTileRows - 1) / kTileRows);
  std::int64_t const most_groups =
      std::min<std::int64_t>(blocks * facts.multiprocessors / plan.ranks, all_tiles);
  if (most_groups == 0) return plan;
  std::int64_t const of_group = (all_tiles + most_groups - 1) / most_groups;
  plan.launches = (of_group + most_tiles - 1) / most_tiles;
  plan.tiles = static_cast<int>((of_group + plan.launches - 1) / plan.launches);
  std::int64_t const of_launch = (all_tiles + plan.launches - 1) / plan.launches;
  plan.groups = static_cast<int>((of_launch + plan.tiles - 1) / plan.tiles);
  plan.shared_bytes = kernel.layout(plan.tiles).bytes;
  return plan;
}

/// The recurrence by groups of blocks that exchange the state through L2: see
/// grid_forward_kernel.cuh.
template <typename T>
class GridRecurrence {
 public:
  using Value = T;
  static constexpr Engine kEngine = Engine::kGrid;
  static constexpr int kLeastComputeCapability = 80;

  struct Scratch {
    T* packed_weights = nullptr;
    std::byte* exchange = nullptr;
  };

  GridRecurrence(Problem const& p, DeviceFacts const& facts) : problem_{p} {
    if (p.variant != Variant::kResetAfter) {
      obstacle_ = "computes the variant that resets after the product";
      return;
    }
    if (std::is_same_v<T, float> && p.precision == Precision::kFp32Strict) {
      obstacle_ = "multiplies on tensor cores, which Precision::kFp32Strict excludes";
      return;
    }
    obstacle_ = "R does not fit on the device: H is " + std::to_string(p.hidden_size);
    for (GridKernel<T> const& kernel : GridKernel<T>::all(p.precision)) {
      if (kernel.units < p.hidden_size) continue;
      GridPlan const plan = plan_grid(kernel, p.hidden_size, p.batch, facts);
      if (plan.groups == 0) continue;
      double const us = predict_step(kernel.costs, plan, p.batch);
      if (!obstacle_.empty() || us < step_us_) {
        kernel_ = kernel;
        plan_ = plan;
        step_us_ = us;
      }
      obstacle_.clear();
    }
  }

  std::string const& obstacle() const { return obstacle_; }
  double step_us() const { return step_us_; }

  void lay_out(Carver& carver, Scratch& scratch) const {
    if (!obstacle_.empty()) return;
    scratch.packed_weights = carver.take<T>(packed_values<T>(kernel_.packed_order(plan_.ranks)));
    scratch.exchange = carver.take<std::byte>(exchange_words() * 4);
  }

  void prepare(cudaStream_t stream, LayerView<T> const& layer, T const* recurrent_kernel,
               Scratch const& scratch) const {
    bool const rounds = problem_.precision == Precision::kTf32;
    pack_weights(stream, layer, recurrent_view<T>(problem_), kernel_.packed_order(plan_.ranks),
                 rounds, recurrent_kernel, scratch.packed_weights);
  }

  /// Of a launch; where one launch is not enough, more than any device has.
  int blocks() const {
    return plan_.launches == 1 ? plan_.groups * plan_.ranks : std::numeric_limits<int>::max();
  }

  void run(cudaStream_t stream, RecurrentForward<T> const& steps, Scratch const& scratch,
           cudaEvent_t started = nullptr) const {
    GridForward<T> pass;
    pass.steps = steps;
    pass.packed_weights = scratch.packed_weights;
    pass.exchange = scratch.exchange;
    pass.ranks = plan_.ranks;
    pass.groups = plan_.groups;
    pass.tiles = plan_.tiles;
    auto const start_blocks = static_cast<unsigned>((exchange_words() + 255) / 256);
    CooperativeLaunch launch{stream, plan_.groups * plan_.ranks, kernel_.threads,
                             plan_.shared_bytes};
    if (started != nullptr) launch.record_start(started);
    for (std::int64_t i = 0; i < plan_.launches; ++i) {
      pass.first_tile = static_cast<int>(i * plan_.groups * plan_.tiles);
      kernel_.start<<<start_blocks, 256, 0, stream>>>(pass);
      GRU_CUDA_TRY(cudaGetLastError());
      GRU_CUDA_TRY(cudaLaunchKernelEx(&launch.config, kernel_.forward, pass));
    }
  }

 private:
  static double predict_step(GridCosts const& costs, GridPlan const& plan, std::int64_t batch) {
    double us = costs.base_us + plan.tiles * costs.tile_us;
    if (plan.tiles == 1) {
      double const rows = static_cast<double>(std::clamp<std::int64_t>(batch, 1, kTileRows));
      us = costs.one_row_us + (costs.one_tile_us - costs.one_row_us) * (rows - 1) / (kTileRows - 1);
    }
    return static_cast<double>(plan.launches) * us;
  }

  std::int64_t exchange_words() const {
    return std::int64_t{kSlots} * plan_.groups * plan_.tiles * kernel_.tile_bytes / 4;
  }

  Problem problem_;
  GridKernel<T> kernel_;
  GridPlan plan_;
  double step_us_ = 0;
  std::string obstacle_;
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
