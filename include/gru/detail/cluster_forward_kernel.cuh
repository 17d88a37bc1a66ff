// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gru/cell.hpp>
#include <gru/detail/approximate.cuh>
#include <gru/detail/cuda_types.cuh>
#include <gru/detail/device.cuh>
#include <gru/detail/layer_products.cuh>
#include <gru/detail/ptx.cuh>
#include <gru/detail/sequence.hpp>
#include <gru/detail/stepwise_kernels.cuh>

/// The recurrence in one kernel: a cluster of thread blocks keeps R in registers and shared memory
/// and carries some rows of the batch through all steps. Clusters never talk to each other.
///
/// Words. A *tile* is 8 rows of the batch, the width of one mma instruction. A *unit group* is 16
/// units, its height; two warps serve each group, one for either half of the products' depth. An
/// *operand* is the state as it multiplies R: T-typed, dropped where recurrent dropout says so,
/// cleared where an episode begins.
///
/// One step of one tile:
///   1. wait until the operands of all units have arrived in this block's shared memory;
///   2. multiply: three accumulators (z, r, g) of 16 units x 8 rows a warp, over half the depth;
///   3. the two warps of a group swap half of their sums, so that each finishes 4 of the 8 rows;
///   4. each lane finishes 2 neighbouring units of one row: cell, zoneout, outputs, reserve;
///   5. and stores its operands in the shared memory of every block of the cluster.
/// A lane whose wait expires waits and sends no more and goes on to the end, so that whoever
/// depends on it expires too, and every barrier of a block is still met by all of its threads.
///
/// Operands are double-buffered, with one transaction barrier a buffer, and that is enough: who has
/// received all operands of step i knows that everyone has read those of step i - 1.
///
/// Order of the units. R's rows are dealt to the mma's so that lane 4 g + q holds units 2 g and
/// 2 g + 1 of its group for rows 2 q and 2 q + 1, all three gates. R's columns (the depth) are
/// dealt so that what a lane needs for two mma's is 8 neighbouring units of row g: one 16-byte
/// load.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

inline constexpr int kTileRows = 8;
inline constexpr int kGroupUnits = 16;
inline constexpr int kInputStages = 4;  // steps of the input product under way or in use

/// How a layer is spread over a cluster. H is padded to kDepth * 64 units.
template <int kBlocks_, int kDepth_, int kSharedDepth_>
struct ClusterShape {
  static constexpr int kBlocks = kBlocks_;  // of the cluster
  static constexpr int kDepth = kDepth_;    // pairs of mma's a warp does for each gate
  static constexpr int kSharedDepth =
      kSharedDepth_;                          // of these, second ones with R from shared memory
  static constexpr int kUnits = kDepth * 64;  // H, padded
  static constexpr int kBlockUnits = kUnits / kBlocks;
  static constexpr int kGroups = kBlockUnits / kGroupUnits;
  static constexpr int kWarps = 2 * kGroups;
  static constexpr int kThreads = 32 * kWarps;
  static_assert(kGroups * kGroupUnits * kBlocks == kUnits, "groups must fill the cluster");

  // Bytes of shared memory.
  static constexpr int kOperands = kUnits * kTileRows * 2;  // a tile's, one buffer
  static constexpr int kWeights = kWarps * kSharedDepth * 3 * 512;
  static constexpr int kSwap = 2 * kWarps * 3 * 32 * 8;               // two turns
  static constexpr int kInputs = kInputStages * kWarps * 3 * 32 * 8;  // a tile's
  static constexpr int kRecords = kThreads * 16;                      // a tile's

  static constexpr int shared_bytes(int tiles) {
    return kWeights + kSwap + tiles * (2 * kOperands + kInputs + kRecords + 16);
  }
};

/// What a launch of the kernel does: steps [first_step, last_step) of the pass, in the order of the
/// schedule.
template <typename T>
struct ClusterForward {
  LayerView<T> layer;
  T const* packed_weights = nullptr;  // from pack_weights_kernel
  float recurrent_scale = 1;
  int tiles = 1;  // of a cluster
  std::int64_t first_step = 0;
  std::int64_t last_step = 0;
  std::int64_t first_time = 0;  // time index of the first row of p
  float const* p = nullptr;     // [steps, N, 3H] x W
  float* state = nullptr;       // [N, H] in and out
  T* operand = nullptr;         // [N, H] in and out
  T* h = nullptr;               // or null
  Rows h_rows;
  bool wide_h = false;     // whether h's rows begin at 4-byte boundaries
  T* reserve = nullptr;    // [T, N, 4H] or null
  OrFloat<T> final_state;  // [N, H] or null
  std::int64_t final_pitch = 0;
  std::uint32_t* status = nullptr;  // set where a wait expired
  std::uint32_t most_polls = 0;     // of one wait
};

/// Where 8 neighbouring units of a row lie in a tile's operands, in bytes: unit block `half` of the
/// 16-unit group `group`. Spread so that neither the stores nor the loads of a warp meet in a bank.
__device__ inline std::uint32_t operand_offset(int group, int row, int half) {
  int const slot = ((row >> 1) * 2 + half) ^ ((row & 1) << 1) ^ ((group & 1) << 2);
  return static_cast<std::uint32_t>(group * 256 + (row & 1) * 128 + slot * 16);
}

/// Two values of T as the mma's take them.
template <typename T>
__device__ std::uint32_t pack(float first, float second) {
  static_assert(sizeof(T) == 2, "packs hold two 16-bit values");
  T const values[2] = {convert<T>(first), convert<T>(second)};
  std::uint32_t word;
  memcpy(&word, values, sizeof word);
  return word;
}

/// Two neighbouring 16-bit values, as one word where `wide`, which needs a 4-byte boundary;
/// otherwise the second only where it is inside the row.
template <typename T>
__device__ void store_pair(T* to, std::uint32_t word, bool wide, bool has_second) {
  if (wide) {
    *reinterpret_cast<std::uint32_t*>(to) = word;
    return;
  }
  T values[2];
  memcpy(values, &word, sizeof word);
  to[0] = values[0];
  if (has_second) to[1] = values[1];
}

/// What a lane keeps of its two units of one row between steps, in shared memory.
struct alignas(16) LaneRecord {
  float state[2];       // carried; 0 where the next step begins an episode
  std::int32_t length;  // of the row; 0 beyond the batch
  std::uint32_t bits;   // 0-3, 4-7: zoneout takes the new state of either unit in steps t % 4;
                        // 8-15: the same for the next four steps;
                        // 16, 17: recurrent dropout keeps either unit
};

inline constexpr std::uint32_t kKeepsOperand = 1u << 16;  // of a LaneRecord's bits

/// Where the packed fragments of R begin that lane 0 of a warp reads: for each of the warp's pairs
/// of mma's j, each gate's block by position, and each mma of the pair, 32 lanes of 16 bytes.
template <typename Shape>
__host__ __device__ constexpr std::int64_t packed_fragment(int rank, int warp, int j, int position,
                                                           int second) {
  std::int64_t const warps = std::int64_t{rank} * Shape::kWarps + warp;
  return (((warps * Shape::kDepth + j) * 3 + position) * 2 + second) * 32;
}

/// R in the order in which the cluster's lanes multiply with it, zero beyond H, and with
/// DropConnect's mask applied where on.
template <typename T, typename Shape>
GRU_KERNEL void pack_weights_kernel(Masks masks, GateColumns columns, WeightView view,
                                    T const* weights, T* packed) {
  std::int64_t const index = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  std::int64_t const fragments = packed_fragment<Shape>(Shape::kBlocks, 0, 0, 0, 0);
  if (index >= fragments) return;
  int const lane = static_cast<int>(index % 32);
  int const second = static_cast<int>(index / 32 % 2);
  int const position = static_cast<int>(index / 64 % 3);
  int const j = static_cast<int>(index / 192 % Shape::kDepth);
  int const warp = static_cast<int>(index / (192 * Shape::kDepth) % Shape::kWarps);
  int const rank = static_cast<int>(index / (192 * Shape::kDepth * Shape::kWarps));
  int const unit = rank * Shape::kBlockUnits + warp / 2 * kGroupUnits + lane / 4 * 2;
  int const k = 32 * (warp % 2 * Shape::kDepth + j) + lane % 4 * 8 + 4 * second;
  // A lane's 8 values: for two pairs of columns, two rows of two columns.
  for (int i = 0; i < 8; ++i) {
    std::int64_t const row_unit = unit + i / 2 % 2;
    std::int64_t const column = k + i / 4 * 2 + i % 2;
    T value = convert<T>(0.0f);
    if (row_unit < view.hidden && column < view.hidden) {
      std::int64_t const gate_unit = position * view.hidden + row_unit;
      std::int64_t const row_of = view.by_input ? column : gate_unit;
      std::int64_t const column_of = view.by_input ? gate_unit : column;
      bool const kept =
          !masks.dropconnect.on || keeps_weight(masks, columns, view, row_of, column_of);
      if (kept) value = weights[row_of * view.pitch + column_of];
    }
    packed[index * 8 + i] = value;
  }
}

/// How many steps ahead of their use episode starts are brought into the L2 cache.
inline constexpr int kStartsAhead = 8;

/// Brings a record's zoneout bits to step t. The bits of four steps are drawn at once, and one
/// unit's in each of two steps before they are needed, so that no step waits for two draws.
__device__ inline void draw_zoneout(Masks const& masks, int t, int n, int unit, bool is_first,
                                    bool reverse, LaneRecord& record) {
  int const word = static_cast<int>((t + masks.first_time) & 3);
  int const turn = reverse ? 3 - word : word;  // of the four steps
  int const next_four = reverse ? t - 4 : t + 4;
  if (is_first) {
    record.bits &= kKeepsOperand | kKeepsOperand << 1;
    record.bits |= masks.zoneout_bits(t, n, unit) | masks.zoneout_bits(t, n, unit + 1) << 4;
  } else if (turn == 0) {
    record.bits = (record.bits >> 8 & 255u) | (record.bits & (kKeepsOperand | kKeepsOperand << 1));
  }
  if (turn == 1 || (is_first && turn > 1)) {
    record.bits |= masks.zoneout_bits(next_four, n, unit) << 8;
  }
  if (turn == 2 || (is_first && turn > 2)) {
    record.bits |= masks.zoneout_bits(next_four, n, unit + 1) << 12;
  }
}

/// kOneTile: for clusters with a single tile, whose records then stay in registers and whose steps
/// are free of the loop over tiles. H200, H 256, N 1, half: from 0.99 to 0.76 us a step, measured
/// together with the cheaper approximations of `Approximate`.
template <typename T, typename Shape, bool kOneTile>
GRU_KERNEL void __launch_bounds__(Shape::kThreads, 1)
    cluster_forward_kernel(ClusterForward<T> const pass) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) std::byte shared[];
  LayerView<T> const& layer = pass.layer;
  Schedule const& schedule = layer.schedule;
  Masks const& masks = layer.masks;
  GateColumns const columns = layer.columns;
  int const H = static_cast<int>(layer.hidden);
  int const N = static_cast<int>(layer.batch);
  int const tiles = kOneTile ? 1 : pass.tiles;
  int const warp = threadIdx.x / 32;
  int const lane = threadIdx.x % 32;
  int const g = lane / 4;
  int const q = lane % 4;
  int const group = warp / 2;  // of the block
  int const half = warp % 2;   // of the depth; also which rows the warp finishes
  int const rank = static_cast<int>(ptx::cluster_rank());
  int const tile_row = 2 * q + half;  // that this lane finishes
  int const first_row = blockIdx.x / Shape::kBlocks * tiles * kTileRows + tile_row;
  int const unit = rank * Shape::kBlockUnits + group * kGroupUnits + 2 * g;
  bool const has_first = unit < H;
  bool const has_second = unit + 1 < H;

  // Shared memory: operands, weights, swap, inputs, records, barriers.
  std::uint32_t const operands = ptx::shared_address(shared);
  std::uint32_t const weights_at = tiles * 2 * Shape::kOperands;
  std::uint32_t const swap_at = weights_at + Shape::kWeights;
  std::uint32_t const inputs_at = swap_at + Shape::kSwap;
  std::uint32_t const records_at = inputs_at + tiles * Shape::kInputs;
  std::uint32_t const barriers = operands + records_at + tiles * Shape::kRecords;
  std::uint32_t const my_weights = weights_at + warp * Shape::kSharedDepth * 1536 + lane * 16;
  std::uint32_t const my_inputs = inputs_at + warp * 768 + lane * 8;
  auto* const records = reinterpret_cast<LaneRecord*>(shared + records_at) + threadIdx.x;

  // R: what this warp multiplies with, for all steps.
  ptx::Words4 first_weights[3][Shape::kDepth];
  ptx::Words4 second_weights[3][Shape::kDepth - Shape::kSharedDepth + 1];
  auto const* const packed = reinterpret_cast<uint4 const*>(pass.packed_weights) + lane;
#pragma unroll
  for (int j = 0; j < Shape::kDepth; ++j) {
#pragma unroll
    for (int gate = 0; gate < 3; ++gate) {
      uint4 const first = packed[packed_fragment<Shape>(rank, warp, j, gate, 0)];
      uint4 const second = packed[packed_fragment<Shape>(rank, warp, j, gate, 1)];
      first_weights[gate][j] = {first.x, first.y, first.z, first.w};
      if (j < Shape::kSharedDepth) {
        *reinterpret_cast<uint4*>(shared + my_weights + (j * 3 + gate) * 512) = second;
      } else {
        second_weights[gate][j - Shape::kSharedDepth] = {second.x, second.y, second.z, second.w};
      }
    }
  }

  // Biases of this lane's two units.
  auto const bias_of = [&](T const* bias, std::int64_t position, int e) {
    return bias != nullptr && unit + e < H ? convert<float>(bias[position * H + unit + e]) : 0.0f;
  };
  float bias_z[2], bias_r[2], bias_g[2], recurrent_bias_g[2];
  for (int e = 0; e < 2; ++e) {
    bias_z[e] = bias_of(layer.bias, columns.z, e) + bias_of(layer.recurrent_bias, columns.z, e);
    bias_r[e] = bias_of(layer.bias, columns.r, e) + bias_of(layer.recurrent_bias, columns.r, e);
    bias_g[e] = bias_of(layer.bias, columns.g, e);
    recurrent_bias_g[e] = bias_of(layer.recurrent_bias, columns.g, e);
  }

  // The operands and the records of the first step.
  int const first_tile_row = blockIdx.x / Shape::kBlocks * tiles * kTileRows;
  for (int i = threadIdx.x; i < tiles * kTileRows * Shape::kUnits; i += Shape::kThreads) {
    int const k = i % Shape::kUnits;
    int const row = i / Shape::kUnits;
    int const n = first_tile_row + row;
    std::uint32_t const at = row / kTileRows * 2 * Shape::kOperands +
                             operand_offset(k / 16, row % kTileRows, k / 8 % 2) + k % 8 * 2;
    bool const inside = n < N && k < H;
    *reinterpret_cast<T*>(shared + at) =
        inside ? pass.operand[std::int64_t{n} * H + k] : convert<T>(0.0f);
  }
  int const first_step_time = static_cast<int>(schedule.time(pass.first_step));
  for (int tile = 0; tile < tiles; ++tile) {
    int const n = first_row + tile * kTileRows;
    LaneRecord record{{0, 0}, 0, 0};
    if (n < N) {
      record.length = static_cast<std::int32_t>(schedule.length(n));
      bool const cleared = schedule.is_cleared(first_step_time, n);
      for (int e = 0; e < 2 && unit + e < H; ++e) {
        if (!cleared) record.state[e] = pass.state[std::int64_t{n} * H + unit + e];
        bool const keeps = masks.template state_factor<float>(n, unit + e) != 0;
        record.bits |= keeps ? kKeepsOperand << e : 0u;
      }
    }
    records[tile * Shape::kThreads] = record;
  }
  if (threadIdx.x < 2 * tiles) {
    ptx::init_barrier(barriers + 8 * threadIdx.x);
    ptx::expect_bytes(barriers + 8 * threadIdx.x, Shape::kOperands);
  }
  ptx::fence_barriers();

  // The input product comes through a ring; each lane fetches what it will read itself.
  int const steps = static_cast<int>(pass.last_step - pass.first_step);
  int const time_step = schedule.reverse ? -1 : 1;
  std::int64_t const input_step = time_step * std::int64_t{N} * 3 * H;
  bool const wide = H % 2 == 0;
  float const* ahead = pass.p + (first_step_time - pass.first_time) * N * 3 * H +
                       std::int64_t{first_row} * 3 * H + unit;
  std::uint32_t const stage_bytes = tiles * (Shape::kWarps * 768);
  auto const fetch_inputs = [&](int i) {
    if (i < steps && has_first) {
      std::uint32_t to = operands + my_inputs + i % kInputStages * stage_bytes;
      float const* row = ahead;
      int n = first_row;
      for (int tile = 0; tile < tiles && n < N; ++tile) {
#pragma unroll
        for (int gate = 0; gate < 3; ++gate) {
          if (wide) {
            ptx::copy_async<8>(to + gate * 256, row + gate * H);
          } else {
            ptx::copy_async<4>(to + gate * 256, row + gate * H);
            if (has_second) ptx::copy_async<4>(to + gate * 256 + 4, row + gate * H + 1);
          }
        }
        to += Shape::kWarps * 768;
        row += kTileRows * 3 * H;
        n += kTileRows;
      }
    }
    ahead += input_step;
    ptx::commit_copies();
  };
  for (int i = 0; i < kInputStages - 1; ++i) fetch_inputs(i);
  __syncthreads();
  ptx::meet_cluster();

  // What moves from step to step.
  int t = first_step_time;
  T* h = pass.h == nullptr ? nullptr : pass.h + pass.h_rows.at(t, 0) + unit;
  std::int64_t const h_step = time_step * pass.h_rows.step;
  bool const wide_h = wide && pass.wide_h;
  std::int64_t const reserve_step = time_step * std::int64_t{N} * 4 * H;
  T* reserve =
      pass.reserve == nullptr ? nullptr : pass.reserve + std::int64_t{t} * N * 4 * H + unit;
  bool const wide_reserve = wide && reinterpret_cast<std::uintptr_t>(pass.reserve) % 4 == 0;
  bool const draws_zoneout = masks.zoneout.on && masks.zoneout.values == nullptr;
  float const zoneout_keep = static_cast<float>(masks.zoneout.keep);
  float const operand_scale =
      masks.recurrent_dropout.on ? static_cast<float>(masks.recurrent_dropout.scale) : 1.0f;
  std::uint32_t const read_at =
      operands + half * Shape::kDepth * 512 + operand_offset(q >> 1, g, q & 1);
  std::uint32_t const write_at =
      operands + operand_offset(rank * Shape::kGroups + group, tile_row, g >> 2) + (g & 3) * 4;
  bool const has_options = schedule.starts != nullptr || masks.zoneout.on;
  bool const has_zoneout = masks.has_zoneout();
  LaneRecord record = records[0];
  bool expired = false;
  int turn = 0;
#pragma unroll 1
  for (int i = 0; i < steps; ++i) {
    int const buffer = i & 1;
    bool const is_last = i + 1 == steps;
    int const next = t + time_step;  // only meant where there is a next step
    bool const is_final = pass.first_step + i + 1 == schedule.steps;
    fetch_inputs(i + kInputStages - 1);
    ptx::wait_copies<kInputStages - 1>();
#pragma unroll 1
    for (int tile = 0; tile < tiles; ++tile) {
      // What the options say, while the operands are on their way.
      int const n = first_row + tile * kTileRows;
      if constexpr (!kOneTile) record = records[tile * Shape::kThreads];
      bool const active = t < record.length;
      std::uint32_t start_of_next = 0;
      float weight[2] = {zoneout_keep, zoneout_keep};  // of the new state
      if (has_options && n < N) {
        if (schedule.starts != nullptr && !is_final) {
          std::int64_t const at = schedule.start_rows.at(schedule.reverse ? t : next, n);
          start_of_next = ptx::load_byte(schedule.starts + at);
          if (i + kStartsAhead < steps) {
            ptx::prefetch(schedule.starts + at +
                          kStartsAhead * time_step * schedule.start_rows.step);
          }
        }
        if (draws_zoneout) {
          int const word = static_cast<int>((t + masks.first_time) & 3);
          draw_zoneout(masks, t, n, unit, i == 0, schedule.reverse, record);
          weight[0] = record.bits >> word & 1 ? 1.0f : 0.0f;
          weight[1] = record.bits >> (4 + word) & 1 ? 1.0f : 0.0f;
        } else if (masks.zoneout.on && active && has_first) {
          std::uint8_t const* const row = masks.zoneout.values + masks.zoneout.rows.at(t, n) + unit;
          weight[0] = row[0] != 0 ? 1.0f : 0.0f;
          if (has_second) weight[1] = row[1] != 0 ? 1.0f : 0.0f;
        }
      }

      // 1. Wait.
      std::uint32_t const barrier = barriers + 8 * (tile * 2 + buffer);
      if (i > 0) {
        std::uint32_t const parity = (i - 1) >> 1 & 1;
        std::uint32_t polls = 0;
        while (!expired && !ptx::is_complete(barrier, parity)) {
          if (++polls > pass.most_polls) {
            expired = true;
            *pass.status = kStatusExpired;
          }
        }
        // A barrier whose phase is not complete must not be armed again.
        if (threadIdx.x == 0 && !expired) ptx::expect_bytes(barrier, Shape::kOperands);
      }

      // 2. Multiply.
      float sums[3][4] = {};
      {
        constexpr int kAhead = Shape::kDepth < 4 ? Shape::kDepth : 4;
        std::uint32_t const from = read_at + (tile * 2 + buffer) * Shape::kOperands;
        ptx::Words4 state[kAhead];
#pragma unroll
        for (int j = 0; j < kAhead; ++j) state[j] = ptx::load_shared_16(from + j * 512);
#pragma unroll
        for (int j = 0; j < Shape::kDepth; ++j) {
          ptx::Words4 const s = state[j % kAhead];
          if (j + kAhead < Shape::kDepth) {
            state[j % kAhead] = ptx::load_shared_16(from + (j + kAhead) * 512);
          }
#pragma unroll
          for (int gate = 0; gate < 3; ++gate) {
            ptx::multiply_add<T>(sums[gate], first_weights[gate][j], s.x, s.y);
          }
#pragma unroll
          for (int gate = 0; gate < 3; ++gate) {
            ptx::Words4 const w =
                j < Shape::kSharedDepth
                    ? ptx::load_shared_16(operands + my_weights + (j * 3 + gate) * 512)
                    : second_weights[gate][j < Shape::kSharedDepth ? 0 : j - Shape::kSharedDepth];
            ptx::multiply_add<T>(sums[gate], w, s.z, s.w);
          }
        }
      }

      // 3. Swap halves with the group's other warp.
      float q_of[3][2];
      float2 input[3];
      {
        std::byte* const pair =
            shared + swap_at + ((turn * Shape::kGroups + group) * 2) * 768 + lane * 8;
        turn ^= 1;
#pragma unroll
        for (int gate = 0; gate < 3; ++gate) {
          float2 const even = make_float2(sums[gate][0], sums[gate][2]);  // row 2 q
          float2 const odd = make_float2(sums[gate][1], sums[gate][3]);   // row 2 q + 1
          *reinterpret_cast<float2*>(pair + (half ^ 1) * 768 + gate * 256) = half ? even : odd;
          q_of[gate][0] = half ? odd.x : even.x;
          q_of[gate][1] = half ? odd.y : even.y;
        }
        std::byte const* const slot =
            shared + my_inputs + i % kInputStages * stage_bytes + tile * (Shape::kWarps * 768);
#pragma unroll
        for (int gate = 0; gate < 3; ++gate) {
          input[gate] = *reinterpret_cast<float2 const*>(slot + gate * 256);
        }
        ptx::meet(1 + group, 64);
#pragma unroll
        for (int gate = 0; gate < 3; ++gate) {
          float2 const other = *reinterpret_cast<float2*>(pair + half * 768 + gate * 256);
          q_of[gate][0] = (q_of[gate][0] + other.x) * pass.recurrent_scale;
          q_of[gate][1] = (q_of[gate][1] + other.y) * pass.recurrent_scale;
        }
      }

      // 4. Finish two units of one row. The weights' order is z r g or r z g.
      bool const z_first = columns.z == 0;
      float out[2] = {0, 0};
      cell::Gates<float> kept[2];
      float kept_q_g[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        using V = Approximate;
        auto const of = [&](float2 v) { return e == 0 ? v.x : v.y; };
        float const p_z = of(z_first ? input[0] : input[1]) + bias_z[e];
        float const p_r = of(z_first ? input[1] : input[0]) + bias_r[e];
        float const p_g = of(input[2]) + bias_g[e];
        float const q_z = z_first ? q_of[0][e] : q_of[1][e];
        float const q_r = z_first ? q_of[1][e] : q_of[0][e];
        float const q_g = q_of[2][e] + recurrent_bias_g[e];
        V const s{record.state[e]};
        cell::Gates<V> const a = cell::reset_after(cell::Gates<V>{V{p_z}, V{p_r}, V{p_g}},
                                                   cell::Gates<V>{V{q_z}, V{q_r}, V{q_g}});
        V new_state = cell::new_state(a.z, a.g, s);
        if (has_zoneout) new_state = cell::zoneout(new_state, s, V{weight[e]});
        bool const inside = active && (e == 0 ? has_first : has_second);
        if (inside) record.state[e] = out[e] = static_cast<float>(new_state);
        kept[e] = {static_cast<float>(a.z), static_cast<float>(a.r), static_cast<float>(a.g)};
        kept_q_g[e] = q_g;
      }
      if (expired) record.state[0] = record.state[1] = out[0] = out[1] = __int_as_float(0x7fffffff);

      // 5. Hand the operands on.
      bool const clears_next = start_of_next != 0 && (schedule.reverse ? t : next) < record.length;
      float operand[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        bool const dropped = clears_next || (record.bits & kKeepsOperand << e) == 0;
        operand[e] = dropped ? 0.0f : record.state[e] * operand_scale;
      }
      if (!is_last && !expired) {
        std::uint32_t const word = pack<T>(operand[0], operand[1]);
        std::uint32_t const to = write_at + (tile * 2 + (buffer ^ 1)) * Shape::kOperands;
        std::uint32_t const to_barrier = barriers + 8 * (tile * 2 + (buffer ^ 1)) - to;
#pragma unroll
        for (int block = 0; block < Shape::kBlocks; ++block) {
          std::uint32_t const there = ptx::in_block(to, block);
          ptx::store_async(there, word, there + to_barrier);
        }
      }

      // The rest is done in the shadow of the exchange.
      bool const is_row = n < N && has_first;
      if (is_row && h != nullptr) {
        store_pair(h + n * pass.h_rows.sample, pack<T>(out[0], out[1]), wide_h, has_second);
      }
      if (is_row && reserve != nullptr && active) {
        T* const row = reserve + std::int64_t{n} * 4 * H;
        store_pair(row + columns.z * H, pack<T>(kept[0].z, kept[1].z), wide_reserve, has_second);
        store_pair(row + columns.r * H, pack<T>(kept[0].r, kept[1].r), wide_reserve, has_second);
        store_pair(row + columns.g * H, pack<T>(kept[0].g, kept[1].g), wide_reserve, has_second);
        store_pair(row + 3 * H, pack<T>(kept_q_g[0], kept_q_g[1]), wide_reserve, has_second);
      }
      if (is_row && is_last) {
        for (int e = 0; e < 2 && unit + e < H; ++e) {
          std::int64_t const at = std::int64_t{n} * H + unit + e;
          pass.state[at] = record.state[e];
          pass.operand[at] = convert<T>(operand[e]);
          if (is_final && pass.final_state) {
            pass.final_state.store(n * pass.final_pitch + unit + e, record.state[e]);
          }
        }
      }
      if (clears_next) record.state[0] = record.state[1] = 0;
      if constexpr (!kOneTile) records[tile * Shape::kThreads] = record;
    }
    t = next;
    if (h != nullptr) h += h_step;
    if (reserve != nullptr) reserve += reserve_step;
  }
  ptx::meet_cluster();
#endif
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
