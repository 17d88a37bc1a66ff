// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include <gru/cell.hpp>
#include <gru/detail/carver.hpp>
#include <gru/detail/chunks.hpp>
#include <gru/detail/sequence.hpp>
#include <gru/host/blocked_product.hpp>
#include <gru/host/execution.hpp>
#include <gru/host/pack.hpp>
#include <gru/host/panels.hpp>
#include <gru/host/parallel.hpp>
#include <gru/host/phases.hpp>
#include <gru/host/products.hpp>
#include <gru/host/rows.hpp>
#include <gru/host/weights.hpp>
#include <gru/problem.hpp>
#include <gru/tensors.hpp>

/// The forward pass: for each chunk of steps, the input product of all its rows at once, then the
/// steps one by one, each in tiles of rows and units.
namespace gru::detail::host {

/// What a forward run works on, whether it came to run() or to step().
template <typename T>
struct ForwardArguments {
  T const* x = nullptr;
  OrFloat<T const> h0 = {};
  Schedule schedule = {};
  Masks masks = {};
  T* h = nullptr;  // null where not wanted
  OrFloat<T> final_state = {};
  T* reserve = nullptr;  // null where none is kept
};

/// Whether forward fills a reserve.
inline bool keeps_reserve(Problem const& p) {
  return p.keep_for_backward && p.reserve != ReservePolicy::kRecompute;
}

/// The workspace of a forward pass.
template <typename T>
struct ForwardBuffers {
  using A = Accumulator<T>;

  ForwardBuffers(Carver& carver, Problem const& p, std::int64_t chunk_steps, bool packs)
      : weights{carver, p} {
    std::int64_t const rows = chunk_steps * p.batch;
    std::int64_t const state_size = p.batch * p.hidden_size;
    bool const drops_state = drops(p, p.recurrent_dropout);
    bool const copies_operand = drops_state || !std::is_same_v<T, A>;
    // The input product is formed in the reserve itself where that holds values of A.
    bool const forms_in_reserve = std::is_same_v<T, A> && keeps_reserve(p);

    panels = carver.take<A>(packs ? 3 * p.hidden_size * padded_units<A>(p) : 0);
    states = carver.take<A>(2 * state_size);
    operands = carver.take<A>(copies_operand ? 2 * state_size : 0);
    factors = carver.take<A>(drops_state ? state_size : 0);
    products = carver.take<A>(p.batch * 3 * padded_units<A>(p));
    reset_state = carver.take<A>(p.variant == Variant::kResetBefore ? state_size : 0);
    inputs = carver.take<A>(reads_x_in_place<T>(p) ? 0 : rows * p.input_size);
    input_products = carver.take<A>(forms_in_reserve ? 0 : rows * 3 * p.hidden_size);
    if (operands == nullptr) operands = states;
  }

  PreparedWeights<T> weights;
  A* panels;          // R packed, the gates of one product after those of another; null where it is
                      // multiplied where it is
  A* states;          // [2, N, H] s that enters a step and s that leaves it, by turns
  A* operands;        // [2, N, H] s as it enters R; `states` itself where nothing changes it
  A* factors;         // [N, H] of recurrent dropout, null without
  A* products;        // [N, 3, padded H] s R
  A* reset_state;     // [N, H] r * s as it enters R_g (reset before)
  A* inputs;          // [steps * N, C] x, unless it is read in place
  A* input_products;  // [steps * N, 3H] x W, unless they are formed in the reserve
};

/// How forward cuts the steps into chunks; throws where the workspace limit is too small.
template <typename T>
Chunks forward_chunks(Problem const& p) {
  bool const packs = packs_recurrent_kernel<ForwardBuffers<T>>(p);
  auto const bytes = [&](std::int64_t steps) {
    Carver counting;
    ForwardBuffers<T>{counting, p, steps, packs};
    return counting.bytes();
  };
  return cut_into_chunks(p, bytes(0), bytes(1) - bytes(0));
}

template <typename T>
std::size_t forward_workspace_bytes(Problem const& p, Chunks const& chunks) {
  if (chunks.count == 0) return 0;
  Carver counting;
  ForwardBuffers<T>{counting, p, chunks.size, packs_recurrent_kernel<ForwardBuffers<T>>(p)};
  return counting.bytes();
}

/// One forward run.
template <typename T>
class Forward {
  using A = Accumulator<T>;
  using V = Pack<A>;

 public:
  Forward(Problem const& p, Chunks const& chunks, gru::host::Execution const& execution,
          ForwardArguments<T> const& arguments, Carver carver)
      : p_{p},
        chunks_{chunks},
        execution_{execution},
        arguments_{arguments},
        schedule_{arguments.schedule},
        masks_{arguments.masks},
        buffers_{carver, p, chunks.size, packs_recurrent_kernel<ForwardBuffers<T>>(p)},
        at_{blocks(p, p.hidden_size)},
        product_at_{blocks(p, padded_units<A>(p))},
        phases_per_step_{p.variant == Variant::kResetAfter ? 1 : 2},
        tiles_{phases_per_step_ * p.steps, p.batch, padded_units<A>(p) / Pack<A>::kSize,
               3 * Pack<A>::kSize * p.hidden_size, buffers_.panels != nullptr},
        h_rows_{sequence_rows(p, p.pitch.h, p.hidden_size)} {}

  void run(Weights<T> const& weights) {
    buffers_.weights.prepare(execution_, p_, masks_, weights);
    if (buffers_.panels != nullptr) pack_recurrent_kernel();
    load_states();
    for (std::int64_t chunk = 0; chunk < chunks_.count; ++chunk) {
      ChunkRows const rows = chunk_rows(p_, chunks_, chunk);
      MatrixView<A> const products = multiply_inputs(rows);
      Phases phases{phases_per_step_ * rows.steps, tiles_.count()};
      phases.run(execution_, [&](std::int64_t phase, std::int64_t tile) {
        std::int64_t const step = chunk * chunks_.size + phase / phases_per_step_;
        std::int64_t const row = rows.row(schedule_.time(step), 0);
        do_phase(step, phase % phases_per_step_, products.from_row(row), tiles_.tile(tile));
      });
    }
    if (arguments_.final_state) store_states();
  }

 private:
  /// What the cell of a row reads and writes.
  struct Row {
    std::int64_t step;
    std::int64_t t;
    std::int64_t n;
    A const* input_product;  // [3H]
    A const* product;        // [3, padded H]
    A const* state;          // [H]
    T* h;                    // [H] or null
    T* reserve;              // [4H] or null
  };

  A* state(std::int64_t step, std::int64_t n) const {
    return buffers_.states + (step % 2 * p_.batch + n) * p_.hidden_size;
  }
  A* operand(std::int64_t step, std::int64_t n) const {
    return buffers_.operands + (step % 2 * p_.batch + n) * p_.hidden_size;
  }

  /// Columns of R's gates side by side, so that a tile reads those of its units in one stream.
  void pack_recurrent_kernel() {
    std::int64_t const H = p_.hidden_size;
    std::int64_t const panels = padded_units<A>(p_) / Pack<A>::kSize;
    MatrixView<A const> const R = buffers_.weights.recurrent_kernel();
    ColumnBlock<A> const first{R, H};
    ColumnBlock<A> const second{R.from_column(H), H};
    ColumnBlock<A> const candidate{R.from_column(2 * H), H};
    if (p_.variant == Variant::kResetAfter) {
      pack_panels(execution_, {first, second, candidate}, H, panels, Pack<A>::kSize,
                  buffers_.panels);
    } else {
      pack_panels(execution_, {first, second}, H, panels, Pack<A>::kSize, buffers_.panels);
      pack_panels(execution_, {candidate}, H, panels, Pack<A>::kSize,
                  buffers_.panels + 2 * H * padded_units<A>(p_));
    }
  }

  void load_states() {
    std::int64_t const H = p_.hidden_size;
    for_each_row_range(execution_, p_.batch, H, [&](std::int64_t begin, std::int64_t end) {
      if (buffers_.factors != nullptr) fill_state_factors(masks_, begin, end, buffers_.factors);
      for (std::int64_t n = begin; n < end; ++n) {
        load_state(arguments_.h0, pitch_or(p_.pitch.h0, H), n, H, state(0, n));
        for_each_pack<A>(H, [&](Units u) { enter(0, n, u, load<A>(state(0, n), u)); });
      }
    });
  }

  void store_states() {
    std::int64_t const H = p_.hidden_size;
    std::int64_t const pitch = pitch_or(p_.pitch.final_state, H);
    for_each_row_range(execution_, p_.batch, H, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t n = begin; n < end; ++n) {
        A const* const last = state(p_.steps, n);
        for (std::int64_t i = 0; i < H; ++i) arguments_.final_state.store(n * pitch + i, last[i]);
      }
    });
  }

  /// x W for the rows of a chunk.
  MatrixView<A> multiply_inputs(ChunkRows const& rows) {
    std::int64_t const H = p_.hidden_size;
    MatrixView<A> out{buffers_.input_products, 3 * H, false};
    if constexpr (std::is_same_v<T, A>) {
      if (arguments_.reserve != nullptr) out = {reserve_row(rows.first, 0), 4 * H, false};
    }
    auto const x = chunk_of_x(execution_, p_, rows, arguments_.x, buffers_.inputs);
    run_products<A>(
        execution_,
        {{out, x, buffers_.weights.kernel(), {rows.count(), 3 * H, p_.input_size}, false}});
    return out;
  }

  /// One phase of a step: all of it, or where reset is before, first what r * s needs.
  void do_phase(std::int64_t step, std::int64_t phase, MatrixView<A> const& input_products,
                Tile const& tile) {
    std::int64_t const t = schedule_.time(step);
    std::int64_t const begin = tile.panel_begin * Pack<A>::kSize;
    std::int64_t const end = std::min(tile.panel_end * Pack<A>::kSize, p_.hidden_size);
    auto const for_active_rows = [&](auto const& f) {
      for (std::int64_t n = tile.row_begin; n < tile.row_end; ++n) {
        if (!schedule_.is_active(t, n)) continue;
        Row const row{step,
                      t,
                      n,
                      input_products.from_row(n).data,
                      buffers_.products + n * 3 * padded_units<A>(p_),
                      state(step, n),
                      h_row(t, n),
                      reserve_row(t, n)};
        for_each_pack<A>(begin, end, [&](Units u) { f(row, u); });
      }
    };
    bool const any_active = has_active_row(schedule_, t, tile.row_begin, tile.row_end);
    if (p_.variant == Variant::kResetAfter) {
      if (any_active) multiply_state<3>(operand(step, 0), 0, tile);
      for_active_rows([&](Row const& row, Units u) { finish_reset_after(row, u); });
    } else if (phase == 0) {
      if (any_active) multiply_state<2>(operand(step, 0), 0, tile);
      for_active_rows([&](Row const& row, Units u) { apply_reset(row, u); });
      return;
    } else {
      if (any_active) multiply_state<1>(buffers_.reset_state, 2, tile);
      for_active_rows([&](Row const& row, Units u) { finish_reset_before(row, u); });
    }
    for (std::int64_t n = tile.row_begin; n < tile.row_end; ++n) {
      if (!schedule_.is_active(t, n)) {
        for_each_pack<A>(begin, end, [&](Units u) { skip(step, t, n, u); });
      }
    }
  }

  /// Columns of kGates gates, from one on, of operand * R.
  template <int kGates>
  void multiply_state(A const* operand, std::int64_t first, Tile const& tile) {
    constexpr std::int64_t kSize = Pack<A>::kSize;
    std::int64_t const H = p_.hidden_size;
    std::int64_t const padded = padded_units<A>(p_);
    std::int64_t const rows = tile.row_end - tile.row_begin;
    MatrixView<A const> const lhs{operand + tile.row_begin * H, H, false};
    A* const out = buffers_.products + (tile.row_begin * 3 + first) * padded;
    if (buffers_.panels == nullptr) {
      std::int64_t const unit = tile.panel_begin * kSize;
      std::int64_t const units = std::min(tile.panel_end * kSize, H) - unit;
      for (std::int64_t i = 0; i < kGates; ++i) {
        multiply<A>({out + i * padded + unit, 3 * padded, false}, lhs,
                    buffers_.weights.recurrent_kernel().from_column((first + i) * H + unit),
                    {rows, units, H}, false);
      }
      return;
    }
    A const* const panels = buffers_.panels + first * H * padded;
    for (std::int64_t i = tile.panel_begin; i < tile.panel_end; ++i) {
      PanelProduct<A> const product{
          lhs, panels + i * H * kGates * kSize, H, out + i * kSize, 3 * padded, padded, false};
      product.template run<kGates>(rows);
    }
  }

  /// The state that leaves a step, as it enters the next and as it enters R there.
  void enter(std::int64_t step, std::int64_t n, Units u, V s) {
    if (step < p_.steps && schedule_.is_cleared(schedule_.time(step), n)) s = V{A(0)};
    store(state(step, n), u, s);
    if (buffers_.operands == buffers_.states) return;
    store(operand(step, n), u, rounded_to<T>(with_dropout(s, n, u)));
  }

  /// A step that the sample does not do.
  void skip(std::int64_t step, std::int64_t t, std::int64_t n, Units u) {
    if (T* const h = h_row(t, n)) store(h, u, V{A(0)});
    if (T* const reserve = reserve_row(t, n)) {
      for (std::int64_t const column : {at_.z, at_.r, at_.g, at_.fourth}) {
        store(reserve + column, u, V{A(0)});
      }
    }
    enter(step + 1, n, u, load<A>(state(step, n), u));
  }

  [[gnu::flatten]] void finish_reset_after(Row const& row, Units u) {
    cell::Gates<V> const p = input_part(row, u);
    cell::Gates<V> const q = recurrent_part(row, u);
    cell::Gates<V> const a = cell::reset_after(p, q);
    keep(row, u, a, q.g);
    finish(row, u, a);
  }

  /// r * s, which enters R_g where the reset gate acts before the product.
  [[gnu::flatten]] void apply_reset(Row const& row, Units u) {
    A const* const recurrent_bias = buffers_.weights.recurrent_bias() + at_.r;
    V const p = load<A>(row.input_product + at_.r, u) + load<A>(buffers_.weights.bias() + at_.r, u);
    V const q = load<A>(row.product + product_at_.r, u) + load<A>(recurrent_bias, u);
    V const s = cell::reset_state(p + q, load<A>(row.state, u));
    store(buffers_.reset_state + row.n * p_.hidden_size, u,
          rounded_to<T>(with_dropout(s, row.n, u)));
  }

  [[gnu::flatten]] void finish_reset_before(Row const& row, Units u) {
    cell::Gates<V> const a = cell::reset_before(input_part(row, u), recurrent_part(row, u));
    keep(row, u, a, load<A>(buffers_.reset_state + row.n * p_.hidden_size, u));
    finish(row, u, a);
  }

  /// p = x W + bx.
  cell::Gates<V> input_part(Row const& row, Units u) const {
    return sum(load_gates<A>(row.input_product, at_, u),
               load_gates<A>(buffers_.weights.bias(), at_, u));
  }

  /// q = s R + br.
  cell::Gates<V> recurrent_part(Row const& row, Units u) const {
    return sum(load_gates<A>(row.product, product_at_, u),
               load_gates<A>(buffers_.weights.recurrent_bias(), at_, u));
  }

  void keep(Row const& row, Units u, cell::Gates<V> const& a, V const& fourth) {
    if (row.reserve == nullptr) return;
    store(row.reserve + at_.z, u, a.z);
    store(row.reserve + at_.r, u, a.r);
    store(row.reserve + at_.g, u, a.g);
    store(row.reserve + at_.fourth, u, fourth);
  }

  void finish(Row const& row, Units u, cell::Gates<V> const& a) {
    V const s = load<A>(row.state, u);
    V next = cell::new_state(a.z, a.g, s);
    if (masks_.has_zoneout()) {
      next = cell::zoneout(next, s, zoneout_weight<A>(masks_, row.t, row.n, u));
    }
    if (row.h != nullptr) store(row.h, u, next);
    enter(row.step + 1, row.n, u, next);
  }

  V with_dropout(V const& s, std::int64_t n, Units u) const {
    if (buffers_.factors == nullptr) return s;
    return s * load<A>(buffers_.factors + n * p_.hidden_size, u);
  }

  T* h_row(std::int64_t t, std::int64_t n) const {
    return arguments_.h == nullptr ? nullptr : arguments_.h + h_rows_.at(t, n);
  }

  T* reserve_row(std::int64_t t, std::int64_t n) const {
    if (arguments_.reserve == nullptr) return nullptr;
    return arguments_.reserve + dense_rows(p_.batch, 4 * p_.hidden_size).at(t, n);
  }

  Problem const& p_;
  Chunks const& chunks_;
  gru::host::Execution const& execution_;
  ForwardArguments<T> const& arguments_;
  Schedule const& schedule_;
  Masks const& masks_;
  ForwardBuffers<T> buffers_;
  Blocks at_;          // the gates in rows of input products, biases and the reserve
  Blocks product_at_;  // the gates in a row of `products`
  std::int64_t phases_per_step_;
  StepTiles tiles_;
  Rows h_rows_;
};

/// Forward over no steps: the final state is the initial one.
template <typename T>
void copy_state(Problem const& p, OrFloat<T const> from, OrFloat<T> to) {
  using A = Accumulator<T>;
  if (!to) return;
  std::int64_t const H = p.hidden_size;
  std::int64_t const from_pitch = pitch_or(p.pitch.h0, H);
  std::int64_t const to_pitch = pitch_or(p.pitch.final_state, H);
  for (std::int64_t n = 0; n < p.batch; ++n) {
    for (std::int64_t i = 0; i < H; ++i) {
      A const value = from ? from.template load<A>(n * from_pitch + i) : A(0);
      to.store(n * to_pitch + i, value);
    }
  }
}

template <typename T>
void run_forward(Problem const& p, Chunks const& chunks, gru::host::Execution const& execution,
                 Weights<T> const& weights, ForwardArguments<T> const& arguments,
                 Workspace workspace) {
  if (chunks.count == 0) {
    copy_state(p, arguments.h0, arguments.final_state);
    return;
  }
  Forward<T>{p, chunks, execution, arguments, Carver{workspace.data}}.run(weights);
}

}  // namespace gru::detail::host
