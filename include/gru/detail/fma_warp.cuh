// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <gru/detail/approximate.cuh>
#include <gru/detail/cuda_types.cuh>
#include <gru/detail/device.cuh>
#include <gru/detail/ptx.cuh>
#include <gru/detail/recurrence.cuh>
#include <gru/detail/sequence.hpp>
#include <gru/detail/stepwise_kernels.cuh>

/// How the persistent kernels for few rows multiply the state with R: by fused multiply-adds of
/// floats, R in registers.
///
/// A warp has all the depth of its units' three rows of R. Groups of kDepthLanes lanes have some of
/// the units each, and share the depth: of each *slice* of 4 kDepthLanes values a lane has four. So
/// a lane reads its part of a slice of the state by one 16-byte load, every lane's sums are parts
/// of its units' sums, and exchanging halves of them between the lanes adds them up and deals them
/// out in one go.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// What a lane sends to the others: the state as the product takes it.
template <typename T>
__device__ float as_factor(float value) {
  return convert<float>(convert<T>(value));
}

/// The order in which the lanes of all warps hold R: for each warp, slice, gate (z, r, g) and unit
/// of a lane, 32 lanes of four floats. Units beyond H and depth beyond H are zero.
struct FmaOrder {
  int warps = 0;        // of all blocks
  int slices = 0;       // of the depth
  int lane_units = 0;   // units of a lane
  int depth_lanes = 0;  // lanes that share the depth

  GRU_HOST_DEVICE int slice_depth() const { return 4 * depth_lanes; }
  GRU_HOST_DEVICE int warp_units() const { return 32 / depth_lanes * lane_units; }
  GRU_HOST_DEVICE std::int64_t fragment(int warp, int slice, int gate, int unit) const {
    std::int64_t const at = (std::int64_t{warp} * slices + slice) * 3 + gate;
    return (at * lane_units + unit) * 32;
  }
  GRU_HOST_DEVICE std::int64_t fragments() const { return fragment(warps, 0, 0, 0); }
};

/// R in that order, as floats, with DropConnect's mask applied where on. Threads are numbered so
/// that neighbours read neighbours, whichever way R lies.
template <typename T>
GRU_KERNEL void pack_fma_weights_kernel(Masks masks, GateColumns columns, WeightView view,
                                        FmaOrder order, T const* weights, float4* packed) {
  std::int64_t rest = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (rest >= order.fragments()) return;
  auto const next = [&](int extent) {
    auto const digit = static_cast<int>(rest % extent);
    rest /= extent;
    return digit;
  };
  int const quads = order.slices * order.depth_lanes;
  int const units = order.warps * order.warp_units();
  int const fast = next(view.by_input ? units : quads);
  int const position = next(3);
  int const slow = next(view.by_input ? quads : units);
  int const unit = view.by_input ? fast : slow;
  int const quad = view.by_input ? slow : fast;
  float values[4];
  for (int i = 0; i < 4; ++i) {
    std::int64_t const k = 4 * quad + i;
    values[i] = 0;
    if (unit >= view.hidden || k >= view.hidden) continue;
    std::int64_t const gate_unit = position * view.hidden + unit;
    std::int64_t const row = view.by_input ? k : gate_unit;
    std::int64_t const column = view.by_input ? gate_unit : k;
    bool const kept = !masks.dropconnect.on || keeps_weight(masks, columns, view, row, column);
    if (kept) values[i] = convert<float>(weights[row * view.pitch + column]);
  }
  int const gate = static_cast<int>(columns.gate_at(position));
  int const lane =
      unit % order.warp_units() / order.lane_units * order.depth_lanes + quad % order.depth_lanes;
  std::int64_t const fragment = order.fragment(unit / order.warp_units(), quad / order.depth_lanes,
                                               gate, unit % order.lane_units);
  packed[fragment + lane] = make_float4(values[0], values[1], values[2], values[3]);
}

/// Enqueues the packing.
template <typename T>
void pack_fma_weights(cudaStream_t stream, LayerView<T> const& layer, WeightView const& view,
                      FmaOrder const& order, T const* weights, float4* packed) {
  auto const blocks = static_cast<unsigned>((order.fragments() + 255) / 256);
  pack_fma_weights_kernel<T>
      <<<blocks, 256, 0, stream>>>(layer.masks, layer.columns, view, order, weights, packed);
  GRU_CUDA_TRY(cudaGetLastError());
}

/// sums[gate][row * kUnits + unit] += a lane's part of a slice.
template <int kUnits, int kRows>
__device__ void multiply_slice(float (&sums)[3][kRows * kUnits], float4 const (&weights)[3][kUnits],
                               float4 const (&state)[kRows]) {
  auto const multiply = [&](auto component) {
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
#pragma unroll
      for (int gate = 0; gate < 3; ++gate) {
#pragma unroll
        for (int unit = 0; unit < kUnits; ++unit) {
          float& sum = sums[gate][row * kUnits + unit];
          sum = fmaf(component(weights[gate][unit]), component(state[row]), sum);
        }
      }
    }
  };
  multiply([](float4 const& v) { return v.x; });
  multiply([](float4 const& v) { return v.y; });
  multiply([](float4 const& v) { return v.z; });
  multiply([](float4 const& v) { return v.w; });
}

/// Adds up over groups of kDepthLanes lanes: sums[gate][0] of a group's lane l becomes the whole
/// sum of value l / (kDepthLanes / kValues). The order of the additions is the same for every lane
/// that gets the same value.
template <int kDepthLanes, int kValues>
__device__ void reduce_sums(float (&sums)[3][kValues]) {
  constexpr unsigned kAll = 0xffffffff;
  int const lane = threadIdx.x % 32;
  int distance = kDepthLanes / 2;
#pragma unroll
  for (int half = kValues / 2; half >= 1; half /= 2) {
    bool const upper = (lane & distance) != 0;
#pragma unroll
    for (int gate = 0; gate < 3; ++gate) {
#pragma unroll
      for (int i = 0; i < half; ++i) {
        float const keep = upper ? sums[gate][i + half] : sums[gate][i];
        float const give = upper ? sums[gate][i] : sums[gate][i + half];
        sums[gate][i] = keep + __shfl_xor_sync(kAll, give, distance);
      }
    }
    distance /= 2;
  }
#pragma unroll
  for (; distance >= 1; distance /= 2) {
#pragma unroll
    for (int gate = 0; gate < 3; ++gate) {
      sums[gate][0] += __shfl_xor_sync(kAll, sums[gate][0], distance);
    }
  }
}

/// How a warp with kUnits units does kRows rows: kGroupRows at once, one group behind the other. A
/// lane finishes one unit of one row; where there are more lanes than that, several do the same.
template <int kUnits_, int kDepthLanes_, int kGroupRows_, int kRows_>
struct FmaShares {
  static constexpr int kUnits = kUnits_;
  static constexpr int kDepthLanes = kDepthLanes_;
  static constexpr int kGroupRows = kGroupRows_;
  static constexpr int kRows = kRows_;
  static constexpr int kLaneUnits = kUnits * kDepthLanes / 32;
  static constexpr int kValues = kGroupRows * kLaneUnits;  // of a lane
  static constexpr int kGroups = kRows / kGroupRows;
  static constexpr int kReplicas = kDepthLanes / kValues;  // lanes to which a sum comes
  static constexpr int kCopies = kReplicas / kGroups;      // lanes that finish the same
  static_assert(kValues * kReplicas == kDepthLanes && kCopies * kGroups == kReplicas &&
                    kCopies > 0 && kLaneUnits > 0,
                "a warp has a lane for each unit of each row");

  // Of this lane.
  int depth_lane = 0;
  int group = 0;
  int copy = 0;
  int unit = 0;  // of the warp
  int row = 0;   // of kRows

  __device__ explicit FmaShares(int lane) : depth_lane{lane % kDepthLanes} {
    int const value = depth_lane / kReplicas;
    group = depth_lane % kReplicas % kGroups;
    copy = depth_lane % kReplicas / kGroups;
    unit = lane / kDepthLanes * kLaneUnits + value % kLaneUnits;
    row = group * kGroupRows + value / kLaneUnits;
  }
};

/// A lane's part of R: kShared of the kSlices slices in shared memory, the rest in registers.
template <typename Shares, int kSlices, int kShared>
class FmaWeights {
  static constexpr int kUnits = Shares::kLaneUnits;
  static constexpr int kSliceBytes = Shares::kDepthLanes * 16;

 public:
  static constexpr int kSharedBytes = kShared * 3 * kUnits * 512;  // of a warp

  /// `shared` is the warp's part of shared memory, aligned to 16 bytes.
  __device__ FmaWeights(FmaOrder const& order, int warp, int lane, float4 const* packed,
                        std::byte* shared)
      : shared_{ptx::shared_address(shared) + lane * 16} {
    packed += lane;
#pragma unroll
    for (int slice = 0; slice < kSlices; ++slice) {
#pragma unroll
      for (int gate = 0; gate < 3; ++gate) {
#pragma unroll
        for (int unit = 0; unit < kUnits; ++unit) {
          float4 const value = packed[order.fragment(warp, slice, gate, unit)];
          if (is_shared(slice)) {
            auto* const to = reinterpret_cast<float4*>(shared) + lane;
            to[(slice / 2 * 3 + gate) * kUnits * 32 + unit * 32] = value;
          } else {
            held_[held_before(slice)][gate][unit] = value;
          }
        }
      }
    }
  }

  /// The sums of the first `groups` groups of rows, of which the lane keeps its own. Row r's state
  /// lies at shared address `state` + r * kSlices * kSliceBytes, of which the lane's 16 bytes.
  __device__ void multiply(Shares const& shares, std::uint32_t state, int groups,
                           float (&mine)[3][1]) const {
#pragma unroll 1
    for (int group = 0; group < (Shares::kGroups == 1 ? 1 : groups); ++group) {
      float sums[3][Shares::kValues] = {};
      add_group(state, sums);
      reduce_sums<Shares::kDepthLanes, Shares::kValues>(sums);
      if (Shares::kGroups == 1 || group == shares.group) {
        for (int gate = 0; gate < 3; ++gate) mine[gate][0] = sums[gate][0];
      }
      state += Shares::kGroupRows * kSlices * kSliceBytes;
    }
  }

 private:
  /// Adds the lane's part of the products of a group of rows.
  __device__ void add_group(std::uint32_t state, float (&sums)[3][Shares::kValues]) const {
    constexpr int kGroupRows = Shares::kGroupRows;
#pragma unroll
    for (int slice = 0; slice < kSlices; ++slice) {
      float4 factors[kGroupRows];
#pragma unroll
      for (int row = 0; row < kGroupRows; ++row) {
        factors[row] = load(state + (row * kSlices + slice) * kSliceBytes);
      }
      if (is_shared(slice)) {
        float4 weights[3][kUnits];
#pragma unroll
        for (int gate = 0; gate < 3; ++gate) {
#pragma unroll
          for (int unit = 0; unit < kUnits; ++unit) {
            weights[gate][unit] = load(shared_ + ((slice / 2 * 3 + gate) * kUnits + unit) * 512);
          }
        }
        multiply_slice<kUnits, kGroupRows>(sums, weights, factors);
      } else {
        multiply_slice<kUnits, kGroupRows>(sums, held_[held_before(slice)], factors);
      }
    }
  }

  /// Shared slices alternate with held ones, so that loads and products overlap.
  __device__ static constexpr bool is_shared(int slice) {
    return slice % 2 == 0 && slice / 2 < kShared;
  }
  /// How many slices before this one are held.
  __device__ static constexpr int held_before(int slice) {
    int const shared_before = (slice + 1) / 2 < kShared ? (slice + 1) / 2 : kShared;
    return slice - shared_before;
  }
  __device__ static float4 load(std::uint32_t address) {
    ptx::Words4 const words = ptx::load_shared_16(address);
    return make_float4(__uint_as_float(words.x), __uint_as_float(words.y), __uint_as_float(words.z),
                       __uint_as_float(words.w));
  }

  float4 held_[kSlices - kShared][3][kUnits];
  std::uint32_t shared_;
};

/// What a warp's lanes need of the outside for the steps to come, on its way through shared memory.
/// Lanes that finish the same unit of the same row fetch it for different steps, so that many steps
/// are not held up by it at all. H200, H 1024, N 1: 1.04 instead of 1.13 us a step, where each lane
/// fetched for each step.
template <typename T, typename Shares>
class FmaInputs {
  static constexpr int kSteps = Shares::kCopies;               // fetched at once
  static constexpr int kAhead = kSteps >= 8 ? 1 : 4 / kSteps;  // fetches under way
  static constexpr int kRing = (kAhead + 1) * kSteps;
  static constexpr int kStepBytes = Shares::kRows * Shares::kUnits * 16;  // z, r, g, flags

 public:
  static constexpr int kWarpBytes = kRing * kStepBytes;

  /// Begins the fetch of the first steps. `shared` is the warp's, aligned to 16 bytes; the lane
  /// finishes this unit of row n.
  __device__ FmaInputs(RecurrentForward<T> const& pass, std::byte* shared, int n, int unit,
                       Shares const& shares)
      : pass_{pass},
        mine_{ptx::shared_address(shared) + (shares.row * Shares::kUnits + shares.unit) * 16},
        step_{shares.copy},
        flag_shift_{step_flags::shift(unit)},
        is_row_{n < pass.batch},
        is_inside_{n < pass.batch && unit < pass.hidden} {
    std::int64_t const row = pass.first_row() * std::int64_t{pass.batch} + n;
    next_p_ = reinterpret_cast<std::byte const*>(pass.p + row * 3 * pass.hidden + unit) +
              shares.copy * pass.p_step;
    next_flags_ =
        pass.flags + row * pass.flags_pitch + unit / 8 * 4 + shares.copy * pass.flags_step;
    ptx::keep(mine_);
    for (int i = 0; i < kAhead; ++i) fetch();
  }

  /// The chunk's i-th step; all lanes call it for each step, in turn. `finish` makes an input of
  /// it: later, so that nothing waits for the words to arrive before the states have.
  __device__ ptx::Words4 next(int i) {
    if (i % kSteps == 0) {
      ptx::wait_copies<kAhead - 1>();
      if (kSteps > 1) __syncwarp();
      fetch();
    }
    return ptx::load_shared_16(mine_ + i % kRing * kStepBytes);
  }

  __device__ StepInput<1> finish(ptx::Words4 const& words) const {
    StepInput<1> input;
    input.p[0][0] = __uint_as_float(words.x);
    input.p[1][0] = __uint_as_float(words.y);
    input.p[2][0] = __uint_as_float(words.z);
    input.flags =
        pass_.flags != nullptr ? step_flags::of_lane<1>(words.w, flag_shift_) : step_flags::kPlain;
    if (!is_row_) input.flags = 0;
    return input;
  }

 private:
  /// Begins the fetch of the next kSteps steps; this lane has one of them.
  __device__ void fetch() {
    if (is_inside_ && step_ < pass_.steps) {
      std::uint32_t const to = mine_ + step_ % kRing * kStepBytes;
#pragma unroll
      for (int gate = 0; gate < 3; ++gate) {
        ptx::copy_async<4>(to + gate * 4, next_p_ + pass_.p_gate[gate]);
      }
      if (pass_.flags != nullptr) ptx::copy_async<4>(to + 12, next_flags_);
    }
    ptx::commit_copies();
    step_ += kSteps;
    next_p_ += kSteps * pass_.p_step;
    next_flags_ += kSteps * pass_.flags_step;
  }

  RecurrentForward<T> const& pass_;
  std::uint32_t mine_;  // where the lane reads
  int step_;            // that the lane fetches next
  int flag_shift_;
  bool is_row_;
  bool is_inside_;
  std::byte const* next_p_;
  std::uint8_t const* next_flags_;
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
