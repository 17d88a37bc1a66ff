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
#include <gru/detail/step_flags.cuh>
#include <gru/detail/stepwise_kernels.cuh>

/// How the persistent kernels for few rows multiply with R: by fused multiply-adds of floats, R in
/// registers.
///
/// Forward, the state is multiplied with three matrices, those of the gates, which are as deep as
/// there are units. Backward, dq is multiplied with one, three times as deep: with R's transpose. A
/// warp has all the depth of its units, or shares it with other warps. Groups of kDepthLanes lanes
/// have some of the units each, and share the depth: of each *slice* of 4 kDepthLanes values a lane
/// has four. So a lane reads its part of a slice of what is multiplied by one 16-byte load, every
/// lane's sums are parts of its units' sums, and exchanging halves of them between the lanes adds
/// them up and deals them out in one go.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// What a lane sends to the others: a value as the product takes it.
template <typename T>
__device__ float as_factor(float value) {
  return convert<float>(convert<T>(value));
}

/// Where dq of a unit stands in the depth of backward: the gates z and r of all units in pairs,
/// then g of all units. So two stores hand a unit's on.
struct GradientDepth {
  int pitch = 0;  // units, padded

  GRU_HOST_DEVICE int depth() const { return 3 * pitch; }
  GRU_HOST_DEVICE int pair(int unit) const { return 2 * unit; }
  GRU_HOST_DEVICE int candidate(int unit) const { return 2 * pitch + unit; }

  // The other way round; beyond the depth, units beyond the pitch.
  GRU_HOST_DEVICE int gate_at(int k) const { return k < 2 * pitch ? k % 2 : 2; }
  GRU_HOST_DEVICE int unit_at(int k) const { return k < 2 * pitch ? k / 2 : k - 2 * pitch; }
};

/// The order in which the lanes of all warps hold R: for each warp, slice, matrix (forward: z, r,
/// g) and unit of a lane, 32 lanes of four floats. Units and depth beyond the layer are zero.
struct FmaOrder {
  int warps = 0;        // of all blocks
  int slices = 0;       // of a warp's depth
  int lane_units = 0;   // units of a lane
  int depth_lanes = 0;  // lanes that share the depth
  Pass pass = Pass::kForward;
  int parts = 1;  // warps, one after the other, that share the depth of the same units
  GradientDepth gradients = {};  // backward

  GRU_HOST_DEVICE int matrices() const { return pass == Pass::kForward ? 3 : 1; }
  GRU_HOST_DEVICE int warp_units() const { return 32 / depth_lanes * lane_units; }
  GRU_HOST_DEVICE std::int64_t fragment(int warp, int slice, int matrix, int unit) const {
    std::int64_t const at = (std::int64_t{warp} * slices + slice) * matrices() + matrix;
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
  bool const forward = order.pass == Pass::kForward;
  int const part_quads = order.slices * order.depth_lanes;
  int const quads = order.parts * part_quads;
  int const units = order.warps / order.parts * order.warp_units();
  bool const units_are_fast = view.by_input == forward;
  int const fast = next(units_are_fast ? units : quads);
  int const position = next(order.matrices());
  int const slow = next(units_are_fast ? quads : units);
  int const unit = units_are_fast ? fast : slow;
  int const quad = units_are_fast ? slow : fast;
  std::int64_t const positions[3] = {columns.z, columns.r, GateColumns::g};
  float values[4];
  for (int i = 0; i < 4; ++i) {
    int const depth = 4 * quad + i;
    // What the weight leads from, and to.
    int const from = forward ? depth : unit;
    int const to = forward ? unit : order.gradients.unit_at(depth);
    std::int64_t const block = forward ? position : positions[order.gradients.gate_at(depth)];
    values[i] = 0;
    if (from >= view.hidden || to >= view.hidden) continue;
    std::int64_t const gate_unit = block * view.hidden + to;
    std::int64_t const row = view.by_input ? from : gate_unit;
    std::int64_t const column = view.by_input ? gate_unit : from;
    bool const kept = !masks.dropconnect.on || keeps_weight(masks, columns, view, row, column);
    if (kept) values[i] = convert<float>(weights[row * view.pitch + column]);
  }
  int const matrix = forward ? static_cast<int>(columns.gate_at(position)) : 0;
  int const warp = unit / order.warp_units() * order.parts + quad / part_quads;
  int const slice = quad % part_quads / order.depth_lanes;
  int const lane =
      unit % order.warp_units() / order.lane_units * order.depth_lanes + quad % order.depth_lanes;
  std::int64_t const fragment = order.fragment(warp, slice, matrix, unit % order.lane_units);
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

/// sums[matrix][row * kUnits + unit] += a lane's part of a slice.
template <int kMatrices, int kUnits, int kRows>
__device__ void multiply_slice(float (&sums)[kMatrices][kRows * kUnits],
                               float4 const (&weights)[kMatrices][kUnits],
                               float4 const (&factors)[kRows]) {
  auto const multiply = [&](auto component) {
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
#pragma unroll
      for (int matrix = 0; matrix < kMatrices; ++matrix) {
#pragma unroll
        for (int unit = 0; unit < kUnits; ++unit) {
          float& sum = sums[matrix][row * kUnits + unit];
          sum = fmaf(component(weights[matrix][unit]), component(factors[row]), sum);
        }
      }
    }
  };
  multiply([](float4 const& v) { return v.x; });
  multiply([](float4 const& v) { return v.y; });
  multiply([](float4 const& v) { return v.z; });
  multiply([](float4 const& v) { return v.w; });
}

/// Adds up over groups of kDepthLanes lanes: sums[matrix][0] of a group's lane l becomes the whole
/// sum of value l / (kDepthLanes / kCount), for the first kCount values. The order of the additions
/// is the same for every lane that gets the same value.
template <int kDepthLanes, int kCount, int kMatrices, int kValues>
__device__ void reduce_sums(float (&sums)[kMatrices][kValues]) {
  if constexpr (kDepthLanes > 1) {
    constexpr unsigned kAll = 0xffffffff;
    constexpr int kDistance = kDepthLanes / 2;
    constexpr int kHalf = kCount / 2;
    bool const upper = (threadIdx.x & kDistance) != 0;
#pragma unroll
    for (int matrix = 0; matrix < kMatrices; ++matrix) {
      if constexpr (kHalf == 0) {
        sums[matrix][0] += __shfl_xor_sync(kAll, sums[matrix][0], kDistance);
      }
#pragma unroll
      for (int i = 0; i < kHalf; ++i) {
        float const keep = upper ? sums[matrix][i + kHalf] : sums[matrix][i];
        float const give = upper ? sums[matrix][i] : sums[matrix][i + kHalf];
        sums[matrix][i] = keep + __shfl_xor_sync(kAll, give, kDistance);
      }
    }
    reduce_sums<kDistance, (kHalf > 0 ? kHalf : 1)>(sums);
  }
}

/// How a warp multiplies for kUnits units: kGroupRows rows at once. kParts warps share the depth of
/// the same units.
template <int kUnits_, int kDepthLanes_, int kGroupRows_, int kParts_ = 1>
struct FmaTile {
  static constexpr int kUnits = kUnits_;
  static constexpr int kDepthLanes = kDepthLanes_;
  static constexpr int kGroupRows = kGroupRows_;
  static constexpr int kParts = kParts_;
  static constexpr int kLaneUnits = kUnits * kDepthLanes / 32;
  static constexpr int kValues = kGroupRows * kLaneUnits;  // of a lane
  static constexpr int kReplicas = kDepthLanes / kValues;  // lanes to which a sum comes
  static_assert(kLaneUnits > 0 && kValues * kReplicas == kDepthLanes,
                "a warp has a lane for each unit of the rows that it multiplies at once");

  // Of this lane: which sum it gets.
  int depth_lane = 0;
  int replica = 0;
  int unit = 0;  // of the warp
  int row = 0;   // of kGroupRows

  __device__ explicit FmaTile(int lane)
      : depth_lane{lane % kDepthLanes}, replica{depth_lane % kReplicas} {
    int const value = depth_lane / kReplicas;
    unit = lane / kDepthLanes * kLaneUnits + value % kLaneUnits;
    row = value / kLaneUnits;
  }
};

/// How a warp with kUnits units does kRows rows: kGroupRows at once, one group behind the other. A
/// lane finishes one unit of one row; where there are more lanes than that, several do the same.
template <int kUnits, int kDepthLanes, int kGroupRows, int kRows_>
struct FmaShares : FmaTile<kUnits, kDepthLanes, kGroupRows> {
  static constexpr int kRows = kRows_;
  static constexpr int kGroups = kRows / kGroupRows;
  static constexpr int kCopies = FmaShares::kReplicas / kGroups;  // lanes that finish the same
  static_assert(kCopies > 0 && kCopies * kGroups == FmaShares::kReplicas,
                "a warp has a lane for each unit of each row");

  // Of this lane; the row is one of kRows.
  int group = 0;
  int copy = 0;

  __device__ explicit FmaShares(int lane)
      : FmaTile<kUnits, kDepthLanes, kGroupRows>{lane},
        group{this->replica % kGroups},
        copy{this->replica / kGroups} {
    this->row += group * kGroupRows;
  }
};

/// A lane's part of R: kShared of the kSlices slices in shared memory, the rest in registers.
template <typename Tile, int kMatrices, int kSlices, int kShared>
class FmaWeights {
  static constexpr int kUnits = Tile::kLaneUnits;
  static constexpr int kSliceBytes = Tile::kDepthLanes * 16;
  static constexpr int kRowBytes = Tile::kParts * kSlices * kSliceBytes;

 public:
  static constexpr int kSharedBytes = kShared * kMatrices * kUnits * 512;  // of a warp

  using Sums = float[kMatrices][Tile::kValues];

  /// `shared` is the warp's part of shared memory, aligned to 16 bytes.
  __device__ FmaWeights(FmaOrder const& order, int warp, int lane, float4 const* packed,
                        std::byte* shared)
      : shared_{ptx::shared_address(shared) + lane * 16} {
    packed += lane;
#pragma unroll
    for (int slice = 0; slice < kSlices; ++slice) {
#pragma unroll
      for (int matrix = 0; matrix < kMatrices; ++matrix) {
#pragma unroll
        for (int unit = 0; unit < kUnits; ++unit) {
          float4 const value = packed[order.fragment(warp, slice, matrix, unit)];
          if (is_shared(slice)) {
            auto* const to = reinterpret_cast<float4*>(shared) + lane;
            to[(slice / 2 * kMatrices + matrix) * kUnits * 32 + unit * 32] = value;
          } else {
            held_[held_before(slice)][matrix][unit] = value;
          }
        }
      }
    }
  }

  /// Adds the lane's part of the products of a group of rows: factors(row, slice) are the lane's
  /// four values of a row's slice.
  template <typename Factors>
  __device__ void add(Factors const& factors_of, Sums& sums) const {
    constexpr int kGroupRows = Tile::kGroupRows;
#pragma unroll
    for (int slice = 0; slice < kSlices; ++slice) {
      float4 factors[kGroupRows];
#pragma unroll
      for (int row = 0; row < kGroupRows; ++row) factors[row] = factors_of(row, slice);
      if (is_shared(slice)) {
        float4 weights[kMatrices][kUnits];
#pragma unroll
        for (int matrix = 0; matrix < kMatrices; ++matrix) {
#pragma unroll
          for (int unit = 0; unit < kUnits; ++unit) {
            weights[matrix][unit] =
                load(shared_ + ((slice / 2 * kMatrices + matrix) * kUnits + unit) * 512);
          }
        }
        multiply_slice<kMatrices, kUnits, kGroupRows>(sums, weights, factors);
      } else {
        multiply_slice<kMatrices, kUnits, kGroupRows>(sums, held_[held_before(slice)], factors);
      }
    }
  }

  /// The sums over the warp's depth of a group of rows whose values are in shared memory, the
  /// lane's first 16 bytes at `at`; sums[.][0] becomes the one that Tile says.
  __device__ void multiply_group(std::uint32_t at, Sums& sums) const {
    add([&](int row, int slice) { return load(at + row * kRowBytes + slice * kSliceBytes); }, sums);
    reduce_sums<Tile::kDepthLanes, Tile::kValues>(sums);
  }

  /// The sums of the first `groups` groups of rows, of which the lane keeps its own.
  template <typename Shares>
  __device__ void multiply(Shares const& shares, std::uint32_t at, int groups,
                           float (&mine)[kMatrices][1]) const {
#pragma unroll 1
    for (int group = 0; group < (Shares::kGroups == 1 ? 1 : groups); ++group) {
      Sums sums = {};
      multiply_group(at, sums);
      if (Shares::kGroups == 1 || group == shares.group) {
        for (int matrix = 0; matrix < kMatrices; ++matrix) mine[matrix][0] = sums[matrix][0];
      }
      at += Shares::kGroupRows * kRowBytes;
    }
  }

 private:
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
    return ptx::as_floats(ptx::load_shared_16(address));
  }

  float4 held_[kSlices - kShared][kMatrices][kUnits];
  std::uint32_t shared_;
};

/// What a lane needs of the outside forward, one unit of a row: of each step the words z, r, g of
/// the input product, and the flags.
template <typename T>
class FmaForwardSource {
 public:
  using Steps = RecurrentForward<T>;
  using Input = StepInput<1>;
  static constexpr int kWords = 4;
  static constexpr int kFlags = 3;  // the word

  /// Begins at the chunk's step `first`.
  __device__ FmaForwardSource(RecurrentForward<T> const& pass, int n, int unit, int first)
      : pass_{pass} {
    std::int64_t const row = pass.first_row() * std::int64_t{pass.batch} + n;
    next_p_ = reinterpret_cast<std::byte const*>(pass.p + row * 3 * pass.hidden + unit) +
              first * pass.p_step;
    next_flags_ = pass.flags + row * pass.flags_pitch + unit / 8 * 4 + first * pass.flags_step;
  }

  /// Begins the copy of the step's words.
  __device__ void copy(std::uint32_t to) const {
#pragma unroll
    for (int gate = 0; gate < 3; ++gate) {
      ptx::copy_async<4>(to + gate * 4, next_p_ + pass_.p_gate[gate]);
    }
    if (pass_.flags != nullptr) ptx::copy_async<4>(to + kFlags * 4, next_flags_);
  }

  __device__ void advance(int steps) {
    next_p_ += steps * pass_.p_step;
    next_flags_ += steps * pass_.flags_step;
  }

  __device__ StepInput<1> input(std::uint32_t const (&words)[kWords], std::uint32_t flags) const {
    StepInput<1> input;
    for (int gate = 0; gate < 3; ++gate) input.p[gate][0] = __uint_as_float(words[gate]);
    input.flags = flags;
    return input;
  }

 private:
  RecurrentForward<T> const& pass_;
  std::byte const* next_p_;
  std::uint8_t const* next_flags_;
};

/// What a warp's lanes need of the outside for the steps to come, on its way through shared memory.
/// Lanes that finish the same unit of the same row fetch it for different steps, so that many steps
/// are not held up by it at all. H200, H 1024, N 1: 1.04 instead of 1.13 us a step, where each lane
/// fetched for each step.
template <typename Source, typename Shares>
class FmaInputs {
  using Steps = typename Source::Steps;
  static constexpr int kSteps = Shares::kCopies;               // fetched at once
  static constexpr int kAhead = kSteps >= 8 ? 1 : 4 / kSteps;  // fetches under way
  static constexpr int kRing = (kAhead + 1) * kSteps;
  static constexpr int kLaneBytes = Source::kWords * 4;
  static constexpr int kStepBytes = Shares::kRows * Shares::kUnits * kLaneBytes;

 public:
  static constexpr int kWarpBytes = kRing * kStepBytes;

  using Words = std::uint32_t[Source::kWords];

  /// Begins the fetch of the first steps. `shared` is the warp's, aligned to 16 bytes; the lane
  /// finishes this unit of row n.
  __device__ FmaInputs(Steps const& pass, std::byte* shared, int n, int unit, Shares const& shares)
      : pass_{pass},
        source_{pass, n, unit, shares.copy},
        mine_{ptx::shared_address(shared) +
              (shares.row * Shares::kUnits + shares.unit) * kLaneBytes},
        step_{shares.copy},
        flag_shift_{step_flags::shift(unit)},
        is_row_{n < pass.batch},
        is_inside_{n < pass.batch && unit < pass.hidden} {
    ptx::keep(mine_);
    for (int i = 0; i < kAhead; ++i) fetch();
  }

  /// The words of the chunk's i-th step done; all lanes call it for each step, in turn. `finish`
  /// makes an input of them: later, so that nothing waits for them to arrive before it must.
  __device__ void next(int i, Words& words) {
    if (i % kSteps == 0) {
      ptx::wait_copies<kAhead - 1>();
      if (kSteps > 1) __syncwarp();
      fetch();
    }
#pragma unroll
    for (int quad = 0; quad < Source::kWords; quad += 4) {
      ptx::Words4 const loaded = ptx::load_shared_16(mine_ + i % kRing * kStepBytes + quad * 4);
      words[quad] = loaded.x;
      words[quad + 1] = loaded.y;
      words[quad + 2] = loaded.z;
      words[quad + 3] = loaded.w;
    }
  }

  __device__ typename Source::Input finish(Words const& words) const {
    std::uint32_t flags = step_flags::kPlain;
    if (pass_.flags != nullptr) {
      flags = step_flags::of_lane<1>(words[Source::kFlags], flag_shift_);
    }
    return source_.input(words, is_row_ ? flags : 0);
  }

 private:
  /// Begins the fetch of the next kSteps steps; this lane has one of them.
  __device__ void fetch() {
    if (is_inside_ && step_ < pass_.steps) source_.copy(mine_ + step_ % kRing * kStepBytes);
    ptx::commit_copies();
    step_ += kSteps;
    source_.advance(kSteps);
  }

  Steps const& pass_;
  Source source_;
  std::uint32_t mine_;  // where the lane reads
  int step_;            // that the lane fetches next
  int flag_shift_;
  bool is_row_;
  bool is_inside_;
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
