// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include <gru/cell.hpp>
#include <gru/detail/carver.hpp>
#include <gru/detail/chunks.hpp>
#include <gru/detail/sequence.hpp>
#include <gru/host/execution.hpp>
#include <gru/host/pack.hpp>
#include <gru/host/parallel.hpp>
#include <gru/host/products.hpp>
#include <gru/host/rows.hpp>
#include <gru/host/weights.hpp>
#include <gru/problem.hpp>
#include <gru/tensors.hpp>

/// The forward pass: for each chunk of steps, the input product of all its rows at once, then the
/// steps one by one, every slice of the batch by itself.
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

  ForwardBuffers(Carver& carver, Problem const& p, std::int64_t chunk_steps) : weights{carver, p} {
    std::int64_t const rows = chunk_steps * p.batch;
    std::int64_t const state_size = p.batch * p.hidden_size;
    bool const drops_state = drops(p, p.recurrent_dropout);
    bool const copies_operand = drops_state || !std::is_same_v<T, A>;
    // The input product is formed in the reserve itself where that holds values of A.
    bool const forms_in_reserve = std::is_same_v<T, A> && keeps_reserve(p);

    state = carver.take<A>(state_size);
    operand = carver.take<A>(copies_operand ? state_size : 0);
    factors = carver.take<A>(drops_state ? state_size : 0);
    products = carver.take<A>(3 * state_size);
    reset_state = carver.take<A>(p.variant == Variant::kResetBefore ? state_size : 0);
    inputs = carver.take<A>(reads_x_in_place<T>(p) ? 0 : rows * p.input_size);
    input_products = carver.take<A>(forms_in_reserve ? 0 : rows * 3 * p.hidden_size);
    if (operand == nullptr) operand = state;
  }

  PreparedWeights<T> weights;
  A* state;           // [N, H] s, carried from step to step
  A* operand;         // [N, H] s as it enters R; `state` itself where nothing changes it
  A* factors;         // [N, H] of recurrent dropout, null without
  A* products;        // [N, 3H] s R
  A* reset_state;     // [N, H] r * s as it enters R_g (reset before)
  A* inputs;          // [steps * N, C] x, unless it is read in place
  A* input_products;  // [steps * N, 3H] x W, unless they are formed in the reserve
};

/// How forward cuts the steps into chunks; throws where the workspace limit is too small.
template <typename T>
Chunks forward_chunks(Problem const& p) {
  auto const bytes = [&](std::int64_t steps) {
    Carver counting;
    ForwardBuffers<T>{counting, p, steps};
    return counting.bytes();
  };
  return cut_into_chunks(p, bytes(0), bytes(1) - bytes(0));
}

template <typename T>
std::size_t forward_workspace_bytes(Problem const& p, Chunks const& chunks) {
  if (chunks.count == 0) return 0;
  Carver counting;
  ForwardBuffers<T>{counting, p, chunks.size};
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
        buffers_{carver, p, chunks.size},
        slices_{batch_slices(p.batch)},
        at_{blocks(p)},
        h_rows_{sequence_rows(p, p.pitch.h, p.hidden_size)} {}

  void run(Weights<T> const& weights) {
    buffers_.weights.prepare(execution_, p_, masks_, weights);
    for_each_task(execution_, slices_.count, [&](std::int64_t slice) { load_states(slice); });
    for (std::int64_t chunk = 0; chunk < chunks_.count; ++chunk) {
      ChunkRows const rows = chunk_rows(p_, chunks_, chunk);
      MatrixView<A> const products = multiply_inputs(rows);
      for_each_task(execution_, slices_.count,
                    [&](std::int64_t slice) { do_steps(rows, products, slice); });
    }
    for_each_task(execution_, slices_.count, [&](std::int64_t slice) { store_states(slice); });
  }

 private:
  /// What a row's cell reads and writes.
  struct Row {
    std::int64_t t;
    std::int64_t n;
    A const* input_product;  // [3H]
    A const* product;        // [3H]
    A* state;                // [H]
    T* h;                    // [H] or null
    T* reserve;              // [4H] or null
  };

  void load_states(std::int64_t slice) {
    std::int64_t const H = p_.hidden_size;
    std::int64_t const begin = slices_.begin(slice);
    std::int64_t const end = slices_.end(slice);
    for (std::int64_t n = begin; n < end; ++n) {
      load_state(arguments_.h0, pitch_or(p_.pitch.h0, H), n, H, buffers_.state + n * H);
    }
    if (buffers_.factors != nullptr) fill_state_factors(masks_, begin, end, buffers_.factors);
  }

  void store_states(std::int64_t slice) {
    if (!arguments_.final_state) return;
    std::int64_t const H = p_.hidden_size;
    std::int64_t const pitch = pitch_or(p_.pitch.final_state, H);
    for (std::int64_t n = slices_.begin(slice); n < slices_.end(slice); ++n) {
      for (std::int64_t i = 0; i < H; ++i) {
        arguments_.final_state.store(n * pitch + i, buffers_.state[n * H + i]);
      }
    }
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

  void do_steps(ChunkRows const& rows, MatrixView<A> const& input_products, std::int64_t slice) {
    for (std::int64_t i = 0; i < rows.steps; ++i) {
      std::int64_t const t = schedule_.reverse ? rows.first + rows.steps - 1 - i : rows.first + i;
      do_step(t, input_products.from_row(rows.row(t, 0)), slices_.begin(slice), slices_.end(slice));
    }
  }

  /// One step of samples [begin, end).
  void do_step(std::int64_t t, MatrixView<A> const& input_products, std::int64_t begin,
               std::int64_t end) {
    bool any_active = false;
    for (std::int64_t n = begin; n < end; ++n) {
      if (schedule_.is_active(t, n)) {
        any_active = true;
        prepare_operand(t, n);
      } else {
        clear_outputs(t, n);
      }
    }
    if (!any_active) return;

    std::int64_t const H = p_.hidden_size;
    auto const for_active_rows = [&](auto const& f) {
      for (std::int64_t n = begin; n < end; ++n) {
        if (!schedule_.is_active(t, n)) continue;
        f(Row{t, n, input_products.from_row(n).data, buffers_.products + n * 3 * H,
              buffers_.state + n * H, h_row(t, n), reserve_row(t, n)});
      }
    };
    if (p_.variant == Variant::kResetAfter) {
      multiply_state(buffers_.operand, 0, 3 * H, begin, end);
      for_active_rows([&](Row const& row) { finish_reset_after(row); });
    } else {
      multiply_state(buffers_.operand, 0, 2 * H, begin, end);
      for_active_rows([&](Row const& row) { apply_reset(row); });
      multiply_state(buffers_.reset_state, 2 * H, 3 * H, begin, end);
      for_active_rows([&](Row const& row) { finish_reset_before(row); });
    }
  }

  /// Columns [first, last) of operand * R.
  void multiply_state(A const* operand, std::int64_t first, std::int64_t last, std::int64_t begin,
                      std::int64_t end) {
    std::int64_t const H = p_.hidden_size;
    multiply<A>({buffers_.products + begin * 3 * H + first, 3 * H, false},
                {operand + begin * H, H, false},
                buffers_.weights.recurrent_kernel().from_column(first),
                {end - begin, last - first, H}, false);
  }

  /// The state that enters a step, as it stays and as it enters R.
  void prepare_operand(std::int64_t t, std::int64_t n) {
    std::int64_t const H = p_.hidden_size;
    A* const state = buffers_.state + n * H;
    if (schedule_.is_cleared(t, n)) std::fill_n(state, H, A(0));
    if (buffers_.operand == buffers_.state) return;
    A* const operand = buffers_.operand + n * H;
    for_each_pack<A>(H, [&](Units u) {
      store(operand, u, rounded_to<T>(with_dropout(load<A>(state, u), n, u)));
    });
  }

  /// A step that the sample does not do.
  void clear_outputs(std::int64_t t, std::int64_t n) {
    std::int64_t const H = p_.hidden_size;
    if (T* const h = h_row(t, n)) std::fill_n(h, H, static_cast<T>(0));
    if (T* const reserve = reserve_row(t, n)) std::fill_n(reserve, 4 * H, static_cast<T>(0));
  }

  void finish_reset_after(Row const& row) {
    for_each_pack<A>(p_.hidden_size, [&](Units u) {
      cell::Gates<V> const p = input_part(row, u);
      cell::Gates<V> const q = sum(load_gates<A>(row.product, at_, u),
                                   load_gates<A>(buffers_.weights.recurrent_bias(), at_, u));
      cell::Gates<V> const a = cell::reset_after(p, q);
      keep(row, u, a, q.g);
      finish(row, u, a);
    });
  }

  /// r * s, which enters R_g where the reset gate acts before the product.
  void apply_reset(Row const& row) {
    std::int64_t const H = p_.hidden_size;
    A const* const recurrent_bias = buffers_.weights.recurrent_bias() + at_.r;
    A const* const bias = buffers_.weights.bias() + at_.r;
    for_each_pack<A>(H, [&](Units u) {
      V const p = load<A>(row.input_product + at_.r, u) + load<A>(bias, u);
      V const q = load<A>(row.product + at_.r, u) + load<A>(recurrent_bias, u);
      V const s = cell::reset_state(p + q, load<A>(row.state, u));
      store(buffers_.reset_state + row.n * H, u, rounded_to<T>(with_dropout(s, row.n, u)));
    });
  }

  void finish_reset_before(Row const& row) {
    A const* const reset_state = buffers_.reset_state + row.n * p_.hidden_size;
    for_each_pack<A>(p_.hidden_size, [&](Units u) {
      cell::Gates<V> const p = input_part(row, u);
      cell::Gates<V> const q = sum(load_gates<A>(row.product, at_, u),
                                   load_gates<A>(buffers_.weights.recurrent_bias(), at_, u));
      cell::Gates<V> const a = cell::reset_before(p, q);
      keep(row, u, a, load<A>(reset_state, u));
      finish(row, u, a);
    });
  }

  /// p = x W + bx.
  cell::Gates<V> input_part(Row const& row, Units u) const {
    return sum(load_gates<A>(row.input_product, at_, u),
               load_gates<A>(buffers_.weights.bias(), at_, u));
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
    store(row.state, u, next);
    if (row.h != nullptr) store(row.h, u, next);
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
  Ranges slices_;
  Blocks at_;
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
