// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include "shapes.hpp"
#include "type.hpp"

/// The modelled floor of a forward step on one H200 (132 multiprocessors at 1980 MHz), from the
/// costs of its primitives, each measured by itself: what a persistent kernel could reach if it did
/// nothing but multiply and exchange h, one after the other, with all else hidden behind them.
namespace gru::bench::roofline {

inline constexpr double kMultiprocessors = 132;
inline constexpr double kCyclesPerUs = 1980;
/// What R may take of a multiprocessor: 200 KB of shared memory and 160 KB of registers.
inline constexpr double kBytesOnMultiprocessor = 360e3;
/// Copies stream from device memory at that rate; R, where it does not fit, from L2.
inline constexpr double kMemoryBytesPerUs = 4.3e6;
inline constexpr double kL2BytesPerUs = 5.5e6;

/// Floating-point operations a cycle and multiprocessor.
struct Rates {
  double narrow;  ///< mma.sync, whose tiles have 8 rows of the batch
  double wide;    ///< wgmma, from 64 rows
  double scalar;  ///< FFMA, which pads no rows; 0 = not of this type
};

inline Rates rates_of(Type type) {
  // m16n8k16 takes 6 cycles of one of 4 schedulers, m64n64k16 takes 32 cycles of all.
  constexpr double kNarrow = 4 * 2 * 16 * 8 * 16 / 6.0;
  constexpr double kWide = 2 * 64 * 64 * 16 / 32.0;
  constexpr double kScalar = 2 * 128;
  switch (type) {
    case Type::kFp32:  // 3xTF32, or FFMA
      return {kNarrow / 6, kWide / 6, kScalar};
    case Type::kTf32:
      return {kNarrow / 2, kWide / 2, 0};
    default:
      return {kNarrow, kWide, 0};
  }
}

inline double round_up(double value, double unit) {
  return static_cast<double>(static_cast<std::int64_t>((value + unit - 1) / unit)) * unit;
}

/// Microseconds in which `multiprocessors` multiply `rows` rows of the batch with R.
inline double multiply_us(Type type, double rows, double hidden_size, double multiprocessors) {
  Rates const rates = rates_of(type);
  double const flops_a_row = 2 * 3 * hidden_size * hidden_size;
  double const per_us = multiprocessors * kCyclesPerUs;
  double us = flops_a_row * round_up(rows, 8) / (rates.narrow * per_us);
  us = std::min(us, flops_a_row * round_up(rows, 64) / (rates.wide * per_us));
  if (rates.scalar > 0) us = std::min(us, flops_a_row * rows / (rates.scalar * per_us));
  return us;
}

inline double weights_bytes(Type type, Shape const& shape) {
  auto const hidden_size = static_cast<double>(shape.hidden_size);
  return 3 * hidden_size * hidden_size * static_cast<double>(bytes_of(type));
}

/// Whether the chip's shared memory and registers hold R.
inline bool fits_on_chip(Type type, Shape const& shape) {
  return weights_bytes(type, shape) <= kMultiprocessors * kBytesOnMultiprocessor;
}

/// One way of spreading R: over `blocks` multiprocessors, in at most `groups` copies.
struct Spread {
  double blocks;
  double groups;
  double exchange_us;           ///< of nothing
  double exchange_us_per_byte;  ///< received by a multiprocessor
};

/// The recurrence of a step where a group does its rows in tiles of 8, one behind the other.
inline double recurrence_us(Type type, Shape const& shape, Spread const& spread) {
  auto const N = static_cast<double>(shape.batch);
  auto const H = static_cast<double>(shape.hidden_size);
  double const groups = std::min(spread.groups, round_up(N, 8) / 8);
  double const rows = groups < 2 ? N : round_up(N / groups, 8);
  double const bytes = H * static_cast<double>(bytes_of(type));
  double const one_tile = spread.exchange_us +
                          spread.exchange_us_per_byte * bytes * std::min(rows, 8.0) +
                          multiply_us(type, std::min(rows, 8.0), H, spread.blocks);
  double const all_products = multiply_us(type, rows, H, spread.blocks);
  double const all_bytes = spread.exchange_us_per_byte * bytes * rows;
  return std::max({one_tile, all_products, all_bytes});
}

/// The floor of a forward step, input product included, in microseconds.
inline double floor_us_per_step(Type type, Shape const& shape) {
  auto const N = static_cast<double>(shape.batch);
  auto const C = static_cast<double>(shape.input_size);
  auto const H = static_cast<double>(shape.hidden_size);
  auto const bytes = static_cast<double>(bytes_of(type));
  double const R = weights_bytes(type, shape);

  // Through L2: 0.51 us for 4 KB a block, 0.73 us for 64 KB; groups of the whole chip or parts of
  // it.
  double const groups_that_fit = std::max(1.0, kMultiprocessors * kBytesOnMultiprocessor / R);
  double recurrence = 1e9;
  for (double groups = 1; groups <= std::min(groups_that_fit, 16.0); groups *= 2) {
    Spread const grid{kMultiprocessors / groups, groups, 0.495, 3.7e-6};
    recurrence = std::min(recurrence, recurrence_us(type, shape, grid));
  }
  // Between shared memories: 15 clusters of 8 or 7 of 16 fit at once.
  if (R <= 8 * kBytesOnMultiprocessor) {
    recurrence = std::min(recurrence, recurrence_us(type, shape, {8, 15, 0.19, 26e-6}));
  }
  if (R <= 16 * kBytesOnMultiprocessor) {
    recurrence = std::min(recurrence, recurrence_us(type, shape, {16, 7, 0.22, 30e-6}));
  }
  double const beside_chip = R - kMultiprocessors * kBytesOnMultiprocessor;
  if (beside_chip > 0) recurrence = std::max(recurrence, beside_chip / kL2BytesPerUs);

  double const flops = 2 * 3 * H * (C + H) * N;
  Rates const rates = rates_of(type);
  double const products =
      flops / (std::max(rates.wide, rates.scalar) * kMultiprocessors * kCyclesPerUs);
  double const memory = N * (C + H) * bytes / kMemoryBytesPerUs;
  return std::max({recurrence, products, memory});
}

}  // namespace gru::bench::roofline
