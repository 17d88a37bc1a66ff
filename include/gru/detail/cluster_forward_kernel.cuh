// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gru/detail/recurrence.cuh>
#include <gru/detail/tensor_core.cuh>

/// The recurrence in one kernel: a cluster of thread blocks keeps R in registers and shared memory
/// and carries some rows of the batch through all steps. Clusters never talk to each other.
///
/// A block has some of the units, in groups of 16, for all tiles of 8 rows of its cluster. kSplit
/// warps share a group: each multiplies over its part of the depth, and finishes its part of the
/// units and rows. One step of one tile:
///   1. wait until the operands of all units have arrived in this block's shared memory;
///   2. multiply: three accumulators (the gates) of 16 units x 8 rows a warp;
///   3. the warps of a group swap sums, so that each has all of those that it finishes;
///   4. each lane finishes its units of one row: cell, zoneout;
///   5. and stores its operands in the shared memory of every block of the cluster;
///   6. outputs and reserve are written in the shadow of the exchange.
/// A lane whose wait expires waits and sends no more and goes on to the end, so that whoever
/// depends on it expires too, and every barrier of a block is still met by all of its threads.
///
/// Operands are double-buffered, with one transaction barrier a buffer, and that is enough: who has
/// received all operands of step i knows that everyone has read those of step i - 1.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// How a layer is spread over a cluster.
template <typename T, int kBlocks_, int kSplit_, int kDepth_, int kSharedDepth_>
struct ClusterShape {
  static constexpr int kBlocks = kBlocks_;            // of the cluster
  static constexpr int kSplit = kSplit_;              // warps that share a group's depth
  static constexpr int kDepth = kDepth_;              // depth blocks of a warp
  static constexpr int kSharedDepth = kSharedDepth_;  // of these, second halves in shared memory
  static constexpr int kUnits = kSplit * kDepth * kDepthBlock<T>;  // H, padded
  static constexpr int kBlockUnits = kUnits / kBlocks;
  static constexpr int kGroups = kBlockUnits / kGroupUnits;
  static constexpr int kWarps = kSplit * kGroups;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kTilesApart = kSplit / 2;  // two warps of a group finish every tile
  static_assert(kGroups * kGroupUnits * kBlocks == kUnits, "groups must fill the cluster");
  static_assert(kSplit == 2 || kSplit == 4, "warps work in pairs");

  using Inputs = InputRing<T, 2, kThreads, kTileRows * kTilesApart>;

  /// The most tiles of a cluster that one lane finishes.
  GRU_HOST_DEVICE static constexpr int lane_tiles(int tiles) {
    return (tiles + kTilesApart - 1) / kTilesApart;
  }

  // Bytes of shared memory.
  static constexpr int kOperands = kUnits * kTileRows * sizeof(T);  // a tile's, one buffer
  static constexpr int kWeights = kWarps * kSharedDepth * 3 * 512;
  static constexpr int kSwapPart = 3 * 32 * 8;              // from one warp to another
  static constexpr int kSwap = 2 * kWarps * 2 * kSwapPart;  // two turns, two that receive
  static constexpr int kStates = kThreads * 8;              // of one tile a lane

  static constexpr int shared_bytes(int tiles) {
    return kWeights + kSwap + Inputs::shared_bytes(lane_tiles(tiles)) +
           lane_tiles(tiles) * kStates + tiles * (2 * kOperands + 16);
  }

  static PackedOrder packed_order() { return {kBlocks, kWarps, kSplit, kDepth, 1}; }
};

/// Where 16 neighbouring bytes of a row lie in a tile's operands: those from 32 * pair + 16 * half
/// on. Spread so that neither the stores nor the loads of a warp meet in a bank.
__device__ inline std::uint32_t operand_offset(int pair, int row, int half) {
  int const slot = ((row >> 1) * 2 + half) ^ ((row & 1) << 1) ^ ((pair & 1) << 2);
  return static_cast<std::uint32_t>(pair * 256 + (row & 1) * 128 + slot * 16);
}

/// kOneTile: for clusters with a single tile, whose states then stay in registers and whose steps
/// are free of the loop over tiles. H200, H 256, N 1, half: from 0.99 to 0.76 us a step, measured
/// together with cheaper functions.
template <typename T, Multiplication multiplication, typename Shape, bool kOneTile>
GRU_KERNEL void __launch_bounds__(Shape::kThreads, 1)
    cluster_forward_kernel(RecurrentForward<T> const pass, T const* packed_weights, int tiles_) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) std::byte shared[];
  constexpr int kSplit = Shape::kSplit;
  int const tiles = kOneTile ? 1 : tiles_;
  int const warp = threadIdx.x / 32;
  int const lane = threadIdx.x % 32;
  int const g = lane / 4;
  int const q = lane % 4;
  int const group = warp / kSplit;  // of the block
  int const part = warp % kSplit;   // of the depth, and of what the group finishes
  int const rank = static_cast<int>(ptx::cluster_rank());
  int const first_tile_row = blockIdx.x / Shape::kBlocks * tiles * kTileRows;
  // Of a lane's sums, units 2 g and 2 g + 1 of rows 2 q and 2 q + 1, this warp finishes one row, in
  // every tile or, where four warps share a group, in every other one.
  int const tile_row = 2 * q + part % 2;
  int const first_tile = part / 2;  // that it finishes
  int const first_row = first_tile_row + first_tile * kTileRows + tile_row;
  int const unit = rank * Shape::kBlockUnits + group * kGroupUnits + 2 * g;

  // Shared memory: operands, weights, swap, states, inputs, barriers.
  std::uint32_t const operands = ptx::shared_address(shared);
  std::uint32_t const weights_at = tiles * 2 * Shape::kOperands;
  std::uint32_t const swap_at = weights_at + Shape::kWeights;
  std::uint32_t const states_at = swap_at + Shape::kSwap;
  std::uint32_t const inputs_at = states_at + Shape::lane_tiles(tiles) * Shape::kStates;
  std::uint32_t const barriers =
      operands + inputs_at + Shape::Inputs::shared_bytes(Shape::lane_tiles(tiles));
  std::uint32_t const my_weights = weights_at + warp * Shape::kSharedDepth * 1536 + lane * 16;
  auto* const states = reinterpret_cast<float2*>(shared + states_at) + threadIdx.x;

  // R: what this warp multiplies with, for all steps.
  PackedOrder const order{Shape::kBlocks, Shape::kWarps, kSplit, Shape::kDepth, 1};
  ptx::Words4 first_weights[3][Shape::kDepth];
  constexpr int kOwnDepth = Shape::kDepth - Shape::kSharedDepth;  // second halves in registers
  ptx::Words4 second_weights[3][kOwnDepth + 1];
  auto const* const packed = reinterpret_cast<uint4 const*>(packed_weights) + lane;
#pragma unroll
  for (int j = 0; j < Shape::kDepth; ++j) {
#pragma unroll
    for (int gate = 0; gate < 3; ++gate) {
      uint4 const first = packed[order.fragment(rank, warp, j, gate, 0)];
      uint4 const second = packed[order.fragment(rank, warp, j, gate, 1)];
      first_weights[gate][j] = {first.x, first.y, first.z, first.w};
      if (j >= kOwnDepth) {
        int const at = ((j - kOwnDepth) * 3 + gate) * 512;
        *reinterpret_cast<uint4*>(shared + my_weights + at) = second;
      } else {
        second_weights[gate][j] = {second.x, second.y, second.z, second.w};
      }
    }
  }

  // The operands and the states of the first step.
  constexpr int kValues = 16 / static_cast<int>(sizeof(T));
  for (int i = threadIdx.x; i < tiles * kTileRows * Shape::kUnits; i += Shape::kThreads) {
    int const k = i % Shape::kUnits;
    int const row = i / Shape::kUnits;
    int const n = first_tile_row + row;
    std::uint32_t const at = row / kTileRows * 2 * Shape::kOperands +
                             operand_offset(k / (2 * kValues), row % kTileRows, k / kValues % 2) +
                             k % kValues * sizeof(T);
    bool const inside = n < pass.batch && k < pass.hidden;
    std::int64_t const from = std::int64_t{n} * pass.hidden + k;
    float const value = inside ? convert<float>(pass.operand[from]) : 0.0f;
    *reinterpret_cast<T*>(shared + at) = operand_value<T, multiplication>(value);
  }
  ForwardLane<T, 2, kTileRows * Shape::kTilesApart, CellValue<T>> finisher{pass, first_row, unit};
  float state[2];
  int const lane_tiles = (tiles - first_tile + Shape::kTilesApart - 1) / Shape::kTilesApart;
  for (int tile = lane_tiles - 1; tile >= 0; --tile) {
    finisher.load(tile, state);
    states[tile * Shape::kThreads] = make_float2(state[0], state[1]);
  }
  if (threadIdx.x < 2 * tiles) {
    ptx::init_barrier(barriers + 8 * threadIdx.x);
    // The first step waits for nothing.
    ptx::expect_bytes(barriers + 8 * threadIdx.x, threadIdx.x % 2 == 0 ? 0 : Shape::kOperands);
  }
  ptx::fence_barriers();
  typename Shape::Inputs inputs{pass,      shared + inputs_at, static_cast<int>(threadIdx.x),
                                first_row, lane_tiles,         Shape::lane_tiles(tiles),
                                unit};
  __syncthreads();
  ptx::meet_cluster();

  // A warp that finishes odd rows reads neighbouring rows in exchanged places, so that the rows
  // that it finishes are the even columns of its sums.
  std::uint32_t read_at =
      operands + part * Shape::kDepth * 512 + operand_offset(q >> 1, g ^ (part % 2), q & 1);
  std::uint32_t const write_byte = unit * static_cast<std::uint32_t>(sizeof(T));
  std::uint32_t write_at =
      operands + operand_offset(write_byte / 32, tile_row, write_byte / 16 % 2) + write_byte % 16;
  // Sums for the rows that warp `receiver` (0 or 1) of each pair finishes lie by their sender.
  auto const swap_slot = [&](int receiver, int sender) {
    return operands + swap_at + lane * 8 +
           ((group * 2 + receiver) * kSplit + sender) * Shape::kSwapPart;
  };
  std::uint32_t receive_at = swap_slot(part % 2, kSplit == 2 ? part ^ 1 : 0);
  std::uint32_t send_at = swap_slot(part % 2 ^ 1, part);
  ptx::keep(read_at);
  ptx::keep(write_at);
  ptx::keep(receive_at);
  ptx::keep(send_at);
  bool expired = false;
  // Prepares a barrier for the step after the next. Operands that come before that count, too. One
  // whose phase is not complete must not be armed again.
  auto const arm = [&](std::uint32_t barrier) {
    if (threadIdx.x == 0 && !expired) ptx::expect_bytes(barrier, Shape::kOperands);
  };
  int turn = 0;
#pragma unroll 1
  for (int i = 0; i < pass.steps; ++i) {
    int const buffer = i & 1;
    bool const ends = i + 1 == pass.steps;
    inputs.fetch(i + Shape::Inputs::kStages - 1);
    inputs.wait();
#pragma unroll 1
    for (int tile = 0; tile < tiles; ++tile) {
      bool const finishes = tile % Shape::kTilesApart == first_tile;
      int const lane_tile = tile / Shape::kTilesApart;

      StepInput<2> input = {};
      if (kOneTile && finishes) input = inputs.read(i, lane_tile);

      // 1. Wait.
      std::uint32_t const barrier = barriers + 8 * (tile * 2 + buffer);
      std::uint32_t polls = 0;
      while (!ptx::is_complete(barrier, i >> 1 & 1)) {
        if (expired) break;
        if (++polls > pass.most_polls) {
          expired = true;
          finisher.poison();
          pass.expire();
        }
      }
      if constexpr (!kOneTile) arm(barrier);

      // 2. Multiply.
      float sums[3][4] = {};
      {
        constexpr int kAhead = Shape::kDepth < 4 ? Shape::kDepth : 4;
        std::uint32_t const from = read_at + (tile * 2 + buffer) * Shape::kOperands;
        ptx::Words4 operand[kAhead];
#pragma unroll
        for (int j = 0; j < kAhead; ++j) operand[j] = ptx::load_shared_16(from + j * 512);
#pragma unroll
        for (int j = 0; j < Shape::kDepth; ++j) {
          ptx::Words4 const s = operand[j % kAhead];
          if (j + kAhead < Shape::kDepth) {
            operand[j % kAhead] = ptx::load_shared_16(from + (j + kAhead) * 512);
          }
#pragma unroll
          for (int gate = 0; gate < 3; ++gate) {
            multiply_add<T, multiplication>(sums[gate], first_weights[gate][j], s.x, s.y);
          }
#pragma unroll
          for (int gate = 0; gate < 3; ++gate) {
            ptx::Words4 const w = j < kOwnDepth
                                      ? second_weights[gate][j < kOwnDepth ? j : 0]
                                      : ptx::load_shared_16(operands + my_weights +
                                                            ((j - kOwnDepth) * 3 + gate) * 512);
            multiply_add<T, multiplication>(sums[gate], w, s.z, s.w);
          }
        }
      }

      // 3. Swap with the group's other warps. Two of them finish the tile, a row of a pair each.
      std::uint32_t const swap_turn = turn * (Shape::kSwap / 2);
      turn ^= 1;
#pragma unroll
      for (int gate = 0; gate < 3; ++gate) {
        ptx::store_shared_pair(send_at + swap_turn + gate * 256, sums[gate][1], sums[gate][3]);
        if constexpr (kSplit > 2) {
          std::uint32_t const to = receive_at + part * Shape::kSwapPart;
          ptx::store_shared_pair(to + swap_turn + gate * 256, sums[gate][0], sums[gate][2]);
        }
      }
      if (!kOneTile && finishes) input = inputs.read(i, lane_tile);
      ptx::meet(1 + group, 32 * kSplit);
      if (!finishes) continue;
      float mine[3][2];
#pragma unroll
      for (int gate = 0; gate < 3; ++gate) {
        std::uint32_t const from = receive_at + swap_turn + gate * 256;
        float2 sum = ptx::load_shared_pair(from);
        if constexpr (kSplit == 2) {
          sum.x += sums[gate][0];
          sum.y += sums[gate][2];
        }
#pragma unroll
        for (int sender = 1; kSplit > 2 && sender < kSplit; ++sender) {
          float2 const other = ptx::load_shared_pair(from + sender * Shape::kSwapPart);
          sum.x += other.x;
          sum.y += other.y;
        }
        mine[gate][0] = sum.x;
        mine[gate][1] = sum.y;
      }

      // 4. Finish.
      if constexpr (!kOneTile) {
        float2 const stored = states[lane_tile * Shape::kThreads];
        state[0] = stored.x;
        state[1] = stored.y;
      }
      auto const result = finisher.finish(mine, input, state);

      // 5. Hand the operands on.
      if (!ends && !expired) {
        std::uint32_t const to = write_at + (tile * 2 + (buffer ^ 1)) * Shape::kOperands;
        std::uint32_t const to_barrier = barriers + 8 * (tile * 2 + (buffer ^ 1)) - to;
        auto const words = operand_words<T, multiplication>(result.operand);
#pragma unroll
        for (int block = 0; block < Shape::kBlocks; ++block) {
          std::uint32_t const there = ptx::in_block(to, block);
          ptx::store_async(there, words, there + to_barrier);
        }
      }
      if constexpr (kOneTile) arm(barrier);

      // 6. What others see.
      finisher.write(result, input, lane_tile, state);
      if (ends) finisher.leave(result, lane_tile, state);
      if constexpr (!kOneTile) {
        states[lane_tile * Shape::kThreads] = make_float2(state[0], state[1]);
      }
    }
    finisher.advance();
  }
  ptx::meet_cluster();
#endif
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
