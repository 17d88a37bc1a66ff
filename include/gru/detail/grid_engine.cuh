// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include <gru/detail/carver.hpp>
#include <gru/detail/device.cuh>
#include <gru/detail/grid_backward_kernel.cuh>
#include <gru/detail/grid_forward_kernel.cuh>
#include <gru/detail/grid_parts.cuh>
#include <gru/detail/grid_reset_before_kernels.cuh>
#include <gru/detail/grid_streamed_kernels.cuh>
#include <gru/detail/launch.cuh>
#include <gru/detail/stepwise_forward.cuh>
#include <gru/policy.hpp>

/// How a grid kernel is chosen and launched, forward and backward.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// A step's time where each group has one tile, of one row or of 8, and where it has several: base
/// + tiles * tile. Where R is streamed it is that of the largest H, and proportional to H.
struct GridCosts {
  double one_row_us;
  double one_tile_us;
  double base_us;
  double tile_us;
};

/// What code for sm_90 takes, whose warps cannot share registers unevenly, as a multiple of what
/// code for sm_90a takes: means of what was measured.
template <typename T>
double plain_code_cost(bool streams) {
  return streams && sizeof(T) == 2 ? 1.45 : 1.08;
}

/// The kernel that does the steps in a shape: each pass has its own.
template <typename Shape>
auto grid_kernel() -> void (*)(typename Shape::Work) {
  if constexpr (Shape::kExchanges == 2) {
    return &grid_reset_before_kernel<Shape>;
  } else if constexpr (Shape::kStreams && Shape::kIsForward) {
    return &streamed_forward_kernel<Shape>;
  } else if constexpr (Shape::kStreams) {
    return &streamed_backward_kernel<Shape>;
  } else if constexpr (Shape::kIsForward) {
    return &grid_forward_kernel<Shape>;
  } else {
    return &grid_backward_kernel<Shape>;
  }
}

/// A shape of the grid kernel for one T, as the engine sees it.
template <typename T, Pass kPass>
struct GridKernel {
  int units = 0;        // the largest H
  int block_units = 0;  // units that a block computes
  int team = 1;         // blocks of a team
  int threads = 0;
  int tile_bytes = 0;  // of the exchange
  GridCosts costs = {};
  bool streams = false;
  std::int64_t (*packed_values)(int ranks, int hidden) = nullptr;  // of R
  void (*pack)(cudaStream_t stream, LayerView<T> const& layer, WeightView const& view, int ranks,
               bool rounds, T const* weights, T* packed) = nullptr;
  GridLayout (*layout)(int tiles) = nullptr;
  void (*start)(GridWork<T, kPass>) = nullptr;
  void (*few_tiles)(GridWork<T, kPass>) = nullptr;  // the steps
  void (*many_tiles)(GridWork<T, kPass>) = nullptr;
  void (*sorted_tiles)(GridWork<T, kPass>) = nullptr;

  /// Of a shape for few tiles.
  template <typename Shape>
  static GridKernel of(GridCosts const& costs) {
    using Sorted = typename Shape::template With<GroupTiles::kSorted>;
    GridKernel kernel;
    kernel.units = Shape::kUnits;
    kernel.block_units = Shape::kBlockUnits;
    kernel.team = Shape::kTeam;
    kernel.threads = Shape::kThreads;
    kernel.tile_bytes = Shape::kTile;
    kernel.costs = costs;
    kernel.streams = Shape::kStreams;
    kernel.packed_values = [](int ranks, int hidden) {
      return detail::packed_values<T>(Shape::packed_order(ranks, hidden));
    };
    kernel.pack = [](cudaStream_t stream, LayerView<T> const& layer, WeightView const& view,
                     int ranks, bool rounds, T const* weights, T* packed) {
      auto const order = Shape::packed_order(ranks, static_cast<int>(view.hidden));
      pack_weights(stream, layer, view, order, rounds, weights, packed);
    };
    kernel.layout = &Sorted::layout;
    kernel.start = &start_exchange_kernel<Shape>;
    kernel.few_tiles = grid_kernel<Shape>();
    // Backward there is nothing to be asked for ahead. Reset before goes without, too.
    constexpr bool kAsksAhead = kPass == Pass::kForward && Shape::kExchanges == 1;
    constexpr auto kOthers = kAsksAhead ? GroupTiles::kMany : GroupTiles::kFew;
    kernel.many_tiles = grid_kernel<typename Shape::template With<kOthers>>();
    kernel.sorted_tiles = kernel.many_tiles;
    // Reset before, TF32, and floats of H above 1024 do not sort, which spares compiling the
    // kernels.
    constexpr bool kSorts =
        Shape::kExchanges == 1 && (sizeof(T) == 2 || (Shape::kIsSplit && Shape::kUnits <= 1024));
    if constexpr (kSorts) kernel.sorted_tiles = grid_kernel<Sorted>();
    return kernel;
  }

  void (*steps(int tiles, bool sorted) const)(GridWork<T, kPass>) {
    return tiles <= kFewTiles ? few_tiles : sorted ? sorted_tiles : many_tiles;
  }

  int ranks(std::int64_t hidden) const {
    int const team_units = team * block_units;
    return team * static_cast<int>((hidden + team_units - 1) / team_units);
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

/// How many blocks of a kernel's function the device holds at once.
template <typename T, Pass kPass>
int resident_blocks(GridKernel<T, kPass> const& kernel, void (*steps)(GridWork<T, kPass>),
                    int shared_bytes, DeviceFacts const& facts) {
  GRU_CUDA_TRY(
      cudaFuncSetAttribute(steps, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  int count = 0;
  if (kernel.team > 1) {
    ClusterLaunch const launch{1, kernel.team, kernel.threads, shared_bytes};
    GRU_CUDA_TRY(cudaOccupancyMaxActiveClusters(&count, steps, &launch.config));
    return count * kernel.team;
  }
  GRU_CUDA_TRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor(
      &count, steps, kernel.threads, static_cast<std::size_t>(shared_bytes)));
  return count * facts.multiprocessors;
}

/// Asks the device how many blocks fit, forms as many groups of them as the batch has use for, and
/// gives each as few tiles as it can.
template <typename T, Pass kPass>
GridPlan plan_grid(GridKernel<T, kPass> const& kernel, std::int64_t hidden, std::int64_t batch,
                   DeviceFacts const& facts) {
  constexpr std::int64_t kMostTiles = 16;
  int shared_limit = 0;
  GRU_CUDA_TRY(
      cudaDeviceGetAttribute(&shared_limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, facts.device));
  GridPlan plan;
  plan.ranks = kernel.ranks(hidden);
  // The kernel counts the exchange's bytes in 32 bits.
  std::int64_t const bytes_of_tile = std::int64_t{kSlots} * kernel.tile_bytes;
  std::int64_t const groups = std::max(1, facts.multiprocessors / plan.ranks);
  std::int64_t const countable = std::numeric_limits<std::int32_t>::max() / bytes_of_tile / groups;
  int most_tiles = static_cast<int>(std::min(kMostTiles, countable));
  while (most_tiles > 0 && kernel.layout(most_tiles).bytes > shared_limit) --most_tiles;
  if (most_tiles == 0) return plan;
  int const blocks = std::min({resident_blocks(kernel, kernel.few_tiles, shared_limit, facts),
                               resident_blocks(kernel, kernel.many_tiles, shared_limit, facts),
                               resident_blocks(kernel, kernel.sorted_tiles, shared_limit, facts)});
  std::int64_t const all_tiles = std::max<std::int64_t>(1, (batch + kTileRows - 1) / kTileRows);
  std::int64_t const most_groups = std::min<std::int64_t>(blocks / plan.ranks, all_tiles);
  if (most_groups == 0) return plan;
  std::int64_t const of_group = (all_tiles + most_groups - 1) / most_groups;
  plan.launches = (of_group + most_tiles - 1) / most_tiles;
  plan.tiles = static_cast<int>((of_group + plan.launches - 1) / plan.launches);
  std::int64_t const of_launch = (all_tiles + plan.launches - 1) / plan.launches;
  plan.groups = static_cast<int>((of_launch + plan.tiles - 1) / plan.tiles);
  plan.shared_bytes = kernel.layout(plan.tiles).bytes;
  return plan;
}

/// The steps by groups of blocks that exchange what multiplies R through L2: see grid_parts.cuh.
template <typename T, Pass kPass>
class GridSteps {
 public:
  using Value = T;
  static constexpr Engine kEngine = Engine::kGrid;
  static constexpr int kLeastComputeCapability = 80;

  struct Scratch {
    T* packed_weights = nullptr;
    std::byte* exchange = nullptr;
  };

  /// Chooses among kernels, of which those that stream R come last.
  GridSteps(Problem const& p, DeviceFacts const& facts,
            std::vector<GridKernel<T, kPass>> const& kernels)
      : problem_{p} {
    if (std::is_same_v<T, float> && p.precision == Precision::kFp32Strict) {
      obstacle_ = "multiplies on tensor cores, which Precision::kFp32Strict excludes";
      return;
    }
    obstacle_ = "R does not fit on the device: H is " + std::to_string(p.hidden_size);
    for (GridKernel<T, kPass> const& kernel : kernels) {
      if (kernel.units < p.hidden_size) continue;
      if ((kernel.team > 1 || kernel.streams) && facts.code_capability < 90) continue;
      if (kernel.streams && obstacle_.empty()) continue;  // others keep all of R
      GridPlan const plan = plan_grid(kernel, p.hidden_size, p.batch, facts);
      if (plan.groups == 0) continue;
      double us = predict_step(kernel.costs, plan, p.batch);
      if (kernel.streams) us *= static_cast<double>(p.hidden_size) / kernel.units;
      if (facts.lacks_sm_90a_code()) us *= plain_code_cost<T>(kernel.streams);
      if (!obstacle_.empty() || us < step_us_) {
        kernel_ = kernel;
        plan_ = plan;
        step_us_ = us;
      }
      obstacle_.clear();
    }
  }

  std::string const& obstacle() const { return obstacle_; }
  bool streams() const { return kernel_.streams; }
  double step_us() const { return step_us_; }
  bool drains_tiles() const {
    return plan_.tiles > kFewTiles && kernel_.sorted_tiles != kernel_.many_tiles;
  }
  int groups() const { return plan_.groups; }

  void lay_out(Carver& carver, Scratch& scratch) const {
    if (!obstacle_.empty()) return;
    scratch.packed_weights =
        carver.take<T>(kernel_.packed_values(plan_.ranks, static_cast<int>(problem_.hidden_size)));
    scratch.exchange = carver.take<std::byte>(exchange_words() * 4);
  }

  void prepare(cudaStream_t stream, LayerView<T> const& layer, T const* recurrent_kernel,
               Scratch const& scratch) const {
    bool const rounds = problem_.precision == Precision::kTf32;
    kernel_.pack(stream, layer, recurrent_view<T>(problem_), plan_.ranks, rounds, recurrent_kernel,
                 scratch.packed_weights);
  }

  /// Of a launch; where one launch is not enough, more than any device has.
  int blocks() const {
    return plan_.launches == 1 ? plan_.groups * plan_.ranks : std::numeric_limits<int>::max();
  }

  void run(cudaStream_t stream, typename GridWork<T, kPass>::Steps const& steps,
           Scratch const& scratch, cudaEvent_t started = nullptr) const {
    GridWork<T, kPass> work;
    work.steps = steps;
    work.packed_weights = scratch.packed_weights;
    work.exchange = scratch.exchange;
    work.ranks = plan_.ranks;
    work.steps.deal.groups = plan_.groups;
    work.tiles = plan_.tiles;
    auto const start_blocks = static_cast<unsigned>((exchange_words() + 255) / 256);
    CooperativeLaunch launch{stream, plan_.groups * plan_.ranks, kernel_.threads,
                             plan_.shared_bytes, kernel_.team};
    if (started != nullptr) launch.record_start(started);
    auto* const function = kernel_.steps(plan_.tiles, steps.deal.order != nullptr);
    for (std::int64_t i = 0; i < plan_.launches; ++i) {
      work.steps.deal.first = static_cast<int>(i * plan_.groups * plan_.tiles);
      kernel_.start<<<start_blocks, 256, 0, stream>>>(work);
      GRU_CUDA_TRY(cudaGetLastError());
      GRU_CUDA_TRY(cudaLaunchKernelEx(&launch.config, function, work));
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
  GridKernel<T, kPass> kernel_;
  GridPlan plan_;
  double step_us_ = 0;
  std::string obstacle_;
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
