// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <cub/block/block_reduce.cuh>

#include <gru/cell.hpp>
#include <gru/detail/cuda_types.cuh>
#include <gru/detail/device.cuh>
#include <gru/detail/ptx.cuh>
#include <gru/detail/sequence.hpp>
#include <gru/detail/units.cuh>

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

/// The three gates' values of neighbouring units.
template <typename V, int kUnits>
struct GateUnits {
  Units<V, kUnits> z;
  Units<V, kUnits> r;
  Units<V, kUnits> g;

  template <typename A>
  __device__ cell::Gates<A> at(int e) const {
    return {convert<A>(z.value[e]), convert<A>(r.value[e]), convert<A>(g.value[e])};
  }
};

/// Those in a row of 3H; -0, which changes no sum, where there is no row.
template <int kUnits, typename V, typename T>
__device__ GateUnits<V, kUnits> load_gate_units(V const* row, LayerView<T> const& layer,
                                                std::int64_t unit) {
  GateUnits<V, kUnits> gates;
  for (int e = 0; e < kUnits; ++e) {
    gates.z.value[e] = gates.r.value[e] = gates.g.value[e] = convert<V>(Accumulator<T>(-0.0));
  }
  if (row != nullptr) {
    gates.z = load_units<kUnits>(row + layer.columns.z * layer.hidden + unit);
    gates.r = load_units<kUnits>(row + layer.columns.r * layer.hidden + unit);
    gates.g = load_units<kUnits>(row + layer.columns.g * layer.hidden + unit);
  }
  return gates;
}

template <typename A>
__device__ cell::Gates<A> operator+(cell::Gates<A> a, cell::Gates<A> b) {
  return {a.z + b.z, a.r + b.r, a.g + b.g};
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

  __device__ void prefetch() const {
    ptx::prefetch(z);
    ptx::prefetch(r);
    ptx::prefetch(g);
    ptx::prefetch(fourth);
  }
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

/// The fused kernel of a step, behind its product: launched by launch_early over N x H / kUnits.
/// All loads are issued before any is used.
template <typename T, Variant variant, int kUnits>
GRU_KERNEL void forward_kernel(LayerView<T> layer, ForwardStep<T> step) {
  using A = Accumulator<T>;
  std::int64_t const H = layer.hidden;
  Masks const& masks = layer.masks;
  for_each_element(layer.batch, H / kUnits, [&](std::int64_t n, std::int64_t group) {
    std::int64_t const unit = group * kUnits;
    std::int64_t const i = n * H + unit;
    A const* const p_row = step.p + n * 3 * H;
    for (int gate = 0; gate < 3; ++gate) ptx::prefetch(p_row + gate * H + unit);
    ptx::prefetch(step.state + i);
    ptx::wait_for_kernel_before();
    Units<A, kUnits> state = load_units<kUnits>(step.state + i);
    Units<A, kUnits> h = {};
    if (layer.schedule.is_active(step.t, n)) {
      auto const p = load_gate_units<kUnits>(p_row, layer, unit);
      auto const q = load_gate_units<kUnits>(step.q + n * 3 * H, layer, unit);
      auto const bias = load_gate_units<kUnits>(layer.bias, layer, unit);
      auto const recurrent_bias = load_gate_units<kUnits>(layer.recurrent_bias, layer, unit);
      Units<T, kUnits> fourth;
      if (variant == Variant::kResetBefore) fourth = load_units<kUnits>(step.reset_operand + i);
      bool const cleared = layer.schedule.is_cleared(step.t, n);
      cell::Gates<A> sums[kUnits];
      for (int e = 0; e < kUnits; ++e) {
        sums[e] = q.template at<A>(e) + recurrent_bias.template at<A>(e);
      }
#pragma unroll 3
      for (std::int64_t part = 1; part < step.q_parts; ++part) {
        A const* const row = step.q + (part * layer.batch + n) * 3 * H;
        auto const more = load_gate_units<kUnits>(row, layer, unit);
        for (int e = 0; e < kUnits; ++e) sums[e] = sums[e] + more.template at<A>(e);
      }
      GateUnits<A, kUnits> kept;
#pragma unroll
      for (int e = 0; e < kUnits; ++e) {
        A const s = cleared ? A(0) : state.value[e];
        auto const a =
            pre_activations<variant>(p.template at<A>(e) + bias.template at<A>(e), sums[e]);
        A value = cell::new_state(a.z, a.g, s);
        if (masks.has_zoneout()) {
          value = cell::zoneout(value, s, masks.template zoneout_weight<A>(step.t, n, unit + e));
        }
        h.value[e] = state.value[e] = value;
        kept.z.value[e] = a.z;
        kept.r.value[e] = a.r;
        kept.g.value[e] = a.g;
        if (variant == Variant::kResetAfter) fourth.value[e] = convert<T>(sums[e].g);
      }
      store_units(step.state + i, state);
      if (step.reserve != nullptr) {
        ReserveRow<T> const row{step.reserve + n * 4 * H, layer, unit};
        store_units(row.z, kept.z);
        store_units(row.r, kept.r);
        store_units(row.g, kept.g);
        store_units(row.fourth, fourth);
      }
      if (step.next >= 0) {
        bool const clears = layer.schedule.is_cleared(step.next, n);
        Units<A, kUnits> operand;
        for (int e = 0; e < kUnits; ++e) {
          A const factor = masks.template state_factor<A>(n, unit + e);
          operand.value[e] = clears ? A(0) : state.value[e] * factor;
        }
        store_units(step.operand + i, operand);
      }
    }
    if (step.h != nullptr) store_units(step.h + step.h_rows.at(step.t, n) + unit, h);
    if (step.final_state) {
      for (int e = 0; e < kUnits; ++e) {
        step.final_state.store(n * step.final_pitch + unit + e, state.value[e]);
      }
    }
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

/// Everything for reset after; for reset before all but the reset gate, whose gradient waits for
/// the product with R_g. Launched by launch_early over N x H / kUnits, behind the product of the
/// step done before. All loads are issued before any is used.
template <typename T, Variant variant, int kUnits>
GRU_KERNEL void backward_kernel(LayerView<T> layer, EnteringState<T> entering,
                                BackwardStep<T> step) {
  using A = Accumulator<T>;
  constexpr bool kAfter = variant == Variant::kResetAfter;
  std::int64_t const H = layer.hidden;
  Masks const& masks = layer.masks;
  for_each_element(layer.batch, H / kUnits, [&](std::int64_t n, std::int64_t group) {
    std::int64_t const unit = group * kUnits;
    std::int64_t const i = n * H + unit;
    std::int64_t const dh_at = step.dh_rows.at(step.t, n) + unit;
    ReserveRow<T const> const kept_row{step.kept + n * 4 * H, layer, unit};
    ReserveRow<T> const out{step.gradients + n * 4 * H, layer, unit};
    ReserveRow<A> const sums_row{step.bias_sums + n * 4 * H, layer, unit};
    kept_row.prefetch();
    ptx::prefetch(step.direct + i);
    if (step.bias_sums != nullptr) sums_row.prefetch();
    if (step.dh != nullptr) ptx::prefetch(step.dh + dh_at);
    ptx::wait_for_kernel_before();

    Units<A, kUnits> direct = load_units<kUnits>(step.direct + i);
    GateUnits<T, kUnits> const kept{load_units<kUnits>(kept_row.z), load_units<kUnits>(kept_row.r),
                                    load_units<kUnits>(kept_row.g)};
    Units<T, kUnits> fourth = load_units<kUnits>(kept_row.fourth);
    GateUnits<A, kUnits> sums = {};
    Units<A, kUnits> recurrent_sums = {};
    if (step.bias_sums != nullptr) {
      sums.z = load_units<kUnits>(sums_row.z);
      sums.g = load_units<kUnits>(sums_row.g);
      if (kAfter) sums.r = load_units<kUnits>(sums_row.r);
      if (kAfter) recurrent_sums = load_units<kUnits>(sums_row.fourth);
    }
    bool const active = layer.schedule.is_active(step.t, n);
    bool const is_in_h = active && entering.is_in_h(layer.schedule, step.t, n);
    Units<T, kUnits> dh = {};
    Units<T, kUnits> h_before = {};
    if (active && step.dh != nullptr) dh = load_units<kUnits>(step.dh + dh_at);
    if (is_in_h) h_before = load_units<kUnits>(entering.before(layer.schedule, step.t, n) + unit);
    // Whether gradient reaches the step before through R.
    bool const passes = active && !layer.schedule.is_cleared(step.t, n);
    auto const through = sum_parts<kUnits>(step.through_r + i, layer.batch * H, step.through_parts);

    GateUnits<A, kUnits> da = {};
    Units<A, kUnits> dq_g = {};
#pragma unroll
    for (int e = 0; e < kUnits; ++e) {
      A const factor = masks.template state_factor<A>(n, unit + e);
      direct.value[e] += factor * through.value[e];
      if (!active) {
        fourth.value[e] = convert<T>(A(0));
        continue;
      }
      A dc = direct.value[e];
      if (step.dh != nullptr) dc += convert<A>(dh.value[e]);
      A ds = A(0);
      if (masks.has_zoneout()) {
        A const w = masks.template zoneout_weight<A>(step.t, n, unit + e);
        auto const split = cell::zoneout_backward(w, dc);
        dc = split.c;
        ds = split.s;
      }
      A const s = is_in_h ? convert<A>(h_before.value[e])
                          : entering.load(layer.schedule, step.t, n, unit + e);
      auto const a = kept.template at<A>(e);
      auto const d = cell::new_state_backward(a.z, a.g, s, dc);
      da.z.value[e] = d.a_z;
      da.g.value[e] = dq_g.value[e] = d.a_g;
      if constexpr (kAfter) {
        auto const reset = cell::reset_after_backward(a.r, convert<A>(fourth.value[e]), d.a_g);
        da.r.value[e] = reset.a_r;
        dq_g.value[e] = reset.q_g;
        fourth.value[e] = convert<T>(reset.q_g);
      }
      direct.value[e] = passes ? ds + d.s : A(0);
    }
    store_units(step.direct + i, direct);
    T* const dq = step.dq + n * 3 * H + unit;
    auto const passed = [&](Units<A, kUnits> gradient) {
      for (A& value : gradient.value) value = passes ? value : A(0);
      return gradient;
    };
    store_units(dq + layer.columns.z * H, passed(da.z));
    store_units(dq + layer.columns.g * H, passed(dq_g));
    if (kAfter) store_units(dq + layer.columns.r * H, passed(da.r));
    store_units(out.z, da.z);
    store_units(out.g, da.g);
    if (kAfter) store_units(out.r, da.r);
    store_units(out.fourth, fourth);
    if (step.bias_sums == nullptr) return;
    store_units(sums_row.z, sums.z + da.z);
    store_units(sums_row.g, sums.g + da.g);
    if (kAfter) store_units(sums_row.r, sums.r + da.r);
    if (kAfter) store_units(sums_row.fourth, recurrent_sums + dq_g);
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
    std::int64_t const i = n * layer.hidden + unit;
    A const through = sum_parts<1>(through_r + i, layer.batch * layer.hidden, parts).value[0];
    A value = direct[i] + layer.masks.template state_factor<A>(n, unit) * through;
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
