// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <climits>
#include <cstdint>

#include <gru/detail/carver.hpp>
#include <gru/detail/cuda_types.cuh>
#include <gru/detail/device.cuh>
#include <gru/detail/sequence.hpp>
#include <gru/detail/stepwise_kernels.cuh>
#include <gru/detail/tensor_core.cuh>

/// How the tiles of the batch are dealt to the groups of blocks that carry them through the steps:
/// clusters, or groups of a grid. And how groups with several tiles do without those whose rows are
/// all past their lengths: the rows are sorted by length on the device, and every group gets tiles
/// of all lengths, the longest first, about as many steps as the others. So the tiles that are
/// *active* in a step are its first ones. Outputs past the lengths are cleared beforehand.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// What a kernel is compiled for: groups with few tiles, with many, or with many whose rows are
/// sorted. Each engine says how many are few.
enum class GroupTiles { kFew, kMany, kSorted };

/// Some tiles of the batch, `apart` from one to the next.
struct TileSpan {
  int first;
  int apart;
  int count;

  __device__ int number(int k) const { return first + k * apart; }

  /// Every `sets`-th of them, from number `set` on; none for a set beyond the last.
  __device__ TileSpan of_set(int set, int sets) const {
    return {number(set), apart * sets, set < sets ? (count - set + sets - 1) / sets : 0};
  }

  /// The place of a tile's row in the order of rows; at N and beyond there are none.
  __device__ int place(int k, int tile_row) const {
    return first * kTileRows + tile_row + k * (apart * kTileRows);
  }
};

/// The tiles of a launch go to its groups in turns.
struct TileDeal {
  int first = 0;                         // tile of the launch
  int groups = 1;                        // of the launch
  std::int32_t const* order = nullptr;   // [N] the rows, sorted; or null: as they are
  std::int32_t const* length = nullptr;  // [tiles of the batch] of the longest row, where sorted

  __device__ TileSpan of_group(int group, int tiles) const {
    return {first + group, groups, tiles};
  }

  /// The row at a place below N.
  __device__ int row(int place) const { return order == nullptr ? place : order[place]; }
};

/// Tiles begin at multiples of so many steps, so that they find barriers in the phase that these
/// have at a kernel's start.
inline constexpr int kBeginSteps = 4;

/// The chunk's step from which on a tile is active, where time descends, or is not, where it
/// ascends.
template <typename Steps>
__device__ int turning_step(Steps const& steps, int tile) {
  TileDeal const& deal = steps.deal;
  int length = steps.steps;
  if (deal.length != nullptr) {
    bool const has_rows = tile * kTileRows < steps.batch;
    int const rest = has_rows ? deal.length[tile] - static_cast<int>(steps.first_time) : 0;
    length = min(max(rest, 0), steps.steps);
  }
  return steps.ascends() ? length : (steps.steps - length) / kBeginSteps * kBeginSteps;
}

/// How many of some tiles are active, step by step; there may be steps without any. These are the
/// first ones, and a tile's steps are contiguous: where time ascends tiles end, the last one first;
/// where it descends they begin. All of them are always active in kernels that never have sorted
/// rows.
template <typename Steps, bool kSorts = true>
class ActiveTiles {
 public:
  /// In the chunk's first step.
  __device__ ActiveTiles(Steps const& steps, TileSpan const& tiles)
      : steps_{steps}, tiles_{tiles}, count_{!kSorts || steps.ascends() ? tiles.count : 0} {
    if constexpr (kSorts) settle(0);
  }

  __device__ int count() const { return count_; }

  /// Goes on to the next step.
  __device__ void advance() {
    if constexpr (kSorts) {
      if (--until_turn_ == 0) settle(turning_step(steps_, next_tile()));
    }
  }

 private:
  /// The tile that ends or begins next.
  __device__ int next_tile() const { return tiles_.number(steps_.ascends() ? count_ - 1 : count_); }

  /// Lets the tiles end or begin that do so up to this step.
  __device__ void settle(int step) {
    int const last_count = steps_.ascends() ? 0 : tiles_.count;
    until_turn_ = INT_MAX;
    while (count_ != last_count) {
      int const turn = turning_step(steps_, next_tile());
      if (turn > step) {
        until_turn_ = turn - step;
        return;
      }
      count_ += steps_.ascends() ? -1 : 1;
    }
  }

  Steps const& steps_;
  TileSpan tiles_;
  int count_;
  int until_turn_ = 0;  // steps
};

/// Where in the order the number-th tile of the sorted rows goes. Tiles are dealt in rounds, one to
/// each group, every second round beginning with the last group: the one that got the longest tile
/// of a round gets the shortest of the next. Where tiles are left over, the first groups get them;
/// the round before these is dealt the other way, so that they have its shortest ones.
GRU_HOST_DEVICE inline int dealt_tile(int number, int groups, int batch) {
  int const round = number / groups;
  int const rounds = batch / (groups * kTileRows);  // that are full
  bool const is_reversed = round < rounds && (rounds - round) % 2 != 0;
  return is_reversed ? (2 * round + 1) * groups - 1 - number : number;
}

/// What a run needs to sort its rows.
struct RowOrder {
  std::int32_t* order = nullptr;   // see TileDeal
  std::int32_t* length = nullptr;  // likewise

  void lay_out(Carver& carver, std::int64_t batch) {
    order = carver.take<std::int32_t>(batch);
    length = carver.take<std::int32_t>((batch + kTileRows - 1) / kTileRows);
  }
};

/// Sorts the rows, the longest first, those of one length by their numbers, and deals their tiles.
/// A warp places one row, and counts those before it.
template <typename T>
GRU_KERNEL void sort_rows_kernel(LayerView<T> layer, RowOrder rows, int groups) {
  int const N = static_cast<int>(layer.batch);
  int const n = static_cast<int>((blockIdx.x * blockDim.x + threadIdx.x) / 32);
  int const lane = static_cast<int>(threadIdx.x % 32);
  if (n >= N) return;
  auto const length = static_cast<std::int32_t>(layer.schedule.length(n));
  int before = 0;
  for (int other = lane; other < N; other += 32) {
    std::int64_t const its = layer.schedule.length(other);
    if (its > length || (its == length && other < n)) ++before;
  }
  for (int distance = 16; distance > 0; distance /= 2) {
    before += __shfl_xor_sync(0xffffffffu, before, distance);
  }
  if (lane != 0) return;
  int const tile = dealt_tile(before / kTileRows, groups, N);
  rows.order[tile * kTileRows + before % kTileRows] = n;
  if (before % kTileRows == 0) rows.length[tile] = length;
}

/// Enqueues the kernel, for launches of so many groups.
template <typename T>
void launch_sort_rows(cudaStream_t stream, LayerView<T> const& layer, RowOrder const& rows,
                      int groups) {
  constexpr int kRows = 4;  // of a block
  auto const blocks = static_cast<unsigned>((layer.batch + kRows - 1) / kRows);
  sort_rows_kernel<T><<<blocks, 32 * kRows, 0, stream>>>(layer, rows, groups);
  GRU_CUDA_TRY(cudaGetLastError());
}

/// Zeros in the rows of the steps that are past a sample's length, of `steps` steps from time index
/// first_time on; `to` is the first of their rows.
template <typename T>
GRU_KERNEL void clear_past_lengths_kernel(LayerView<T> layer, std::int64_t first_time, int steps,
                                          T* to, Rows rows, std::int64_t width) {
  std::int64_t const n = blockIdx.x;
  std::int64_t const rest = layer.schedule.length(n) - first_time;
  for (std::int64_t i = (rest > 0 ? rest : 0) + blockIdx.y; i < steps; i += gridDim.y) {
    T* const row = to + rows.at(i, n);
    for (std::int64_t k = threadIdx.x; k < width; k += blockDim.x) row[k] = convert<T>(0.0f);
  }
}

/// Enqueues the kernel.
template <typename T>
void launch_clear_past_lengths(cudaStream_t stream, LayerView<T> const& layer,
                               std::int64_t first_time, int steps, T* to, Rows const& rows,
                               std::int64_t width) {
  dim3 const blocks{static_cast<unsigned>(layer.batch),
                    static_cast<unsigned>(std::clamp(steps, 1, 16))};
  clear_past_lengths_kernel<T>
      <<<blocks, 128, 0, stream>>>(layer, first_time, steps, to, rows, width);
  GRU_CUDA_TRY(cudaGetLastError());
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
