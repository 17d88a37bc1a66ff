// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <cub/block/block_reduce.cuh>

#include <gru/cell.hpp>
#include <gru/detail/cuda_types.cuh>
#include <gru/detail/device.cuh>
#include <gru/detail/sequence.hpp>

/// The elementwise kernels of the stepwise engine. Internal buffers are dense and time-major: row
/// t * N + n, or row n where they hold one step. A is the accumulation type of T.
///
/// The reserve's row has four blocks of H. The first three are the pre-activations of the gates, in
/// the weight format's order, so that the matrix of gradients that replaces them serves dx and dW
/// in one product each. The fourth is the candidate's recurrent part q_g (reset after), or the
/// state that multiplied R_g (reset before). Pre-activations, not activations, are kept: in 16 bits
/// 1 - sigmoid(a) survives near saturation.
namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// kUnits neighbouring values of a row, loaded and stored as one: they begin at the boundary of so
/// many.
template <typename V, int kUnits>
struct alignas(kUnits * sizeof(V)) Units {
  V value[kUnits];
};

template <int kUnits, typename V>
__device__ Units<V, kUnits> load_units(V const* from) {
  return *reinterpret_cast<Units<V, kUnits> const*>(from);
}

/// What every kernel of a pass knows.
template <typename T>
struct LayerView {
  std::int64_t batch = 0;   // N
  std::int64_t hidden = 0;  // H
  GateColumns columns;
  Schedule schedule;
  Masks masks;
  T const* bias = nullptr;            // [3H] or null
  T const* recurrent_bias = nullptr;  // [3H] or null
};

/// The three gates' values of one unit in a row of 3H, with the bias added where there is one.
template <typename T, typename A>
__device__ cell::Gates<A> load_gates(A const* row, T const* bias, LayerView<T> const& layer,
                                     std::int64_t unit) {
  std::int64_t const z = layer.columns.z * layer.hidden + unit;
  std::int64_t const r = layer.columns.r * layer.hidden + unit;
  std::int64_t const g = layer.columns.g * layer.hidden + unit;
  cell::Gates<A> gates{row[z], row[r], row[g]};
  if (bias != nullptr) {
    gates.z += convert<A>(bias[z]);
    gates.r += convert<A>(bias[r]);
    gates.g += convert<A>(bias[g]);
  }
  return gates;
}

/// A row of the reserve, or of the gradients that replace it.
template <typename T>
struct ReserveRow {
  T* z;
  T* r;
  T* g;
  T* fourth;

  template <typename U>
  __device__ ReserveRow(T* row, LayerView<U> const& layer, std::int64_t unit)
      : z{row + layer.columns.z * layer.hidden + unit},
        r{row + layer.columns.r * layer.hidden + unit},
        g{row + layer.columns.g * layer.hidden + unit},
        fourth{row + 3 * layer.hidden + unit} {}
};

/// A step's two products and biases, as pre-activations.
template <Variant variant, typename A>
__device__ cell::Gates<A> pre_activations(cell::Gates<A> p, cell::Gates<A> q) {
  if constexpr (variant == Variant::kResetAfter) {
    return cell::reset_after(p, q);
  } else {
    return cell::reset_before(p, q);
  }
}

/// The first word of a workspace after a run.
inline constexpr std::uint32_t kStatusGood = 0;
inline constexpr std::uint32_t kStatusExpired = 1;  // a kernel gave up waiting for other blocks

/// The carried state before the first step, and what multiplies R in it.
template <typename T>
struct Start {
  using A = Accumulator<T>;
  OrFloat<T const> h0;  // [N, H] or null
  std::int64_t h0_pitch = 0;
  std::int64_t first_time = 0;  // time index of the first step done
  A* state = nullptr;           // [N, H] out
  T* operand = nullptr;         // [N, H] out, or null
  OrFloat<T> final_state;       // [N, H] out where there are no steps, or null
  std::int64_t final_pitch = 0;
  std::uint32_t* status = nullptr;  // of the run, out: no failure so far; see gru::check
};

template <typename T>
GRU_KERNEL void start_kernel(LayerView<T> layer, Start<T> start) {
  using A = Accumulator<T>;
  if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) *start.status = kStatusGood;
  for_each_element(layer.batch, layer.hidden, [&](std::int64_t n, std::int64_t unit) {
    std::int64_t const i = n * layer.hidden + unit;
    A const s = start.h0 ? start.h0.template load<A>(n * start.h0_pitch + unit) : A(0);
    start.state[i] = s;
    if (start.operand != nullptr) {
      bool const cleared = layer.schedule.is_cleared(start.first_time, n);
      A const factor = layer.masks.template state_factor<A>(n, unit);
      start.operand[i] = convert<T>(cleared ? A(0) : s * factor);
      if (cleared) start.state[i] = A(0);
    }
    if (start.final_state) start.final_state.store(n * start.final_pitch + unit, s);
  });
}

/// One step forward.
template <typename T>
struct ForwardStep {
  using A = Accumulator<T>;
  std::int64_t t = 0;
  std::int64_t next = -1;  // time index of the next step done; -1 in the last
  A const* p = nullptr;    // [N, 3H] x W
  A const* q = nullptr;    // [q_parts, N, 3H] s R: the sum of its parts
  std::int64_t q_parts = 1;
  A* state = nullptr;          // [N, H] carried, in and out
  T* operand = nullptr;        // [N, H] out: what multiplies R in the next step
  T* reset_operand = nullptr;  // [N, H] reset before: what multiplies R_g in this step
  T* h = nullptr;              // out, or null
  Rows h_rows;
  T* reserve = nullptr;    // [N, 4H] out, or null
  OrFloat<T> final_state;  // [N, H] out in the last step, or null
  std::int64_t final_pitch = 0;
};

/// Reset before: r * s, which multiplies R_g, from the reset gate's products.
template <typename T>
GRU_KERNEL void reset_kernel(LayerView<T> layer, ForwardStep<T> step) {
  using A = Accumulator<T>;
  std::int64_t const H = layer.hidden;
  for_each_element(layer.batch, H, [&](std::int64_t n, std::int64_t unit) {
    std::int64_t const i = n * H + unit;
    if (!layer.schedule.is_active(step.t, n)) {
      step.reset_operand[i] = convert<T>(A(0));
      return;
    }
    A const s = layer.schedule.is_cleared(step.t, n) ? A(0) : step.state[i];
    A const p_r = load_gates(step.p + n * 3 * H, layer.bias, layer, unit).r;
    A const q_r = load_gates(step.q + n * 3 * H, layer.recurrent_bias, layer, unit).r;
    A const factor = layer.masks.template state_factor<A>(n, unit);
    step.reset_operand[i] = convert<T>(cell::reset_state(p_r + q_r, s) * factor);
  });
}

template <typename T, Variant variant>
GRU_KERNEL void forward_kernel(LayerView<T> layer, ForwardStep<T> step) {
  using A = Accumulator<T>;
  std::int64_t const H = layer.hidden;
  Masks const& masks = layer.masks;
  for_each_element(layer.batch, H, [&](std::int64_t n, std::int64_t unit) {
    std::int64_t const i = n * H + unit;
    bool const active = layer.schedule.is_active(step.t, n);
    A h = A(0);
    A state = step.state[i];
    if (active) {
      A const s = layer.schedule.is_cleared(step.t, n) ? A(0) : state;
      auto const p = load_gates(step.p + n * 3 * H, layer.bias, layer, unit);
      auto q = load_gates(step.q + n * 3 * H, layer.recurrent_bias, layer, unit);
      for (std::int64_t part = 1; part < step.q_parts; ++part) {
        T const* const no_bias = nullptr;
        auto const more =
            load_gates(step.q + (part * layer.batch + n) * 3 * H, no_bias, layer, unit);
        q = {q.z + more.z, q.r + more.r, q.g + more.g};
      }
      auto const a = pre_activations<variant>(p, q);
      h = cell::new_state(a.z, a.g, s);
      if (masks.has_zoneout()) {
        h = cell::zoneout(h, s, masks.template zoneout_weight<A>(step.t, n, unit));
      }
      state = h;
      step.state[i] = state;
      if (step.reserve != nullptr) {
        ReserveRow<T> const row{step.reserve + n * 4 * H, layer, unit};
        *row.z = convert<T>(a.z);
        *row.r = convert<T>(a.r);
        *row.g = convert<T>(a.g);
        *row.fourth = variant == Variant::kResetAfter ? convert<T>(q.g) : step.reset_operand[i];
      }
      if (step.next >= 0) {
        bool const cleared = layer.schedule.is_cleared(step.next, n);
        A const factor = masks.template state_factor<A>(n, unit);
        step.operand[i] = convert<T>(cleared ? A(0) : state * factor);
      }
    }
    if (step.h != nullptr) step.h[step.h_rows.at(step.t, n) + unit] = convert<T>(h);
    if (step.final_state) step.final_state.store(n * step.final_pitch + unit, state);
  });
}

/// The state that entered a step, as forward's output and h0 tell it.
template <typename T>
struct EnteringState {
  using A = Accumulator<T>;
  T const* h = nullptr;
  Rows h_rows;
  OrFloat<T const> h0;  // or null
  std::int64_t h0_pitch = 0;

  /// h of the step before step t.
  __device__ T const* before(Schedule const& schedule, std::int64_t t, std::int64_t n) const {
    return h + h_rows.at(schedule.reverse ? t + 1 : t - 1, n);
  }

  /// Whether it is a row of h: no first step, and no episode boundary before it.
  __device__ bool is_in_h(Schedule const& schedule, std::int64_t t, std::int64_t n) const {
    return !schedule.is_first(t, n) && !schedule.is_cleared(t, n);
  }

  /// 0 where an episode boundary clears it. Sample n must do step t.
  __device__ A load(Schedule const& schedule, std::int64_t t, std::int64_t n,
                    std::int64_t unit) const {
    if (schedule.is_cleared(t, n)) return A(0);
    if (schedule.is_first(t, n)) {
      return h0 ? h0.template load<A>(n * h0_pitch + unit) : A(0);
    }
    return convert<A>(before(schedule, t, n)[unit]);
  }
};

/// Units of a row that a thread of entering_operand_kernel copies, 16 bytes of them, and for how
/// many steps it does, with one draw of their masks.
template <typename T>
inline constexpr int kCopiedUnits = 16 / static_cast<int>(sizeof(T));
inline constexpr std::int64_t kCopiedSteps = 4;

/// What multiplied R in the steps first_time to first_time + steps - 1: out [steps * N, H], aligned
/// to 16 bytes. With `wide`, groups of kCopiedUnits of h and out begin at the boundary of 16 bytes.
/// Launched over (groups of steps x N) x groups of units.
template <typename T>
GRU_KERNEL void entering_operand_kernel(LayerView<T> layer, EnteringState<T> entering,
                                        std::int64_t first_time, std::int64_t steps, bool wide,
                                        T* out) {
  using A = Accumulator<T>;
  constexpr int kUnits = kCopiedUnits<T>;
  std::int64_t const H = layer.hidden;
  Schedule const& schedule = layer.schedule;
  Mask const& dropout = layer.masks.recurrent_dropout;
  std::int64_t const step_groups = (steps + kCopiedSteps - 1) / kCopiedSteps;
  for_each_element(
      step_groups * layer.batch, (H + kUnits - 1) / kUnits,
      [&](std::int64_t row, std::int64_t group) {
        // 32 bits, which divide faster: a matrix product takes no more rows.
        auto const batch = static_cast<std::uint32_t>(layer.batch);
        std::int64_t const n = static_cast<std::uint32_t>(row) % batch;
        std::int64_t const first_step = static_cast<std::uint32_t>(row) / batch * kCopiedSteps;
        std::int64_t const unit = group * kUnits;
        int const units = static_cast<int>(min(std::int64_t{kUnits}, H - unit));
        std::uint32_t const kept = dropout.on ? layer.masks.kept_units(n, unit, units) : 0;
        auto const multiply = [&](A value, int e) {
          if (!dropout.on) return value;
          return value * ((kept >> e & 1) != 0 ? static_cast<A>(dropout.scale) : A(0));
        };
        std::int64_t const end = min(first_step + kCopiedSteps, steps);
        for (std::int64_t step = first_step; step < end; ++step) {
          std::int64_t const t = first_time + step;
          T* const to = out + (step * layer.batch + n) * H + unit;
          bool const active = schedule.is_active(t, n);
          if (wide && active && entering.is_in_h(schedule, t, n)) {
            auto values = load_units<kUnits>(entering.before(schedule, t, n) + unit);
            if (dropout.on) {
#pragma unroll
              for (int e = 0; e < kUnits; ++e) {
                values.value[e] = convert<T>(multiply(convert<A>(values.value[e]), e));
              }
            }
            *reinterpret_cast<Units<T, kUnits>*>(to) = values;
            continue;
          }
          for (int e = 0; e < units; ++e) {
            A const value = active ? entering.load(schedule, t, n, unit + e) : A(0);
            to[e] = convert<T>(multiply(value, e));
          }
        }
      });
}

/// A chunk of steps whose reserve rows are computed again.
template <typename T>
struct Recompute {
  using A = Accumulator<T>;
  std::int64_t first_time = 0;
  std::int64_t steps = 0;
  A const* p = nullptr;  // [steps * N, 3H]
  A const* q = nullptr;  // [steps * N, 3H]
  T* reserve = nullptr;  // [steps * N, 4H] out
};

/// Reset before: writes r * s, the reserve's fourth block.
template <typename T>
GRU_KERNEL void recompute_reset_kernel(LayerView<T> layer, EnteringState<T> entering,
                                       Recompute<T> chunk) {
  using A = Accumulator<T>;
  std::int64_t const H = layer.hidden;
  for_each_element(chunk.steps * layer.batch, H, [&](std::int64_t row, std::int64_t unit) {
    std::int64_t const t = chunk.first_time + row / layer.batch;
    std::int64_t const n = row % layer.batch;
    A value = A(0);
    if (layer.schedule.is_active(t, n)) {
      A const s = entering.load(layer.schedule, t, n, unit);
      A const p_r = load_gates(chunk.p + row * 3 * H, layer.bias, layer, unit).r;
      A const q_r = load_gates(chunk.q + row * 3 * H, layer.recurrent_bias, layer, unit).r;
      A const factor = layer.masks.template state_factor<A>(n, unit);
      value = cell::reset_state(p_r + q_r, s) * factor;
    }
    *ReserveRow<T>{chunk.reserve + row * 4 * H, layer, unit}.fourth = convert<T>(value);
  });
}

/// Writes the reserve's pre-activations, and its fourth block where reset is after.
template <typename T, Variant variant>
GRU_KERNEL void recompute_kernel(LayerView<T> layer, Recompute<T> chunk) {
  std::int64_t const H = layer.hidden;
  for_each_element(chunk.steps * layer.batch, H, [&](std::int64_t row, std::int64_t unit) {
    auto const p = load_gates(chunk.p + row * 3 * H, layer.bias, layer, unit);
    auto const q = load_gates(chunk.q + row * 3 * H, layer.recurrent_bias, layer, unit);
    auto const a = pre_activations<variant>(p, q);
    ReserveRow<T> const out{chunk.reserve + row * 4 * H, layer, unit};
    *out.z = convert<T>(a.z);
    *out.r = convert<T>(a.r);
    *out.g = convert<T>(a.g);
    if (variant == Variant::kResetAfter) *out.fourth = convert<T>(q.g);
  });
}

/// One step backward. `kept` and `gradients` may be the same memory.
template <typename T>
struct BackwardStep {
  using A = Accumulator<T>;
  std::int64_t t = 0;
  T const* kept = nullptr;  // [N, 4H] the reserve's rows
  T* gradients = nullptr;   // [N, 4H] out: of p (in the weights' order), then of q_g; reset before:
                            // of p, then r * s again
  T const* dh = nullptr;    // or null
  Rows dh_rows;
  A* direct = nullptr;           // [N, H] carried gradient along everything but R, in and out
  A const* through_r = nullptr;  // [through_parts, N, H] carried gradient through R, from the step
                                 // done before: the sum of its parts
  std::int64_t through_parts = 1;
  T* dq = nullptr;                   // [N, 3H] out: what multiplies the transpose of R
  A const* through_reset = nullptr;  // [N, H] reset before: gradient of r * s
  A* bias_sums = nullptr;            // [N, 4H] in and out: gradients summed over the steps, or null
};

/// Gradient of the state that a step left, without the output's own.
template <typename T>
__device__ Accumulator<T> carried_gradient(LayerView<T> const& layer, Accumulator<T> const* direct,
                                           Accumulator<T> const* through_r, std::int64_t parts,
                                           std::int64_t n, std::int64_t unit) {
  using A = Accumulator<T>;
  std::int64_t const i = n * layer.hidden + unit;
  A through = through_r[i];
  for (std::int64_t part = 1; part < parts; ++part) {
    through += through_r[part * layer.batch * layer.hidden + i];
  }
  return direct[i] + layer.masks.template state_factor<A>(n, unit) * through;
}

/// Everything for reset after; for reset before all but the reset gate, whose gradient waits for
/// the product with R_g.
template <typename T, Variant variant>
GRU_KERNEL void backward_kernel(LayerView<T> layer, EnteringState<T> entering,
                                BackwardStep<T> step) {
  using A = Accumulator<T>;
  constexpr bool kAfter = variant == Variant::kResetAfter;
  std::int64_t const H = layer.hidden;
  Masks const& masks = layer.masks;
  for_each_element(layer.batch, H, [&](std::int64_t n, std::int64_t unit) {
    std::int64_t const i = n * H + unit;
    ReserveRow<T const> const kept{step.kept + n * 4 * H, layer, unit};
    ReserveRow<T> const out{step.gradients + n * 4 * H, layer, unit};
    cell::Gates<A> da{A(0), A(0), A(0)};
    A dq_g = A(0);
    T fourth = convert<T>(A(0));
    bool passes = false;  // whether gradient reaches the step before through R
    A direct = carried_gradient(layer, step.direct, step.through_r, step.through_parts, n, unit);
    if (layer.schedule.is_active(step.t, n)) {
      A dh = direct;
      if (step.dh != nullptr) dh += convert<A>(step.dh[step.dh_rows.at(step.t, n) + unit]);
      A const s = entering.load(layer.schedule, step.t, n, unit);
      A ds = A(0);
      if (masks.has_zoneout()) {
        A const w = masks.template zoneout_weight<A>(step.t, n, unit);
        auto const split = cell::zoneout_backward(w, dh);
        dh = split.c;
        ds = split.s;
      }
      auto const d = cell::new_state_backward(convert<A>(*kept.z), convert<A>(*kept.g), s, dh);
      da.z = d.a_z;
      da.g = d.a_g;
      if constexpr (kAfter) {
        auto const reset =
            cell::reset_after_backward(convert<A>(*kept.r), convert<A>(*kept.fourth), d.a_g);
        da.r = reset.a_r;
        dq_g = reset.q_g;
        fourth = convert<T>(dq_g);
      } else {
        dq_g = d.a_g;
        fourth = *kept.fourth;
      }
      passes = !layer.schedule.is_cleared(step.t, n);
      direct = passes ? ds + d.s : A(0);
    }
    step.direct[i] = direct;
    T* const dq = step.dq + n * 3 * H + unit;
    dq[layer.columns.z * H] = convert<T>(passes ? da.z : A(0));
    dq[layer.columns.g * H] = convert<T>(passes ? dq_g : A(0));
    if (kAfter) dq[layer.columns.r * H] = convert<T>(passes ? da.r : A(0));
    *out.z = convert<T>(da.z);
    *out.g = convert<T>(da.g);
    if (kAfter) *out.r = convert<T>(da.r);
    *out.fourth = fourth;
    if (step.bias_sums != nullptr) {
      ReserveRow<A> const sums{step.bias_sums + n * 4 * H, layer, unit};
      *sums.z += da.z;
      *sums.g += da.g;
      if (kAfter) *sums.r += da.r;
      if (kAfter) *sums.fourth += dq_g;
    }
  });
}

/// Reset before: the reset gate's gradient, from that of r * s.
template <typename T>
GRU_KERNEL void reset_backward_kernel(LayerView<T> layer, EnteringState<T> entering,
                                      BackwardStep<T> step) {
  using A = Accumulator<T>;
  std::int64_t const H = layer.hidden;
  for_each_element(layer.batch, H, [&](std::int64_t n, std::int64_t unit) {
    std::int64_t const i = n * H + unit;
    ReserveRow<T const> const kept{step.kept + n * 4 * H, layer, unit};
    bool const active = layer.schedule.is_active(step.t, n);
    bool const passes = active && !layer.schedule.is_cleared(step.t, n);
    A da_r = A(0);
    if (passes) {
      A const s = entering.load(layer.schedule, step.t, n, unit);
      A const du = layer.masks.template state_factor<A>(n, unit) * step.through_reset[i];
      auto const d = cell::reset_state_backward(convert<A>(*kept.r), s, du);
      da_r = d.a_r;
      step.direct[i] += d.s;
    }
    step.dq[n * 3 * H + layer.columns.r * H + unit] = convert<T>(da_r);
    *ReserveRow<T>{step.gradients + n * 4 * H, layer, unit}.r = convert<T>(da_r);
    if (step.bias_sums != nullptr) {
      *ReserveRow<A>{step.bias_sums + n * 4 * H, layer, unit}.r += da_r;
    }
  });
}

/// Gradient of h0: what is carried past the first step.
template <typename T>
GRU_KERNEL void initial_gradient_kernel(LayerView<T> layer, Accumulator<T> const* direct,
                                        Accumulator<T> const* through_r, std::int64_t parts,
                                        OrFloat<T> dh0, std::int64_t pitch, bool accumulate) {
  using A = Accumulator<T>;
  for_each_element(layer.batch, layer.hidden, [&](std::int64_t n, std::int64_t unit) {
    A value = carried_gradient(layer, direct, through_r, parts, n, unit);
    if (accumulate) value += dh0.template load<A>(n * pitch + unit);
    dh0.store(n * pitch + unit, value);
  });
}

inline constexpr int kBiasThreads = 128;

/// Bias gradients: one block a column, summed over the batch in a fixed order.
template <typename T>
GRU_KERNEL void bias_gradient_kernel(LayerView<T> layer, Accumulator<T> const* sums,
                                     bool reset_after, OrFloat<T> dbias, bool accumulate_bias,
                                     OrFloat<T> drecurrent_bias, bool accumulate_recurrent_bias) {
  using A = Accumulator<T>;
  using Reduce = cub::BlockReduce<A, kBiasThreads>;
  __shared__ typename Reduce::TempStorage storage;
  std::int64_t const H = layer.hidden;
  std::int64_t const column = blockIdx.x;
  auto const sum_of = [&](std::int64_t source) {
    A sum = A(0);
    for (std::int64_t n = threadIdx.x; n < layer.batch; n += kBiasThreads) {
      sum += sums[n * 4 * H + source];
    }
    __syncthreads();
    return Reduce{storage}.Sum(sum);
  };
  auto const write = [&](OrFloat<T> to, A value, bool accumulate) {
    if (threadIdx.x != 0 || !to) return;
    to.store(column, accumulate ? to.template load<A>(column) + value : value);
  };
  A const sum = sum_of(column);
  write(dbias, sum, accumulate_bias);
  bool const candidate = column >= 2 * H;
  A const recurrent_sum = reset_after && candidate ? sum_of(column + H) : sum;
  write(drecurrent_bias, recurrent_sum, accumulate_recurrent_bias);
}

/// A matrix of weights as the format lays it.
struct WeightView {
  std::int64_t hidden = 0;  // H
  std::int64_t rows = 0;    // of memory
  std::int64_t columns = 0;
  std::int64_t pitch = 0;
  bool by_input = true;  // [in, 3H]; otherwise [3H, in]
};

/// Whether DropConnect keeps the weight of R at a place in memory.
__device__ inline bool keeps_weight(Masks const& masks, GateColumns const& columns,
                                    WeightView const& view, std::int64_t row, std::int64_t column) {
  std::int64_t const k = view.by_input ? row : column;
  std::int64_t const gate_unit = view.by_input ? column : row;
  std::int64_t const gate = columns.gate_at(gate_unit / view.hidden);
  return masks.keeps_weight(k, gate, gate_unit % view.hidden, row * view.columns + column);
}

/// R with DropConnect's mask applied, tight. The scale 1 / (1 - rate) is left to the products.
template <typename T>
GRU_KERNEL void drop_weights_kernel(Masks masks, GateColumns columns, WeightView view,
                                    T const* weights, T* out) {
  using A = Accumulator<T>;
  for_each_element(view.rows, view.columns, [&](std::int64_t row, std::int64_t column) {
    bool const kept = keeps_weight(masks, columns, view, row, column);
    out[row * view.columns + column] = kept ? weights[row * view.pitch + column] : convert<T>(A(0));
  });
}

/// A weight gradient from its tight sums to where it belongs, with DropConnect's mask where on.
template <typename T>
GRU_KERNEL void finish_weight_gradient_kernel(Masks masks, GateColumns columns, WeightView view,
                                              Accumulator<T> const* sums, OrFloat<T> out,
                                              bool accumulate) {
  using A = Accumulator<T>;
  for_each_element(view.rows, view.columns, [&](std::int64_t row, std::int64_t column) {
    A value = sums[row * view.columns + column];
    if (masks.dropconnect.on) {
      bool const kept = keeps_weight(masks, columns, view, row, column);
      value = kept ? value * static_cast<A>(masks.dropconnect.scale) : A(0);
    }
    std::int64_t const i = row * view.pitch + column;
    if (accumulate) value += out.template load<A>(i);
    out.store(i, value);
  });
}

/// Rows of a batch-major tensor, made dense and time-major: out [steps * N, width].
template <typename T>
GRU_KERNEL void gather_rows_kernel(T const* in, Rows rows, std::int64_t first_time,
                                   std::int64_t steps, std::int64_t batch, std::int64_t width,
                                   T* out) {
  for_each_element(steps * batch, width, [&](std::int64_t row, std::int64_t column) {
    out[row * width + column] = in[rows.at(first_time + row / batch, row % batch) + column];
  });
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
