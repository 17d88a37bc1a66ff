// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <gru/detail/approximate.cuh>
#include <gru/detail/cuda_types.cuh>
#include <gru/detail/device.cuh>
#include <gru/detail/ptx.cuh>
#include <gru/detail/sequence.hpp>
#include <gru/detail/stepwise_kernels.cuh>

/// How the persistent kernels multiply the state with R on the tensor cores.
///
/// Words. A *tile* is 8 rows of the batch, the width of one mma. A *group* is 16 units, its height.
/// A *depth block* is 64 bytes of an operand's row, two mma's deep: 32 16-bit values or 16 floats.
///
/// R's rows are dealt to the mma's so that lane 4 g + q holds the sums of units 2 g and 2 g + 1 of
/// a group for rows 2 q and 2 q + 1, and R's columns (the depth) so that what a lane needs for a
/// depth block is 16 neighbouring bytes, the q-th quarter, of row g: one load.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

inline constexpr int kTileRows = 8;
inline constexpr int kGroupUnits = 16;

/// How numbers multiply on the tensor cores.
enum class Multiplication {
  kDirect,  // 16-bit values, or floats rounded to TF32
  kSplit,   // floats as sums of two TF32 values: three products, float's accuracy (3xTF32)
};

/// How good the cell's functions are. H200, H 512, N 64, half: 11 bits instead of 22 save 0.1 us a
/// step.
template <typename T>
using CellValue = Approximate<sizeof(T) == 2 ? 11 : 22>;

template <typename T>
inline constexpr int kDepthBlock = 64 / static_cast<int>(sizeof(T));  // units

/// Unit `value` (0 to 15) of an A fragment's word order, for the lane's two rows: which of the
/// rows, and which column from the lane's first.
template <typename T>
__device__ constexpr int fragment_row(int value) {
  constexpr int kPerWord = 4 / static_cast<int>(sizeof(T));
  return value / kPerWord % 2;
}
template <typename T>
__device__ constexpr int fragment_column(int value) {
  constexpr int kPerWord = 4 / static_cast<int>(sizeof(T));
  return value / (2 * kPerWord) * kPerWord + value % kPerWord;
}

/// A weight of R: what unit `from` gives to a gate of unit `to`.
struct WeightPlace {
  std::int64_t from;
  int gate;  // 0 z, 1 r, 2 g
  std::int64_t to;
};

/// What one lane holds of one mma's part of R: some columns of two neighbouring rows.
struct PackedFragment {
  int gate;
  int row;
  int column;

  __device__ WeightPlace weight(int row_on, int column_on) const {
    return {column + column_on, gate, row + row_on};
  }
};

/// Takes a number apart, its least digit first. 32 bits: divisions are much of the packing's time.
class Digits {
 public:
  __device__ explicit Digits(std::uint32_t number) : rest_{number} {}

  __device__ int next(int extent) {
    auto const divisor = static_cast<std::uint32_t>(extent);
    int const digit = static_cast<int>(rest_ % divisor);
    rest_ /= divisor;
    return digit;
  }
  __device__ int rest() const { return static_cast<int>(rest_); }

 private:
  std::uint32_t rest_;
};

/// How the fragments of a kernel's weights follow each other: for each rank (of a block among those
/// that share R), each warp, each of the warp's depth blocks, each m (an mma's height), and each of
/// the depth block's two mma's, 32 lanes of 16 bytes.
struct FragmentOrder {
  int ranks = 0;
  int warps = 0;   // of a block
  int depth = 0;   // depth blocks of a warp
  int height = 0;  // m's of a warp

  __host__ __device__ std::int64_t fragment(int rank, int warp, int block, int m,
                                            int second) const {
    std::int64_t const at = (std::int64_t{rank} * warps + warp) * depth + block;
    return ((at * height + m) * 2 + second) * 32;
  }
  __host__ __device__ std::int64_t fragments() const { return fragment(ranks, 0, 0, 0, 0); }

  /// Where a lane's fragment belongs. `row` is its first row of an m, `column` its first of a depth
  /// block's columns.
  struct Place {
    int rank;
    int warp;
    int block;
    int m;
    int row;
    int column;
  };

  /// That of the index-th fragment.
  template <typename T>
  __device__ Place place(std::uint32_t index) const {
    Digits digits{index};
    int const lane = digits.next(32);
    int const second = digits.next(2);
    Place place;
    place.m = digits.next(height);
    place.block = digits.next(depth);
    place.warp = digits.next(warps);
    place.rank = digits.rest();
    constexpr int kValues = 16 / static_cast<int>(sizeof(T));
    place.row = lane / 4 * 2;
    place.column = lane % 4 * kValues + second * kValues / 2;
    return place;
  }
};

/// R as forward multiplies with it: an m is a group's gate z, r or g, the depth is R's rows.
struct PackedOrder : FragmentOrder {
  int split = 0;        // warps that share a group's depth
  int warp_groups = 0;  // groups of a warp

  PackedOrder() = default;
  __host__ __device__ PackedOrder(int ranks, int warps, int split_, int depth, int warp_groups_)
      : FragmentOrder{ranks, warps, depth, 3 * warp_groups_},
        split{split_},
        warp_groups{warp_groups_} {}

  /// The index-th fragment of a lane.
  template <typename T>
  __device__ PackedFragment at(std::uint32_t index) const {
    Place const p = place<T>(index);
    int const group = p.warp / split * warp_groups + p.m / 3;
    int const block_units = warps / split * warp_groups * kGroupUnits;
    return {p.m % 3, p.rank * block_units + group * kGroupUnits + p.row,
            kDepthBlock<T> * (p.warp % split * depth + p.block) + p.column};
  }
};

/// The same of R's transpose, as backward multiplies: rows are the units that a weight is from, and
/// the depth is taken gate by gate.
struct TransposedOrder : PackedOrder {
  using PackedOrder::PackedOrder;

  struct Fragment : PackedFragment {
    __device__ WeightPlace weight(int row_on, int column_on) const {
      return {row + row_on, gate, column + column_on};
    }
  };

  template <typename T>
  __device__ Fragment at(std::uint32_t index) const {
    return {{PackedOrder::at<T>(index)}};
  }
};

/// R in an order, zero beyond H, and with DropConnect's mask applied where on. With `rounds`,
/// floats are rounded to TF32.
template <typename T, typename Order>
GRU_KERNEL void pack_weights_kernel(Masks masks, GateColumns columns, WeightView view, Order order,
                                    bool rounds, T const* weights, T* packed) {
  std::uint32_t const index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= order.fragments()) return;
  auto const fragment = order.template at<T>(index);
  constexpr int kValues = 16 / static_cast<int>(sizeof(T));
  struct alignas(16) Together {
    T values[kValues];
  } together;
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    WeightPlace const place = fragment.weight(fragment_row<T>(i), fragment_column<T>(i));
    T value = convert<T>(0.0f);
    if (place.from < view.hidden && place.to < view.hidden) {
      std::int64_t const gate_unit = columns.position(place.gate) * view.hidden + place.to;
      std::int64_t const row_of = view.by_input ? place.from : gate_unit;
      std::int64_t const column_of = view.by_input ? gate_unit : place.from;
      bool const kept =
          !masks.dropconnect.on || keeps_weight(masks, columns, view, row_of, column_of);
      if (kept) value = weights[row_of * view.pitch + column_of];
    }
    if constexpr (std::is_same_v<T, float>) {
      if (rounds) value = ptx::round_to_tf32(value);
    }
    together.values[i] = value;
  }
  reinterpret_cast<Together*>(packed)[index] = together;
}

template <typename T, typename Order>
std::int64_t packed_values(Order const& order) {
  return order.fragments() * (16 / static_cast<int>(sizeof(T)));
}

/// Enqueues the packing.
template <typename T, typename Order>
void pack_weights(cudaStream_t stream, LayerView<T> const& layer, WeightView const& view,
                  Order const& order, bool rounds, T const* weights, T* packed) {
  auto const blocks = static_cast<unsigned>((order.fragments() + 255) / 256);
  pack_weights_kernel<T><<<blocks, 256, 0, stream>>>(layer.masks, layer.columns, view, order,
                                                     rounds, weights, packed);
  GRU_CUDA_TRY(cudaGetLastError());
}

/// A value of the state as the tensor cores take it.
template <typename T, Multiplication multiplication>
__device__ T operand_value(float value) {
  if constexpr (std::is_same_v<T, float> && multiplication == Multiplication::kDirect) {
    return ptx::round_to_tf32(value);
  }
  return convert<T>(value);
}

/// Two neighbouring values of the state, as their bits.
template <typename T, Multiplication multiplication>
__device__ auto operand_words(float const (&values)[2]) {
  T const pair[2] = {operand_value<T, multiplication>(values[0]),
                     operand_value<T, multiplication>(values[1])};
  std::conditional_t<sizeof(T) == 2, std::uint32_t, uint2> words;
  memcpy(&words, pair, sizeof words);
  return words;
}

/// sums += R's fragment times the operand's words b0, b1 (half of a lane's 16 bytes).
template <typename T, Multiplication multiplication>
__device__ void multiply_add(float (&sums)[4], ptx::Words4 const& r, std::uint32_t b0,
                             std::uint32_t b1) {
  if constexpr (multiplication == Multiplication::kDirect) {
    ptx::multiply_add<T>(sums, r, b0, b1);
  } else {
    // Small products first. What a TF32 operand's low 13 bits hold is ignored.
    ptx::Words4 const low = {ptx::tf32_rest(r.x), ptx::tf32_rest(r.y), ptx::tf32_rest(r.z),
                             ptx::tf32_rest(r.w)};
    ptx::multiply_add<T>(sums, r, ptx::tf32_rest(b0), ptx::tf32_rest(b1));
    ptx::multiply_add<T>(sums, low, b0, b1);
    ptx::multiply_add<T>(sums, r, b0, b1);
  }
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
