// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include <gru/detail/carver.hpp>
#include <gru/detail/chunk_plan.cuh>
#include <gru/detail/engine.cuh>
#include <gru/detail/layer_products.cuh>
#include <gru/detail/stepwise_kernels.cuh>

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// Values of the copy of R that DropConnect makes; 0 without it.
inline std::int64_t dropped_weights_size(Problem const& p) {
  return drops(p, p.dropconnect) ? 3 * p.hidden_size * p.hidden_size : 0;
}

/// The factor that DropConnect leaves to the products with R.
inline double recurrent_scale(Problem const& p) {
  return drops(p, p.dropconnect) ? 1 / (1 - p.dropconnect.rate) : 1;
}

template <typename T>
WeightView recurrent_view(Problem const& p) {
  std::int64_t const H = p.hidden_size;
  bool const in_rows = by_input(p);
  return {H, in_rows ? H : 3 * H, in_rows ? 3 * H : H, recurrent_kernel_pitch(p), in_rows};
}

/// R as the products need it: with DropConnect masked into `copy`, otherwise the caller's.
template <typename T>
WeightMatrix<T> prepare_recurrent_kernel(Problem const& p, LayerView<T> const& layer,
                                         T const* recurrent_kernel, T* copy, cudaStream_t stream) {
  if (!layer.masks.dropconnect.on) return recurrent_matrix<T>(p, recurrent_kernel);
  WeightView const view = recurrent_view<T>(p);
  launch_elementwise(drop_weights_kernel<T>, stream, view.rows, view.columns, layer.masks,
                     layer.columns, view, recurrent_kernel, copy);
  return recurrent_matrix<T>(p, copy);
}

template <typename T>
LayerView<T> make_layer_view(Problem const& p, Weights<T> const& weights, Schedule const& schedule,
                             Masks const& masks) {
  return {p.batch, p.hidden_size, gate_columns(p),       schedule,
          masks,   weights.bias,  weights.recurrent_bias};
}

/// The start of a forward run: without steps, the final state is the initial one.
template <typename T>
Start<T> make_start(Problem const& p, ForwardTensors<T> const& tensors, Schedule const& schedule,
                    Accumulator<T>* state, T* operand, std::uint32_t* status) {
  Start<T> start;
  start.status = status;
  start.h0 = tensors.h0;
  start.h0_pitch = pitch_or(p.pitch.h0, p.hidden_size);
  start.state = state;
  start.final_pitch = pitch_or(p.pitch.final_state, p.hidden_size);
  if (p.steps == 0) {
    start.final_state = tensors.final_state;
  } else {
    start.first_time = schedule.time(0);
    start.operand = operand;
  }
  return start;
}

/// Forward, step by step: the input product for a chunk of steps at once, then for each step one
/// product with R and one fused kernel (reset before: two of each).
template <typename T>
class StepwiseForward final : public ForwardEngine<T> {
  using A = Accumulator<T>;

 public:
  StepwiseForward(Problem const& p, DeviceFacts const& facts)
      : problem_{p},
        launches_early_{facts.code_capability >= 90},
        q_parts_{p.variant == Variant::kResetAfter ? recurrent_parts<T>(p) : 1} {
    auto const bytes = [&](std::int64_t steps) {
      Carver carver;
      lay_out(carver, steps, 0);
      return carver.bytes();
    };
    input_parts_ = InputParts::choose<T>(p, facts, bytes(0));
    ChunkPlan const plan = plan_chunks(p, bytes);
    chunks_ = plan.chunks;
    if (chunks_.count == 0) return;
    std::int64_t const H = p.hidden_size;
    std::size_t const most = plan.most_product_workspace;
    input_ = {chunks_, [&](std::int64_t steps) {
                return InputProduct<T>{p, input_parts_, steps, facts, most};
              }};
    bool const after = p.variant == Variant::kResetAfter;
    recurrent_ = recurrent_product<T>(p, p.batch, after ? 3 : 2, H, q_parts_, facts, most);
    if (!after) candidate_ = recurrent_product<T>(p, p.batch, 1, H, 1, facts, most);
    product_workspace_ = std::max(
        {input_.workspace_bytes(), recurrent_.workspace_bytes(), candidate_.workspace_bytes()});
  }

  std::size_t workspace_bytes() const override {
    Carver carver;
    lay_out(carver, chunks_.size, product_workspace_);
    return carver.bytes();
  }

  void run(Execution const& execution, Weights<T> const& weights, ForwardTensors<T> const& tensors,
           Schedule const& schedule, Masks const& masks, Workspace workspace) const override {
    Problem const& p = problem_;
    if (p.batch == 0) return;
    Carver carver{workspace.data};
    Buffers const buffers = lay_out(carver, chunks_.size, product_workspace_);
    auto const layer = make_layer_view(p, weights, schedule, masks);
    Start<T> const start =
        make_start(p, tensors, schedule, buffers.state, buffers.operand, buffers.status);
    launch_elementwise(start_kernel<T>, execution.stream, p.batch, p.hidden_size, layer, start);
    if (p.steps == 0) return;

    auto const recurrent = prepare_recurrent_kernel(p, layer, weights.recurrent_kernel,
                                                    buffers.dropped_weights, execution.stream);
    Rows const x_rows = sequence_rows(p, p.pitch.x, p.input_size);
    auto const kernel = kernel_matrix<T>(p, weights.kernel);
    std::int64_t i = 0;  // steps done
    for (std::int64_t chunk = 0; chunk < chunks_.count; ++chunk) {
      std::int64_t const first_time = chunks_.first_time(chunk);
      input_.of(chunks_, chunk)
          .run(execution, tensors.x + x_rows.at(first_time, 0), kernel, buffers.p,
               buffers.input_parts, buffers.product_workspace);
      for (std::int64_t end = i + chunks_.size_of(chunk); i < end; ++i) {
        ForwardStep<T> step;
        step.t = schedule.time(i);
        step.next = i + 1 < p.steps ? schedule.time(i + 1) : -1;
        step.p = buffers.p + (step.t - first_time) * p.batch * 3 * p.hidden_size;
        step.q = buffers.q;
        step.q_parts = q_parts_;
        step.state = buffers.state;
        step.operand = buffers.operand;
        step.reset_operand = buffers.reset_operand;
        step.h = tensors.h;
        step.h_rows = sequence_rows(p, p.pitch.h, p.hidden_size);
        if (reserve_values(p) > 0) {
          step.reserve =
              static_cast<T*>(tensors.reserve.data) + step.t * p.batch * 4 * p.hidden_size;
        }
        if (step.next < 0) step.final_state = tensors.final_state;
        step.final_pitch = start.final_pitch;
        run_step(execution, layer, recurrent, buffers, step);
      }
    }
  }

 private:
  struct Buffers {
    std::uint32_t* status = nullptr;
    A* p = nullptr;                // [chunk, N, 3H] x W
    A* q = nullptr;                // [q_parts, N, 3H] s R, in parts
    A* state = nullptr;            // [N, H] carried
    T* operand = nullptr;          // [N, H] the state as it multiplies R
    T* reset_operand = nullptr;    // [N, H] reset before: r * s as it multiplies R_g
    T* dropped_weights = nullptr;  // as R
    InputParts::Scratch input_parts;
    void* product_workspace = nullptr;
  };

  Buffers lay_out(Carver& carver, std::int64_t chunk_steps, std::size_t product_workspace) const {
    Problem const& p = problem_;
    std::int64_t const values = p.batch * p.hidden_size;
    bool const before = p.variant == Variant::kResetBefore;
    Buffers buffers;
    buffers.status = carver.take<std::uint32_t>(1);
    buffers.p = carver.take<A>(chunk_steps * 3 * values);
    buffers.q = carver.take<A>(q_parts_ * 3 * values);
    buffers.state = carver.take<A>(values);
    buffers.operand = carver.take<T>(values);
    buffers.reset_operand = carver.take<T>(before ? values : 0);
    buffers.dropped_weights = carver.take<T>(dropped_weights_size(p));
    buffers.input_parts = input_parts_.lay_out(carver, p, chunk_steps);
    buffers.product_workspace =
        carver.take<std::byte>(static_cast<std::int64_t>(product_workspace));
    return buffers;
  }

  template <Variant variant>
  void launch_cell(Execution const& execution, LayerView<T> const& layer,
                   ForwardStep<T> const& step) const {
    bool const in_pairs = layer.hidden % 2 == 0 && has_pairs(layer.bias) &&
                          has_pairs(layer.recurrent_bias) && has_pairs(step.h, step.h_rows) &&
                          has_pairs(step.reserve);
    launch_early(in_pairs ? forward_kernel<T, variant, 2> : forward_kernel<T, variant, 1>,
                 launches_early_, execution.stream, layer.batch, layer.hidden / (in_pairs ? 2 : 1),
                 layer, step);
  }

  void run_step(Execution const& execution, LayerView<T> const& layer,
                WeightMatrix<T> const& recurrent, Buffers const& buffers,
                ForwardStep<T> const& step) const {
    std::int64_t const N = layer.batch;
    std::int64_t const H = layer.hidden;
    double const scale = recurrent_scale(problem_);
    recurrent_.run(execution, scale, buffers.operand, recurrent.data, 0, buffers.q,
                   buffers.product_workspace);
    if (problem_.variant == Variant::kResetAfter) {
      launch_cell<Variant::kResetAfter>(execution, layer, step);
      return;
    }
    launch_elementwise(reset_kernel<T>, execution.stream, N, H, layer, step);
    candidate_.run(execution, scale, buffers.reset_operand, recurrent.gates_from(GateColumns::g), 0,
                   buffers.q + GateColumns::g * H, buffers.product_workspace);
    launch_cell<Variant::kResetBefore>(execution, layer, step);
  }

  Problem problem_;
  bool launches_early_;
  std::int64_t q_parts_;
  InputParts input_parts_;
  Chunks chunks_;
  PerChunk<InputProduct<T>> input_;
  Product recurrent_;  // of all gates, or of z and r (reset before)
  Product candidate_;  // of g (reset before)
  std::size_t product_workspace_ = 0;
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
