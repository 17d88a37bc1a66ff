// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include <gru/detail/cuda_types.cuh>
#include <gru/detail/fma_warp.cuh>
#include <gru/detail/ptx.cuh>
#include <gru/detail/recurrence_backward.cuh>

/// What the backward kernels for few rows have in common.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// What a lane needs of the outside backward, one unit of a row: of each step the pre-activations
/// of z, r, g, then q_g, the state that entered, dh, and the flags. A 16-bit value comes with its
/// neighbour, in one word, or twice where they do not lie in one.
template <typename T>
class FmaBackwardSource {
 public:
  using Steps = RecurrentBackward<T>;
  using Input = BackwardInput<1>;
  static constexpr int kWords = 8;
  static constexpr int kFlags = 6;  // the word

  /// Begins at the chunk's `first`-th step done.
  __device__ FmaBackwardSource(RecurrentBackward<T> const& pass, int n, int unit, int first)
      : pass_{pass}, shift_{unit % 2 * 16} {
    std::int64_t const H = pass.hidden;
    std::int64_t const row = pass.first_step() * std::int64_t{pass.batch} + n;
    int const begin = copies_words() ? unit - unit % kWordValues : unit;
    kept_ = bytes(pass.kept + row * 4 * H + begin) + first * pass.kept_step;
    entering_ = bytes(pass.entering + row * H + begin) + first * pass.entering_step;
    dh_ = bytes(pass.dh + pass.dh_rows.at(pass.first_step(), n) + begin) + first * pass.dh_step;
    flags_ = pass.flags + row * pass.flags_pitch + unit / 8 * 4 + first * pass.flags_step;
  }

  /// Begins the copy of the step's words.
  __device__ void copy(std::uint32_t to) const {
    std::byte const* const from[kValues] = {kept_ + pass_.block[0],
                                            kept_ + pass_.block[1],
                                            kept_ + pass_.block[2],
                                            kept_ + std::int64_t{3} * pass_.hidden * kBytes,
                                            entering_,
                                            dh_};
    int const values = pass_.dh != nullptr ? kValues : kValues - 1;
    if (copies_words()) {
#pragma unroll
      for (int v = 0; v < kValues; ++v) {
        if (v < values) ptx::copy_async<4>(to + v * 4, from[v]);
      }
    } else {
      copy_halves(to, from, values);
    }
    if (pass_.flags != nullptr) ptx::copy_async<4>(to + kFlags * 4, flags_);
  }

  __device__ void advance(int steps) {
    kept_ += steps * pass_.kept_step;
    entering_ += steps * pass_.entering_step;
    dh_ += steps * pass_.dh_step;
    flags_ += steps * pass_.flags_step;
  }

  __device__ BackwardInput<1> input(std::uint32_t const (&words)[kWords],
                                    std::uint32_t flags) const {
    BackwardInput<1> input;
#pragma unroll
    for (int v = 0; v < 4; ++v) input.kept[v][0] = value(words[v]);
    input.s[0] = value(words[4]);
    input.dh[0] = pass_.dh != nullptr ? value(words[5]) : 0.0f;
    input.flags = flags;
    return input;
  }

 private:
  static constexpr int kValues = 6;
  static constexpr int kBytes = sizeof(T);
  static constexpr int kWordValues = 4 / kBytes;

  static __device__ std::byte const* bytes(T const* from) {
    return reinterpret_cast<std::byte const*>(from);
  }

  /// Whether the words in which the values lie may be copied.
  __device__ bool copies_words() const {
    return kBytes == 4 || pass_.wide_inputs;
  }

  /// One by one, and waited for.
  __device__ void copy_halves(std::uint32_t to, std::byte const* const (&from)[kValues],
                              int values) const {
    T loaded[kValues];
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      if (v < values) loaded[v] = *reinterpret_cast<T const*>(from[v]);
    }
#pragma unroll
    for (int v = 0; v < kValues; ++v) {
      std::uint16_t half = 0;
      memcpy(&half, &loaded[v], sizeof half);
      if (v < values) ptx::store_shared(to + v * 4, half * 0x10001u);
    }
  }

  __device__ float value(std::uint32_t word) const {
    if constexpr (kBytes == 4) {
      return __uint_as_float(word);
    } else {
      auto const half = static_cast<std::uint16_t>(word >> shift_);
      T result;
      memcpy(&result, &half, sizeof half);
      return convert<float>(result);
    }
  }

  RecurrentBackward<T> const& pass_;
  int shift_;  // of the value in its word
  std::byte const* kept_;
  std::byte const* entering_;
  std::byte const* dh_;
  std::uint8_t const* flags_;
};

/// The sums of warps that share the depth, on their way through shared memory to the lanes that
/// finish. Between `store` and `add_up` all of these warps meet; buffers take turns, so that once a
/// step is enough.
template <typename Tile, int kRows>
class FmaPartialSums {
  static constexpr int kBufferValues = kRows * Tile::kUnits * Tile::kParts;

 public:
  static constexpr int kBytes = 2 * kBufferValues * 4;

  /// `shared` is aligned to 16 bytes.
  __device__ explicit FmaPartialSums(std::byte* shared) : sums_{reinterpret_cast<float*>(shared)} {}

  /// Leaves the sums of a group of rows, from `first_row` on, over one part of the depth.
  __device__ void store(int buffer, int first_row, int part, Tile const& tile, float sum) const {
    if (tile.replica == 0) at(buffer, first_row + tile.row, tile.unit)[part] = sum;
  }

  /// A sum over the whole depth.
  __device__ float add_up(int buffer, int row, int unit) const {
    static_assert(Tile::kParts % 4 == 0, "four are read at once");
    auto const* const parts = reinterpret_cast<float4 const*>(at(buffer, row, unit));
    float sum = 0;
#pragma unroll
    for (int quad = 0; quad < Tile::kParts / 4; ++quad) {
      float4 const v = parts[quad];
      sum += (v.x + v.y) + (v.z + v.w);
    }
    return sum;
  }

 private:
  __device__ float* at(int buffer, int row, int unit) const {
    return sums_ + buffer * kBufferValues + (row * Tile::kUnits + unit) * Tile::kParts;
  }

  float* sums_;
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
