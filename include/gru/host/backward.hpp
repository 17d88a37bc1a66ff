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
#include <gru/host/forward.hpp>
#include <gru/host/pack.hpp>
#include <gru/host/panels.hpp>
#include <gru/host/parallel.hpp>
#include <gru/host/phases.hpp>
#include <gru/host/products.hpp>
#include <gru/host/rows.hpp>
#include <gru/host/weights.hpp>
#include <gru/problem.hpp>
#include <gru/tensors.hpp>

/// The backward pass: for each chunk of steps, from the last, the steps one by one, each in tiles
/// of rows and units, which leaves the gradients of the pre-activations; then dW, dR and dx from
/// all rows of the chunk at once.
namespace gru::detail::host {

/// Whether a product can add a weight gradient up in the caller's memory.
template <typename T>
bool sums_in_place(Problem const& p) {
  return std::is_same_v<T, Accumulator<T>> || p.weight_gradient_type == WeightGradientType::kFloat;
}

/// Whether a product can write a chunk of dx where it is. Rows past a sample's length are zeroed,
/// or left alone, one by one.
template <typename T>
bool writes_dx_in_place(Problem const& p) {
  return reads_x_in_place<T>(p) && !p.lengths;
}

/// Packs in a panel of the transpose of R: enough for the kernel, and few units to a tile.
inline constexpr int kTransposedPacks = 2;

/// H in whole panels of the transpose of R.
template <typename A>
std::int64_t panel_units(Problem const& p) {
  constexpr std::int64_t kUnits = kTransposedPacks * Pack<A>::kSize;
  return divide_up(p.hidden_size, kUnits) * kUnits;
}

/// The workspace of a backward pass.
template <typename T>
struct BackwardBuffers {
  using A = Accumulator<T>;

  BackwardBuffers(Carver& carver, Problem const& p, std::int64_t chunk_steps, bool packs)
      : weights{carver, p} {
    std::int64_t const rows = chunk_steps * p.batch;
    std::int64_t const state_size = p.batch * p.hidden_size;
    bool const overwrites_reserve = std::is_same_v<T, A> && p.reserve == ReservePolicy::kOverwrite;
    bool const sums_recurrent = !sums_in_place<T>(p) || drops(p, p.dropconnect);
    bool const holds_inputs = !reads_x_in_place<T>(p) || !writes_dx_in_place<T>(p);

    panels = carver.take<A>(packs ? 3 * p.hidden_size * panel_units<A>(p) : 0);
    state = carver.take<A>(state_size);
    carried = carver.take<A>(state_size);
    products = carver.take<A>(p.batch * panel_units<A>(p));
    factors = carver.take<A>(drops(p, p.recurrent_dropout) ? state_size : 0);
    bias_sums = carver.take<A>(4 * state_size);
    kernel_sums = carver.take<A>(sums_in_place<T>(p) ? 0 : kernel_storage(p).size());
    recurrent_sums = carver.take<A>(sums_recurrent ? recurrent_kernel_storage(p).size() : 0);
    operands = carver.take<A>(rows * p.hidden_size);
    inputs = carver.take<A>(holds_inputs ? rows * p.input_size : 0);
    gradients = carver.take<A>(overwrites_reserve ? 0 : rows * 4 * p.hidden_size);
  }

  PreparedWeights<T> weights;
  A* panels;          // the transpose of R packed, null where it is multiplied where it is
  A* state;           // [N, H] s, the state that entered the step
  A* carried;         // [N, H] gradient of the state that a step left, without its output's own
  A* products;        // [N, padded H] gradients times the transpose of R
  A* factors;         // [N, H] of recurrent dropout, null without
  A* bias_sums;       // [N, 4H] gradients summed over the steps; the reserve's columns
  A* kernel_sums;     // dW as W, tight, unless it is added up in place
  A* recurrent_sums;  // dR as R, tight, unless it is added up in place
  A* operands;        // [steps * N, H] s as it entered R
  A* inputs;          // [steps * N, C] x, later dx, unless both are used in place
  A* gradients;       // [steps * N, 4H], unless they are written over the reserve
};

/// How backward cuts the steps into chunks; throws where the workspace limit is too small.
template <typename T>
Chunks backward_chunks(Problem const& p) {
  bool const packs = packs_recurrent_kernel<BackwardBuffers<T>>(p);
  auto const bytes = [&](std::int64_t steps) {
    Carver counting;
    BackwardBuffers<T>{counting, p, steps, packs};
    return counting.bytes();
  };
  return cut_into_chunks(p, bytes(0), bytes(1) - bytes(0));
}

template <typename T>
std::size_t backward_workspace_bytes(Problem const& p, Chunks const& chunks) {
  if (chunks.count == 0) return 0;
  Carver counting;
  BackwardBuffers<T>{counting, p, chunks.size, packs_recurrent_kernel<BackwardBuffers<T>>(p)};
  return counting.bytes();
}

/// One backward run.
///
/// A row of `gradients` has the reserve's columns: the gradients of p in the weights' order of
/// gates, then that of q_g (reset after), or r * s as it entered R_g (reset before). They are
/// rounded to T, as they enter products; the sums of the biases are not.
template <typename T>
class Backward {
  using A = Accumulator<T>;
  using V = Pack<A>;

 public:
  Backward(Problem const& p, Chunks const& chunks, gru::host::Execution const& execution,
           BackwardTensors<T> const& tensors, Carver carver)
      : p_{p},
        chunks_{chunks},
        execution_{execution},
        tensors_{tensors},
        schedule_{make_schedule(p, tensors)},
        masks_{make_masks(p, tensors)},
        buffers_{carver, p, chunks.size, packs_recurrent_kernel<BackwardBuffers<T>>(p)},
        at_{blocks(p, p.hidden_size)},
        reset_after_{p.variant == Variant::kResetAfter},
        wants_biases_{tensors.dbias || tensors.drecurrent_bias},
        phases_per_step_{reset_after_ ? 1 : 2},
        tiles_{phases_per_step_ * p.steps, p.batch, panel_units<A>(p) / kUnitsOfPanel,
               3 * kUnitsOfPanel * p.hidden_size, buffers_.panels != nullptr},
        h_rows_{sequence_rows(p, p.pitch.h, p.hidden_size)},
        dh_rows_{sequence_rows(p, p.pitch.dh, p.hidden_size)} {}

  void run(Weights<T> const& weights) {
    buffers_.weights.prepare(execution_, p_, masks_, weights);
    if (buffers_.panels != nullptr) pack_transposed();
    start();
    for (std::int64_t chunk = chunks_.count - 1; chunk >= 0; --chunk) run_chunk(chunk);
    store_initial_gradients();
    if (wants_biases_) store_bias_gradients();
    store_weight_gradients();
  }

 private:
  static constexpr std::int64_t kUnitsOfPanel = kTransposedPacks * Pack<A>::kSize;

  /// One step of all samples.
  template <typename G>
  struct Step {
    std::int64_t t;
    G const* gates;           // [N, 4H]
    MatrixView<A> gradients;  // [N, 4H]
  };

  /// One step of one sample.
  struct Row {
    std::int64_t t;
    std::int64_t n;
    A* gradients;      // [4H]
    A* state;          // [H]
    A* carried;        // [H]
    A const* product;  // [H]
    A* bias_sums;      // [4H], null where no bias gradient is wanted
  };

  void pack_transposed() {
    constexpr std::int64_t kSize = Pack<A>::kSize;
    std::int64_t const H = p_.hidden_size;
    MatrixView<A const> const transposed = buffers_.weights.recurrent_kernel().flipped();
    pack_panels<A>(execution_, {{transposed, H}, {transposed.from_column(kSize), H - kSize}}, 3 * H,
                   panel_units<A>(p_) / kUnitsOfPanel, kUnitsOfPanel, buffers_.panels);
  }

  /// Past the last step the gradient of the state is the final state's.
  void start() {
    std::int64_t const H = p_.hidden_size;
    for_each_row_range(execution_, p_.batch, 4 * H, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t n = begin; n < end; ++n) {
        load_state(tensors_.dfinal_state, pitch_or(p_.pitch.dfinal_state, H), n, H,
                   buffers_.carried + n * H);
      }
      std::fill(buffers_.bias_sums + begin * 4 * H, buffers_.bias_sums + end * 4 * H, A(0));
      if (buffers_.factors != nullptr) fill_state_factors(masks_, begin, end, buffers_.factors);
    });
  }

  void run_chunk(std::int64_t chunk) {
    ChunkRows const rows = chunk_rows(p_, chunks_, chunk);
    bool const recompute = p_.reserve == ReservePolicy::kRecompute;
    bool const first = chunk == chunks_.count - 1;  // the first that is done
    MatrixView<A const> x;
    if (tensors_.dkernel || recompute) {
      x = chunk_of_x(execution_, p_, rows, tensors_.x, buffers_.inputs);
    }
    if (tensors_.drecurrent_kernel || recompute) gather_operands(rows);
    if (recompute) recompute_gates(rows, x);

    MatrixView<A> const gradients = gradients_of(rows);
    if (recompute) {
      do_steps(rows, gradients.data, gradients);
    } else {
      do_steps(rows, kept_gates(rows), gradients);
    }
    add_weight_gradients(rows, x, gradients, first);
    if (tensors_.dx != nullptr) write_input_gradients(rows, gradients);
  }

  /// The reserve's rows of a chunk, which backward only reads.
  T const* kept_gates(ChunkRows const& rows) const {
    bool const overwrites = p_.reserve == ReservePolicy::kOverwrite;
    void const* const reserve =
        overwrites ? tensors_.overwritten_reserve.data : tensors_.reserve.data;
    return static_cast<T const*>(reserve) +
           dense_rows(p_.batch, 4 * p_.hidden_size).at(rows.first, 0);
  }

  MatrixView<A> gradients_of(ChunkRows const& rows) const {
    std::int64_t const H = p_.hidden_size;
    if constexpr (std::is_same_v<T, A>) {
      if (p_.reserve == ReservePolicy::kOverwrite) {
        A* const reserve = static_cast<A*>(tensors_.overwritten_reserve.data);
        return {reserve + dense_rows(p_.batch, 4 * H).at(rows.first, 0), 4 * H, false};
      }
    }
    return {buffers_.gradients, 4 * H, false};
  }

  /// Units [begin, end) of s, the state that entered a step that the sample does, as forward's
  /// output and h0 tell it.
  void load_entering_state(std::int64_t t, std::int64_t n, std::int64_t begin, std::int64_t end,
                           A* state) const {
    if (schedule_.is_cleared(t, n)) {
      std::fill(state + begin, state + end, A(0));
    } else if (schedule_.is_first(t, n)) {
      std::int64_t const row = n * pitch_or(p_.pitch.h0, p_.hidden_size);
      for (std::int64_t i = begin; i < end; ++i) {
        state[i] = tensors_.h0 ? tensors_.h0.template load<A>(row + i) : A(0);
      }
    } else {
      T const* const h = tensors_.h + h_rows_.at(schedule_.reverse ? t + 1 : t - 1, n);
      for_each_pack<A>(begin, end, [&](Units u) { store(state, u, load<A>(h, u)); });
    }
  }

  V with_dropout(V const& s, std::int64_t n, Units u) const {
    if (buffers_.factors == nullptr) return s;
    return s * load<A>(buffers_.factors + n * p_.hidden_size, u);
  }

  /// s as it entered R, for all rows of a chunk; zeros in steps that were not done.
  void gather_operands(ChunkRows const& rows) {
    std::int64_t const H = p_.hidden_size;
    for_each_row_range(execution_, rows.count(), H, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        std::int64_t const t = rows.time_of(row);
        std::int64_t const n = rows.sample_of(row);
        A* const operand = buffers_.operands + row * H;
        if (!schedule_.is_active(t, n)) {
          std::fill_n(operand, H, A(0));
          continue;
        }
        load_entering_state(t, n, 0, H, operand);
        for_each_pack<A>(H, [&](Units u) {
          store(operand, u, rounded_to<T>(with_dropout(load<A>(operand, u), n, u)));
        });
      }
    });
  }

  /// Fills a chunk of `gradients` with what the reserve would hold.
  void recompute_gates(ChunkRows const& rows, MatrixView<A const> const& x) {
    std::int64_t const H = p_.hidden_size;
    MatrixView<A> const out{buffers_.gradients, 4 * H, false};
    MatrixView<A> const fourth = out.from_column(at_.fourth);
    MatrixView<A const> const s{buffers_.operands, H, false};
    MatrixView<A const> const R = buffers_.weights.recurrent_kernel();
    MatrixView<A const> const R_g = R.from_column(at_.g);
    std::int64_t const count = rows.count();
    run_products<A>(execution_,
                    {{out, x, buffers_.weights.kernel(), {count, 3 * H, p_.input_size}, false}});
    if (reset_after_) {
      run_products<A>(execution_, {{out, s, R, {count, 2 * H, H}, true},
                                   {fourth, s, R_g, {count, H, H}, false}});
    } else {
      run_products<A>(execution_, {{out, s, R, {count, 2 * H, H}, true}});
    }
    for_each_row_range(execution_, count, 4 * H, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        finish_gates(rows.time_of(row), rows.sample_of(row), out.from_row(row).data);
      }
    });
    if (reset_after_) return;
    run_products<A>(execution_, {{out.from_column(at_.g), fourth, R_g, {count, H, H}, true}});
  }

  /// From products to pre-activations; where reset is before, the product with R_g is still to be
  /// added to a_g, and r * s to be formed.
  [[gnu::flatten]] void finish_gates(std::int64_t t, std::int64_t n, A* row) {
    std::int64_t const H = p_.hidden_size;
    A const* const bias = buffers_.weights.bias();
    A const* const recurrent_bias = buffers_.weights.recurrent_bias();
    cell::Gates<V> const none{V{A(0)}, V{A(0)}, V{A(0)}};
    bool const active = schedule_.is_active(t, n);
    A* const reset_state = row + at_.fourth;
    if (!reset_after_ && active) load_entering_state(t, n, 0, H, reset_state);
    for_each_pack<A>(H, [&](Units u) {
      cell::Gates<V> p = sum(load_gates<A>(row, at_, u), load_gates<A>(bias, at_, u));
      cell::Gates<V> q = load_gates<A>(recurrent_bias, at_, u);
      V fourth{A(0)};
      cell::Gates<V> a = none;
      if (reset_after_) {
        q.g = q.g + load<A>(row + at_.fourth, u);
        fourth = q.g;
        a = cell::reset_after(p, q);
      } else {
        a = cell::reset_before(p, q);
        if (active) {
          V const s = cell::reset_state(a.r, load<A>(reset_state, u));
          fourth = rounded_to<T>(with_dropout(s, n, u));
        }
      }
      store(row + at_.z, u, a.z);
      store(row + at_.r, u, a.r);
      store(row + at_.g, u, a.g);
      store(row + at_.fourth, u, fourth);
    });
  }

  /// The steps of a chunk, from the last. `gates` has the rows of the reserve, as it was kept (in
  /// T) or as it was computed again (in A), and may be the memory of `gradients`.
  ///
  /// What leaves a step through R needs the gradients of all units, and is carried in the next
  /// phase: the first of the step before, or one more after the last step.
  template <typename G>
  void do_steps(ChunkRows const& rows, G const* gates, MatrixView<A> const& gradients) {
    auto const step = [&](std::int64_t i) {
      std::int64_t const t = schedule_.reverse ? rows.first + i : rows.first + rows.steps - 1 - i;
      std::int64_t const row = rows.row(t, 0);
      return Step<G>{t, gates + row * 4 * p_.hidden_size, gradients.from_row(row)};
    };
    Phases phases{phases_per_step_ * rows.steps + 1, tiles_.count()};
    phases.run(execution_, [&](std::int64_t phase, std::int64_t i) {
      std::int64_t const index = phase / phases_per_step_;
      Tile const tile = tiles_.tile(i);
      if (phase % phases_per_step_ != 0) {
        leave_reset(step(index), tile);
        return;
      }
      if (index > 0) carry(step(index - 1), tile);
      if (index < rows.steps) leave_step(step(index), tile);
    });
  }

  /// Calls f(row, units, gates) for what a tile has of samples that do the step.
  template <typename G, typename F>
  void for_active_rows(Step<G> const& step, Tile const& tile, F const& f) {
    std::int64_t const H = p_.hidden_size;
    for (std::int64_t n = tile.row_begin; n < tile.row_end; ++n) {
      if (!schedule_.is_active(step.t, n)) continue;
      Row const row{step.t,
                    n,
                    step.gradients.from_row(n).data,
                    buffers_.state + n * H,
                    buffers_.carried + n * H,
                    buffers_.products + n * panel_units<A>(p_),
                    wants_biases_ ? buffers_.bias_sums + n * 4 * H : nullptr};
      for_each_pack<A>(first_unit(tile), last_unit(tile),
                       [&](Units u) { f(row, u, step.gates + n * 4 * H); });
    }
  }

  std::int64_t first_unit(Tile const& tile) const { return tile.panel_begin * kUnitsOfPanel; }
  std::int64_t last_unit(Tile const& tile) const {
    return std::min(tile.panel_end * kUnitsOfPanel, p_.hidden_size);
  }

  template <typename G>
  void leave_step(Step<G> const& step, Tile const& tile) {
    std::int64_t const first = first_unit(tile);
    std::int64_t const last = last_unit(tile);
    for (std::int64_t n = tile.row_begin; n < tile.row_end; ++n) {
      if (schedule_.is_active(step.t, n)) {
        load_entering_state(step.t, n, first, last, buffers_.state + n * p_.hidden_size);
        continue;
      }
      A* const row = step.gradients.from_row(n).data;
      for (std::int64_t const column : {at_.z, at_.r, at_.g, at_.fourth}) {
        std::fill(row + column + first, row + column + last, A(0));
      }
    }
    for_active_rows(step, tile,
                    [&](Row const& row, Units u, G const* a) { leave_step(row, u, a); });
  }

  /// Reset before: the reset gate, from the gradient of what entered R_g.
  template <typename G>
  void leave_reset(Step<G> const& step, Tile const& tile) {
    if (!has_active_row(schedule_, step.t, tile.row_begin, tile.row_end)) return;
    multiply_transposed(step.gradients.from_column(at_.g), at_.g, p_.hidden_size, tile, false);
    for_active_rows(step, tile,
                    [&](Row const& row, Units u, G const* a) { leave_reset(row, u, a); });
  }

  /// What comes through R to the state that entered a step.
  template <typename G>
  void carry(Step<G> const& step, Tile const& tile) {
    std::int64_t const H = p_.hidden_size;
    if (!has_active_row(schedule_, step.t, tile.row_begin, tile.row_end)) return;
    multiply_transposed(step.gradients, 0, 2 * H, tile, false);
    if (reset_after_) {
      multiply_transposed(step.gradients.from_column(at_.fourth), at_.g, H, tile, true);
    }
    for_active_rows(step, tile, [&](Row const& row, Units u, G const*) { carry(row, u); });
  }

  /// `products` = dq, or += dq, times the transpose of `width` columns of R from `first`.
  void multiply_transposed(MatrixView<A> const& dq, std::int64_t first, std::int64_t width,
                           Tile const& tile, bool accumulate) {
    std::int64_t const H = p_.hidden_size;
    std::int64_t const pitch = panel_units<A>(p_);
    std::int64_t const rows = tile.row_end - tile.row_begin;
    MatrixView<A> const lhs = dq.from_row(tile.row_begin);
    A* const out = buffers_.products + tile.row_begin * pitch;
    if (buffers_.panels == nullptr) {
      std::int64_t const unit = first_unit(tile);
      multiply<A>({out + unit, pitch, false}, lhs,
                  buffers_.weights.recurrent_kernel().from_row(unit).from_column(first).flipped(),
                  {rows, last_unit(tile) - unit, width}, accumulate);
      return;
    }
    for (std::int64_t i = tile.panel_begin; i < tile.panel_end; ++i) {
      A const* const panel = buffers_.panels + (i * 3 * H + first) * kUnitsOfPanel;
      PanelProduct<A> const product{lhs,   panel,          width,     out + i * kUnitsOfPanel,
                                    pitch, Pack<A>::kSize, accumulate};
      product.template run<kTransposedPacks>(rows);
    }
  }

  /// From the gradient of the state that the step left to those of the pre-activations and, along
  /// everything but R, of the state that entered it; where reset is before, without the reset gate.
  template <typename G>
  [[gnu::flatten]] void leave_step(Row const& row, Units u, G const* a) {
    V d_new = load<A>(row.carried, u);
    if (tensors_.dh != nullptr) {
      d_new = d_new + load<A>(tensors_.dh + dh_rows_.at(row.t, row.n), u);
    }
    V ds{A(0)};
    if (masks_.has_zoneout()) {
      auto const split = cell::zoneout_backward(zoneout_weight<A>(masks_, row.t, row.n, u), d_new);
      d_new = split.c;
      ds = split.s;
    }
    V const s = load<A>(row.state, u);
    auto const d = cell::new_state_backward(load<A>(a + at_.z, u), load<A>(a + at_.g, u), s, d_new);
    store(row.carried, u, ds + d.s);
    if (reset_after_) {
      auto const reset =
          cell::reset_after_backward(load<A>(a + at_.r, u), load<A>(a + at_.fourth, u), d.a_g);
      put(row, at_.r, u, reset.a_r);
      put(row, at_.fourth, u, reset.q_g);
    } else {
      store(row.gradients + at_.fourth, u, load<A>(a + at_.fourth, u));
    }
    put(row, at_.z, u, d.a_z);
    put(row, at_.g, u, d.a_g);
  }

  template <typename G>
  [[gnu::flatten]] void leave_reset(Row const& row, Units u, G const* a) {
    V const du = with_dropout(load<A>(row.product, u), row.n, u);
    auto const d = cell::reset_state_backward(load<A>(a + at_.r, u), load<A>(row.state, u), du);
    put(row, at_.r, u, d.a_r);
    store(row.carried, u, load<A>(row.carried, u) + d.s);
  }

  /// Nothing passes an episode boundary.
  [[gnu::flatten]] void carry(Row const& row, Units u) {
    bool const cleared = schedule_.is_cleared(row.t, row.n);
    V const through_r = with_dropout(load<A>(row.product, u), row.n, u);
    store(row.carried, u, cleared ? V{A(0)} : load<A>(row.carried, u) + through_r);
  }

  void put(Row const& row, std::int64_t column, Units u, V const& gradient) {
    store(row.gradients + column, u, rounded_to<T>(gradient));
    if (row.bias_sums == nullptr) return;
    store(row.bias_sums + column, u, load<A>(row.bias_sums + column, u) + gradient);
  }

  /// The matrix in which a weight gradient is added up.
  MatrixView<A> sums(WeightStorage const& storage, A* workspace, OrFloat<T> gradient) const {
    if (workspace != nullptr) return storage.view(workspace, true);
    return storage.view(static_cast<A*>(gradient.data()), false);
  }

  /// dW += x^T dp and dR += s^T dq.
  void add_weight_gradients(ChunkRows const& rows, MatrixView<A const> const& x,
                            MatrixView<A const> const& gradients, bool first) {
    std::int64_t const H = p_.hidden_size;
    BlockedProduct<A> kernel;
    BlockedProduct<A> recurrent_gates;
    BlockedProduct<A> recurrent_candidate;
    if (tensors_.dkernel) {
      bool const adds = !first || (buffers_.kernel_sums == nullptr && p_.accumulate.dkernel);
      kernel = {sums(kernel_storage(p_), buffers_.kernel_sums, tensors_.dkernel),
                x.flipped(),
                gradients,
                {p_.input_size, 3 * H, rows.count()},
                adds};
    }
    if (tensors_.drecurrent_kernel) {
      bool const adds =
          !first || (buffers_.recurrent_sums == nullptr && p_.accumulate.drecurrent_kernel);
      MatrixView<A> const out =
          sums(recurrent_kernel_storage(p_), buffers_.recurrent_sums, tensors_.drecurrent_kernel);
      MatrixView<A const> const s{buffers_.operands, H, false};
      MatrixView<A const> const fourth = gradients.from_column(at_.fourth);
      MatrixView<A const> const before_g = reset_after_ ? s : fourth;
      MatrixView<A const> const dq_g = reset_after_ ? fourth : gradients.from_column(at_.g);
      recurrent_gates = {out, s.flipped(), gradients, {H, 2 * H, rows.count()}, adds};
      recurrent_candidate = {
          out.from_column(at_.g), before_g.flipped(), dq_g, {H, H, rows.count()}, adds};
    }
    run_products(execution_, {kernel, recurrent_gates, recurrent_candidate});
  }

  /// dx = dp W^T.
  void write_input_gradients(ChunkRows const& rows, MatrixView<A const> const& gradients) {
    std::int64_t const C = p_.input_size;
    Rows const dx_rows = sequence_rows(p_, p_.pitch.dx, C);
    bool const accumulate = p_.accumulate.dx;
    auto const multiply_into = [&](MatrixView<A> out, bool adds) {
      run_products<A>(execution_, {{out,
                                    gradients,
                                    buffers_.weights.kernel().flipped(),
                                    {rows.count(), C, 3 * p_.hidden_size},
                                    adds}});
    };
    if constexpr (std::is_same_v<T, A>) {
      if (writes_dx_in_place<T>(p_)) {
        multiply_into({tensors_.dx + dx_rows.at(rows.first, 0), pitch_or(p_.pitch.dx, C), false},
                      accumulate);
        return;
      }
    }
    multiply_into({buffers_.inputs, C, false}, false);
    for_each_row_range(execution_, rows.count(), C, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        std::int64_t const t = rows.time_of(row);
        std::int64_t const n = rows.sample_of(row);
        A const* const from = buffers_.inputs + row * C;
        T* const to = tensors_.dx + dx_rows.at(t, n);
        if (!schedule_.is_active(t, n)) {
          if (!accumulate) std::fill_n(to, C, static_cast<T>(0));
          continue;
        }
        for (std::int64_t i = 0; i < C; ++i) {
          to[i] = static_cast<T>(accumulate ? static_cast<A>(to[i]) + from[i] : from[i]);
        }
      }
    });
  }

  void store_initial_gradients() {
    if (!tensors_.dh0) return;
    std::int64_t const H = p_.hidden_size;
    std::int64_t const pitch = pitch_or(p_.pitch.dh0, H);
    for_each_row_range(execution_, p_.batch, H, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t n = begin; n < end; ++n) {
        for (std::int64_t i = 0; i < H; ++i) {
          store_gradient(tensors_.dh0, n * pitch + i, buffers_.carried[n * H + i],
                         p_.accumulate.dh0);
        }
      }
    });
  }

  /// Sums over the batch, sample by sample.
  void store_bias_gradients() {
    std::int64_t const H = p_.hidden_size;
    std::int64_t const used = reset_after_ ? 4 * H : 3 * H;
    for_each_row_range(execution_, used, p_.batch, [&](std::int64_t begin, std::int64_t end) {
      A* const total = buffers_.bias_sums;
      for (std::int64_t n = 1; n < p_.batch; ++n) {
        A const* const sums = buffers_.bias_sums + n * 4 * H;
        for (std::int64_t i = begin; i < end; ++i) total[i] += sums[i];
      }
    });
    for (std::int64_t i = 0; i < 3 * H; ++i) {
      bool const apart = reset_after_ && i >= at_.g;
      std::int64_t const recurrent = apart ? i - at_.g + at_.fourth : i;
      if (tensors_.dbias) {
        store_gradient(tensors_.dbias, i, buffers_.bias_sums[i], p_.accumulate.dbias);
      }
      if (tensors_.drecurrent_bias) {
        store_gradient(tensors_.drecurrent_bias, i, buffers_.bias_sums[recurrent],
                       p_.accumulate.drecurrent_bias);
      }
    }
  }

  /// Masks and moves the sums that were not formed in the caller's memory.
  void store_weight_gradients() {
    if (tensors_.dkernel && buffers_.kernel_sums != nullptr) {
      store_weight_gradient(execution_, kernel_storage(p_), buffers_.kernel_sums, tensors_.dkernel,
                            p_.accumulate.dkernel);
    }
    if (tensors_.drecurrent_kernel && buffers_.recurrent_sums != nullptr) {
      WeightStorage const storage = recurrent_kernel_storage(p_);
      if (masks_.dropconnect.on) {
        drop_weights(execution_, storage, WeightDropping<A>{p_, masks_}, buffers_.recurrent_sums);
      }
      store_weight_gradient(execution_, storage, buffers_.recurrent_sums,
                            tensors_.drecurrent_kernel, p_.accumulate.drecurrent_kernel);
    }
  }

  Problem const& p_;
  Chunks const& chunks_;
  gru::host::Execution const& execution_;
  BackwardTensors<T> const& tensors_;
  Schedule schedule_;
  Masks masks_;
  BackwardBuffers<T> buffers_;
  Blocks at_;
  bool reset_after_;
  bool wants_biases_;
  std::int64_t phases_per_step_;
  StepTiles tiles_;
  Rows h_rows_;
  Rows dh_rows_;
};

/// Backward over no steps or no samples: no gradient reaches the weights, and the final state's is
/// that of h0.
template <typename T>
void run_empty_backward(Problem const& p, gru::host::Execution const& execution,
                        BackwardTensors<T> const& tensors) {
  using A = Accumulator<T>;
  std::int64_t const H = p.hidden_size;
  A const* const none = nullptr;
  auto const clear = [&](WeightStorage const& storage, OrFloat<T> gradient, bool accumulate) {
    if (gradient && !accumulate) store_weight_gradient(execution, storage, none, gradient, false);
  };
  WeightStorage const bias{1, 3 * H, 3 * H, false};
  clear(kernel_storage(p), tensors.dkernel, p.accumulate.dkernel);
  clear(recurrent_kernel_storage(p), tensors.drecurrent_kernel, p.accumulate.drecurrent_kernel);
  clear(bias, tensors.dbias, p.accumulate.dbias);
  clear(bias, tensors.drecurrent_bias, p.accumulate.drecurrent_bias);
  if (!tensors.dh0) return;
  std::int64_t const from_pitch = pitch_or(p.pitch.dfinal_state, H);
  std::int64_t const to_pitch = pitch_or(p.pitch.dh0, H);
  for (std::int64_t n = 0; n < p.batch; ++n) {
    for (std::int64_t i = 0; i < H; ++i) {
      A const value =
          tensors.dfinal_state ? tensors.dfinal_state.template load<A>(n * from_pitch + i) : A(0);
      store_gradient(tensors.dh0, n * to_pitch + i, value, p.accumulate.dh0);
    }
  }
}

template <typename T>
void run_backward(Problem const& p, Chunks const& chunks, gru::host::Execution const& execution,
                  Weights<T> const& weights, BackwardTensors<T> const& tensors,
                  Workspace workspace) {
  if (chunks.count == 0) {
    run_empty_backward(p, execution, tensors);
    return;
  }
  Backward<T>{p, chunks, execution, tensors, Carver{workspace.data}}.run(weights);
}

}  // namespace gru::detail::host
