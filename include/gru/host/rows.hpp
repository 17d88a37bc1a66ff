// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include <gru/cell.hpp>
#include <gru/detail/chunks.hpp>
#include <gru/detail/sequence.hpp>
#include <gru/host/execution.hpp>
#include <gru/host/pack.hpp>
#include <gru/host/parallel.hpp>
#include <gru/host/products.hpp>
#include <gru/problem.hpp>
#include <gru/tensors.hpp>

/// Rows of sequences and states: where they lie, and how they are brought into the accumulation
/// type.
namespace gru::detail::host {

/// The steps [first, first + steps) of all samples, as rows of dense time-major buffers.
struct ChunkRows {
  std::int64_t first = 0;
  std::int64_t steps = 0;
  std::int64_t batch = 0;

  std::int64_t count() const { return steps * batch; }
  std::int64_t row(std::int64_t t, std::int64_t n) const { return (t - first) * batch + n; }
  std::int64_t time_of(std::int64_t row) const { return first + row / batch; }
  std::int64_t sample_of(std::int64_t row) const { return row % batch; }
};

inline ChunkRows chunk_rows(Problem const& p, Chunks const& chunks, std::int64_t chunk) {
  return {chunks.first_time(chunk), chunks.size_of(chunk), p.batch};
}

/// Whether the rows of a sequence tensor follow each other in time-major order at one distance, so
/// that a product can read or write them where they are.
inline bool has_uniform_rows(Problem const& p) {
  return p.layout == Layout::kTimeMajor || p.batch == 1 || p.steps == 1;
}

/// Whether a product can read a chunk of x, of type T, where it is.
template <typename T>
bool reads_x_in_place(Problem const& p) {
  return std::is_same_v<T, Accumulator<T>> && has_uniform_rows(p);
}

/// A chunk of x as the matrix [rows, C]: where it is, or gathered in `buffer`.
template <typename T, typename A>
MatrixView<A const> chunk_of_x(gru::host::Execution const& execution, Problem const& p,
                               ChunkRows const& rows, T const* x, A* buffer) {
  std::int64_t const C = p.input_size;
  Rows const x_rows = sequence_rows(p, p.pitch.x, C);
  if constexpr (std::is_same_v<T, A>) {
    if (has_uniform_rows(p)) return {x + x_rows.at(rows.first, 0), pitch_or(p.pitch.x, C), false};
  }
  for_each_row_range(execution, rows.count(), C, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      T const* const from = x + x_rows.at(rows.time_of(i), rows.sample_of(i));
      std::transform(from, from + C, buffer + i * C, [](T v) { return static_cast<A>(v); });
    }
  });
  return {buffer, C, false};
}

/// Whether one of samples [begin, end) does step t.
inline bool has_active_row(Schedule const& schedule, std::int64_t t, std::int64_t begin,
                           std::int64_t end) {
  for (std::int64_t n = begin; n < end; ++n) {
    if (schedule.is_active(t, n)) return true;
  }
  return false;
}

/// Copies row n of a state [N, H] to `to`; zeros where there is none.
template <typename T, typename A>
void load_state(OrFloat<T const> state, std::int64_t pitch, std::int64_t n, std::int64_t width,
                A* to) {
  for (std::int64_t i = 0; i < width; ++i) {
    to[i] = state ? state.template load<A>(n * pitch + i) : A(0);
  }
}

/// The zoneout weights of some units. Never inlined: drawing them is long.
template <typename A>
EIGEN_DONT_INLINE Pack<A> zoneout_weight(Masks const& masks, std::int64_t t, std::int64_t n,
                                         Units units) {
  if (!masks.zoneout.on) return Pack<A>{masks.zoneout_weight<A>(t, n, units.begin)};
  Pack<A> weight{A(0)};
  for (int i = 0; i < units.count; ++i) {
    weight[i] = masks.zoneout_weight<A>(t, n, units.begin + i);
  }
  return weight;
}

/// Fills rows [begin, end) of [N, H] with the factors of recurrent dropout.
template <typename A>
void fill_state_factors(Masks const& masks, std::int64_t begin, std::int64_t end, A* factors) {
  std::int64_t const H = masks.hidden;
  for (std::int64_t n = begin; n < end; ++n) {
    for (std::int64_t i = 0; i < H; ++i) factors[n * H + i] = masks.state_factor<A>(n, i);
  }
}

/// The column at which each gate's block begins in a row of 3H, and where the reserve's fourth
/// block begins.
struct Blocks {
  std::int64_t z;
  std::int64_t r;
  std::int64_t g;
  std::int64_t fourth;
};

/// In rows with `width` elements for each block.
inline Blocks blocks(Problem const& p, std::int64_t width) {
  GateColumns const columns = gate_columns(p);
  return {columns.z * width, columns.r * width, columns.g * width, 3 * width};
}

/// One value for each gate, from the blocks of a row.
template <typename A, typename S>
cell::Gates<Pack<A>> load_gates(S const* row, Blocks const& at, Units units) {
  return {load<A>(row + at.z, units), load<A>(row + at.r, units), load<A>(row + at.g, units)};
}

template <typename A>
cell::Gates<Pack<A>> sum(cell::Gates<Pack<A>> const& a, cell::Gates<Pack<A>> const& b) {
  return {a.z + b.z, a.r + b.r, a.g + b.g};
}

}  // namespace gru::detail::host
