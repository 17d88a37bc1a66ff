// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include <cub/block/block_reduce.cuh>

#include <gru/detail/cuda_types.cuh>
#include <gru/detail/device.cuh>
#include <gru/detail/layer_products.cuh>
#include <gru/detail/sequence.hpp>

/// The input product without the steps that are past a sample's length, where the host knows the
/// lengths too. cuBLAS is told by the host how many rows to multiply. So the rows of x that count
/// are *packed*, each sample's behind those of the sample before it, and multiplied in pieces of a
/// size that was planned for, as many as hold any.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// How many of `steps` steps from time index first_time on a sample of that length does.
GRU_HOST_DEVICE inline std::int64_t steps_within(std::int64_t length, std::int64_t first_time,
                                                 std::int64_t steps) {
  std::int64_t const rest = length - first_time;
  return rest < 0 ? 0 : rest > steps ? steps : rest;
}

/// The same of all samples, whose lengths are in host memory.
inline std::int64_t rows_within(Problem const& p, std::int32_t const* lengths,
                                std::int64_t first_time, std::int64_t steps) {
  std::int64_t rows = 0;
  for (std::int64_t n = 0; n < p.batch; ++n) {
    rows += steps_within(std::min<std::int64_t>(lengths[n], p.steps), first_time, steps);
  }
  return rows;
}

inline constexpr int kPackThreads = 256;

/// Packs the rows of sample blockIdx.x, of `words` words each, a warp one row at a time, and says
/// where they begin.
template <typename Word>
GRU_KERNEL void pack_rows_kernel(Schedule schedule, std::int64_t first_time, std::int64_t steps,
                                 Word const* from, Rows rows, int words, Word* packed,
                                 std::int32_t* first_rows) {
  using Sum = cub::BlockReduce<std::int64_t, kPackThreads>;
  __shared__ typename Sum::TempStorage sum;
  __shared__ std::int64_t first;
  auto const rows_of = [&](std::int64_t n) {
    return steps_within(schedule.length(n), first_time, steps);
  };
  std::int64_t const n = blockIdx.x;
  std::int64_t before = 0;
  for (std::int64_t other = threadIdx.x; other < n; other += kPackThreads) before += rows_of(other);
  before = Sum{sum}.Sum(before);
  if (threadIdx.x == 0) {
    first = before;
    if (blockIdx.y == 0) first_rows[n] = static_cast<std::int32_t>(before);
  }
  __syncthreads();
  std::int64_t const count = rows_of(n);
  int const warps = static_cast<int>(gridDim.y) * (kPackThreads / 32);
  int const warp = static_cast<int>(blockIdx.y) * (kPackThreads / 32) + threadIdx.x / 32;
  for (std::int64_t i = warp; i < count; i += warps) {
    Word const* const row = from + rows.at(i, n);
    Word* const to = packed + (first + i) * words;
    for (int k = threadIdx.x % 32; k < words; k += 32) to[k] = row[k];
  }
}

/// Packs the rows of x of a chunk of steps; `x` is its first one. Enqueues the kernel.
template <typename T>
void launch_pack_rows(cudaStream_t stream, Problem const& p, Schedule const& schedule,
                      std::int64_t first_time, std::int64_t steps, T const* x, T* packed,
                      std::int32_t* first_rows) {
  Rows rows = sequence_rows(p, p.pitch.x, p.input_size);
  dim3 const blocks{static_cast<unsigned>(p.batch),
                    static_cast<unsigned>(std::clamp<std::int64_t>(steps / 16, 1, 16))};
  auto const launch = [&](auto const* from, auto* to) {
    int const values = static_cast<int>(sizeof *from / sizeof(T));  // of a word
    Rows const in_words{rows.step / values, rows.sample / values};
    pack_rows_kernel<<<blocks, kPackThreads, 0, stream>>>(
        schedule, first_time, steps, from, in_words, static_cast<int>(p.input_size / values), to,
        first_rows);
    GRU_CUDA_TRY(cudaGetLastError());
  };
  std::int64_t const bytes = sizeof(T);
  bool const is_wide = (reinterpret_cast<std::uintptr_t>(x) | rows.step * bytes |
                        rows.sample * bytes | p.input_size * bytes) %
                           sizeof(uint4) ==
                       0;
  if (is_wide) {
    launch(reinterpret_cast<uint4 const*>(x), reinterpret_cast<uint4*>(packed));
  } else {
    launch(x, packed);
  }
}

/// P = x W for packed rows, for chunks of so many steps.
template <typename T>
class PackedInputProduct {
 public:
  PackedInputProduct() = default;

  PackedInputProduct(Problem const& p, InputParts const& parts, std::int64_t steps,
                     DeviceFacts const& facts, std::size_t most_workspace)
      : rows_{steps * p.batch}, input_size_{p.input_size}, gates_size_{3 * p.hidden_size} {
    constexpr std::int64_t kMostPieces = 8;
    constexpr std::int64_t kLeastRows = 4096;  // fewer would leave multiprocessors idle
    piece_ = std::min(rows_, std::max(kLeastRows, (rows_ + kMostPieces - 1) / kMostPieces));
    Problem packed = p;
    packed.batch = 1;
    packed.pitch.x = 0;
    product_ = InputProduct<T>{packed, parts, piece_, facts, most_workspace};
  }

  std::size_t workspace_bytes() const { return product_.workspace_bytes(); }

  /// Whether so many rows are fewer pieces than all.
  bool spares(std::int64_t rows) const { return pieces(rows) < pieces(rows_); }

  /// Enqueues the product of the first so many rows, and of some more.
  void run(Execution const& execution, T const* x, std::int64_t rows, WeightMatrix<T> const& kernel,
           Accumulator<T>* product, InputParts::Scratch const& parts, void* workspace) const {
    for (std::int64_t i = 0; i < pieces(rows); ++i) {
      // The last of all pieces begins early enough to end with the rows.
      std::int64_t const first = std::min(i * piece_, rows_ - piece_);
      product_.run(execution, x + first * input_size_, kernel, product + first * gates_size_, parts,
                   workspace);
    }
  }

 private:
  std::int64_t pieces(std::int64_t rows) const { return (rows + piece_ - 1) / piece_; }

  std::int64_t rows_ = 0;
  std::int64_t piece_ = 1;  // rows
  std::int64_t input_size_ = 0;
  std::int64_t gates_size_ = 0;
  InputProduct<T> product_;
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
