// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <gru/detail/cuda_types.cuh>
#include <gru/detail/ptx.cuh>

/// How the blocks of the grids for few rows hand values (forward: states, backward: dq) to each
/// other through global memory, that is, the L2 cache.
///
/// The values travel as 32-bit words in a ring of slots, one for each step, that hold kAbsent
/// wherever no value has arrived yet; no value has these bits (NaN is sent as another NaN). A
/// reader polls each word until it is not kAbsent: the value itself is the signal, and nothing
/// needs to be ordered after it. Say h_i for what step i reads.
///   - Putting kAbsent back. A thread that has stored h_{i+1} puts kAbsent into its words of
///     h_{i-1}. Nobody needs those any more: its block has received all of h_i, and each block sent
///     its part of h_i only after all of its threads, at the barrier, had read h_{i-1}.
///   - Nobody reads a word of h_{i-1} for one of h_{i-1+kSlots}, which follows it in the same
///   place.
///     Writer and reader each pass a fence every kFenceSteps steps. So after putting kAbsent into a
///     word, a writer passes a fence within kFenceSteps steps and then stores, in the next step, a
///     word that the same reader (which polls the same words in every step) has to see; the reader
///     passes a fence within kFenceSteps steps after that; from then on it finds kAbsent or what
///     was stored later. That is 2 kFenceSteps + 1 steps at most, less than kSlots.
/// The ring is filled with kAbsent before a launch.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// How a layer is spread over a grid.
struct FmaSpread {
  int blocks = 1;
  int warps = 1;  // of a block
};

/// The exchanged values: [kSlots, rows, pitch]. A fence takes about 0.3 us (H200, H 1024, N 1), so
/// it is rare.
struct FmaRing {
  static constexpr int kSlots = 64;
  static constexpr int kFenceSteps = 16;
  static constexpr int kPiece = 128;  // words that a warp polls together
  static constexpr std::uint32_t kAbsent = 0xffffffff;
  static_assert(2 * kFenceSteps + 1 < kSlots, "see the argument above");

  std::uint32_t* words = nullptr;
  int pitch = 0;  // values of a row, rounded up to whole 16 bytes
  int rows = 0;

  __device__ std::uint32_t* slot(int i) const { return words + i % kSlots * (rows * pitch); }

  /// Loads four words each from places in a slot; -1: nothing, which is complete.
  template <int kCount>
  __device__ static void load(std::uint32_t const* slot, int const (&from)[kCount],
                              ptx::Words4 (&words)[kCount]) {
#pragma unroll
    for (int p = 0; p < kCount; ++p) {
      words[p] = {};
      if (from[p] >= 0) words[p] = ptx::load_relaxed_16(slot + from[p]);
    }
  }

  /// Loads what was absent until nothing is, or until `expired`, which expire() is to set: called
  /// after more than `most` polls.
  template <int kCount, typename Expire>
  __device__ static void complete(std::uint32_t const* slot, int const (&from)[kCount],
                                  ptx::Words4 (&words)[kCount], std::uint32_t most,
                                  bool const& expired, Expire const& expire) {
    std::uint32_t polls = 0;
    while (is_incomplete(words) && !expired) {
#pragma unroll
      for (int p = 0; p < kCount; ++p) {
        ptx::Words4 const one[1] = {words[p]};
        if (is_incomplete(one)) words[p] = ptx::load_relaxed_16(slot + from[p]);
      }
      if (++polls > most) expire();
    }
  }

  /// The bits of a value that is sent.
  __device__ static std::uint32_t word(float value) {
    constexpr std::uint32_t kNan = 0x7fffffff;
    std::uint32_t const bits = __float_as_uint(value);
    return bits == kAbsent ? kNan : bits;
  }

 private:
  template <int kCount>
  __device__ static bool is_incomplete(ptx::Words4 const (&words)[kCount]) {
    std::uint32_t most = 0;  // kAbsent is the largest word
#pragma unroll
    for (ptx::Words4 const& v : words) most = max(most, max(max(v.x, v.y), max(v.z, v.w)));
    return most == kAbsent;
  }
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
