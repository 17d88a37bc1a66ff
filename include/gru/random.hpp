// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include <gru/detail/macros.hpp>

namespace gru {

/// What the masks are drawn from: the same numbers give the same bits on host and device, forward
/// and backward, whatever the engine, layout or lengths.
struct Random {
  std::uint64_t seed = 0;
  std::uint64_t offset = 0;
  /// [2] seed and offset in the engine's memory, or null. Where given they replace the two values
  /// above and are read when the pass executes, so that a CUDA graph or a framework that keeps its
  /// keys on the device draws new masks in every run.
  std::uint64_t const* state = nullptr;
};

namespace detail {

/// The high word of a product. Device compilers get it by name: from 64-bit arithmetic they make
/// two instructions more.
GRU_HOST_DEVICE inline std::uint32_t multiply_high(std::uint32_t a, std::uint32_t b) {
#if defined(__CUDA_ARCH__)
  return __umulhi(a, b);
#else
  return static_cast<std::uint32_t>(std::uint64_t{a} * b >> 32);
#endif
}

}  // namespace detail

/// Four words of Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3").
struct PhiloxWords {
  std::uint32_t word[4];

  /// word[i]; selects, so that the words can stay in registers.
  GRU_HOST_DEVICE std::uint32_t at(int i) const {
    std::uint32_t const low = i % 2 == 0 ? word[0] : word[1];
    std::uint32_t const high = i % 2 == 0 ? word[2] : word[3];
    return i < 2 ? low : high;
  }
};

/// The generator: `counter` is words 0 and 1 of its counter, `offset` words 2 and 3, `seed` its
/// key.
GRU_HOST_DEVICE inline PhiloxWords philox(std::uint64_t seed, std::uint64_t offset,
                                          std::uint64_t counter) {
  auto const low = [](std::uint64_t v) { return static_cast<std::uint32_t>(v); };
  auto const high = [](std::uint64_t v) { return static_cast<std::uint32_t>(v >> 32); };
  std::uint32_t key0 = low(seed);
  std::uint32_t key1 = high(seed);
  PhiloxWords c{{low(counter), high(counter), low(offset), high(offset)}};
  constexpr std::uint32_t kFactor0 = 0xD2511F53;
  constexpr std::uint32_t kFactor1 = 0xCD9E8D57;
  for (int round = 0; round < 10; ++round) {
    c = {{detail::multiply_high(kFactor1, c.word[2]) ^ c.word[1] ^ key0, kFactor1 * c.word[2],
          detail::multiply_high(kFactor0, c.word[0]) ^ c.word[3] ^ key1, kFactor0 * c.word[0]}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return c;
}

/// Which draw belongs to which element. The three masks use disjoint ranges of counters.
namespace draws {

inline constexpr std::uint64_t kDropConnect = std::uint64_t{1} << 63;
inline constexpr std::uint64_t kRecurrentDropout = kDropConnect + (std::uint64_t{1} << 62);

/// A drawn word keeps its element when it is at least this.
inline std::uint32_t threshold(double rate) {
  return static_cast<std::uint32_t>(std::floor(rate * 4294967296.0));
}

/// Counter of the zoneout draws of steps 4 * (t / 4) to 4 * (t / 4) + 3; step t takes word t % 4.
GRU_HOST_DEVICE inline std::uint64_t zoneout(std::int64_t t, std::int64_t n, std::int64_t unit,
                                             std::int64_t batch, std::int64_t hidden_size) {
  return static_cast<std::uint64_t>(((t / 4) * batch + n) * hidden_size + unit);
}

/// Element number of a weight of R: `k` its row as [H, 3H], `gate` 0, 1, 2 for z, r, g, in every
/// weight format. Its draw is word e % 4 of counter kDropConnect + e / 4.
GRU_HOST_DEVICE inline std::uint64_t dropconnect_element(std::int64_t k, std::int64_t gate,
                                                         std::int64_t unit,
                                                         std::int64_t hidden_size) {
  return static_cast<std::uint64_t>((k * 3 + gate) * hidden_size + unit);
}

/// Element number of a unit of the recurrent dropout mask. Its draw is word e % 4 of counter
/// kRecurrentDropout + e / 4.
GRU_HOST_DEVICE inline std::uint64_t recurrent_dropout_element(std::int64_t n, std::int64_t unit,
                                                               std::int64_t hidden_size) {
  return static_cast<std::uint64_t>(n * hidden_size + unit);
}

}  // namespace draws
}  // namespace gru
