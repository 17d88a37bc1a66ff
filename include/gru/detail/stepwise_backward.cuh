// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include <gru/detail/carver.hpp>
#include <gru/detail/chunks.hpp>
#include <gru/detail/engine.cuh>
#include <gru/detail/layer_products.cuh>
#include <gru/detail/stepwise_forward.cuh>
#include <gru/detail/stepwise_kernels.cuh>

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// Where a weight gradient's products put their sums.
enum class SumsIn {
  kPlace,      ///< in the caller's buffer, added up there over the chunks
  kWorkspace,  ///< in the accumulation type in the workspace, then converted, masked and moved
};

/// Backward, step by step, chunk by chunk from the last: for each step one fused kernel and one
/// product with the transpose of R (reset before: two of each), which leave the gradients of the
/// pre-activations of the whole chunk; then dx and dW in one product each, dR in two.
template <typename T>
class StepwiseBackward final : public BackwardEngine<T> {
  using A = Accumulator<T>;

 public:
  StepwiseBackward(Problem const& p, DeviceFacts const& facts) : problem_{p} {
    ChunkPlan const plan = plan_backward(p);
    chunks_ = plan.chunks;
    if (chunks_.count == 0) return;
    kernel_sums_ = sums_in(p, chunks_, false);
    recurrent_sums_ = sums_in(p, chunks_, drops(p, p.dropconnect));
    plan_products(facts, plan.most_product_workspace);
    product_workspace_ = std::max(
        {dx_.workspace_bytes(), dkernel_.workspace_bytes(), drecurrent_gates_.workspace_bytes(),
         drecurrent_candidate_.workspace_bytes(), through_gates_.workspace_bytes(),
         through_candidate_.workspace_bytes(), input_.workspace_bytes(),
         recompute_gates_.workspace_bytes(), recompute_candidate_.workspace_bytes()});
  }

  std::size_t workspace_bytes() const override {
    Carver carver;
    lay_out(carver, problem_, chunks_.size, product_workspace_);
    return carver.bytes();
  }

  void run(Execution const& execution, Weights<T> const& weights, BackwardTensors<T> const& tensors,
           Schedule const& schedule, Masks const& masks, Workspace workspace) const override {
    Problem const& p = problem_;
    Carver carver{workspace.data};
    Run run{execution,
            make_layer_view(p, weights, schedule, masks),
            lay_out(carver, p, chunks_.size, product_workspace_),
            weights,
            tensors,
            {},
            entering_state(p, tensors)};
    if (chunks_.count == 0) clear_weight_gradients(run);
    if (p.batch == 0) return;
    start(run);
    if (chunks_.count > 0) {
      run.recurrent = prepare_recurrent_kernel(p, run.layer, weights.recurrent_kernel,
                                               run.buffers.dropped_weights, execution.stream);
    }
    for (std::int64_t chunk = chunks_.count - 1; chunk >= 0; --chunk) {
      run_chunk(run, chunk);
    }
    finish(run);
  }

 private:
  struct Buffers {
    std::uint32_t* status = nullptr;
    A* direct = nullptr;           // [N, H] carried gradient along everything but R
    A* through_r = nullptr;        // [N, H] carried gradient through R
    A* through_reset = nullptr;    // [N, H] reset before: gradient of r * s
    T* dq = nullptr;               // [N, 3H]
    A* bias_sums = nullptr;        // [N, 4H]
    T* operands = nullptr;         // [chunk, N, H] what multiplied R
    T* gradients = nullptr;        // [chunk, N, 4H] unless written over the reserve
    T* x = nullptr;                // [chunk, N, C] batch-major: x made dense and time-major
    A* p = nullptr;                // [chunk, N, 3H] recompute: x W
    A* q = nullptr;                // [chunk, N, 3H] recompute: s R
    A* kernel_sums = nullptr;      // as W, tight
    A* recurrent_sums = nullptr;   // as R, tight
    T* dropped_weights = nullptr;  // as R, tight
    void* product_workspace = nullptr;
  };

  /// What the parts of one run share.
  struct Run {
    Execution const& execution;
    LayerView<T> layer;
    Buffers buffers;
    Weights<T> const& weights;
    BackwardTensors<T> const& tensors;
    WeightMatrix<T> recurrent;
    EnteringState<T> entering;
  };

  using Planned = PerChunk<Product>;
  using PlannedWeights = PerChunk<WeightGradientProduct>;

  static bool is_after(Problem const& p) { return p.variant == Variant::kResetAfter; }

  static bool weight_gradients_are_sums(Problem const& p) {
    return std::is_same_v<T, A> || p.weight_gradient_type == WeightGradientType::kFloat;
  }

  static SumsIn sums_in(Problem const& p, Chunks const& chunks, bool masked) {
    bool const direct = !masked && (weight_gradients_are_sums(p) || chunks.count <= 1);
    return direct ? SumsIn::kPlace : SumsIn::kWorkspace;
  }

  /// Whether x must be copied for dW, since its rows do not lie like those of the gradients.
  static bool gathers_x(Problem const& p) {
    return p.layout == Layout::kBatchMajor && p.batch > 1 && p.steps > 1;
  }

  /// Rows of x in dW's product.
  static std::int64_t x_pitch(Problem const& p) {
    if (gathers_x(p)) return p.input_size;
    Rows const rows = sequence_rows(p, p.pitch.x, p.input_size);
    return p.batch == 1 ? rows.step : rows.sample;
  }

  cudaDataType_t sums_type(SumsIn where) const {
    bool const sums = where == SumsIn::kWorkspace || weight_gradients_are_sums(problem_);
    return sums ? kCudaType<A> : kCudaType<T>;
  }

  std::int64_t tight_kernel_pitch() const {
    return by_input(problem_) ? 3 * problem_.hidden_size : problem_.input_size;
  }

  std::int64_t tight_recurrent_pitch() const {
    return by_input(problem_) ? 3 * problem_.hidden_size : problem_.hidden_size;
  }

  WeightGradientProduct dkernel_product(Problem const& p, std::int64_t steps,
                                        DeviceFacts const& facts, std::size_t most) const {
    bool const placed = kernel_sums_ == SumsIn::kPlace;
    return WeightGradientProduct::make<T>(p, steps * p.batch, p.input_size, x_pitch(p), 3,
                                          placed ? kernel_pitch(p) : tight_kernel_pitch(),
                                          sums_type(kernel_sums_), facts, most);
  }

  WeightGradientProduct drecurrent_product(Problem const& p, std::int64_t steps,
                                           std::int64_t operand_pitch, std::int64_t width,
                                           DeviceFacts const& facts, std::size_t most) const {
    bool const placed = recurrent_sums_ == SumsIn::kPlace;
    return WeightGradientProduct::make<T>(
        p, steps * p.batch, p.hidden_size, operand_pitch, width,
        placed ? recurrent_kernel_pitch(p) : tight_recurrent_pitch(), sums_type(recurrent_sums_),
        facts, most);
  }

  /// `chunks` only tells where the weight gradients' sums go; `chunk_steps` sizes the buffers.
  static Buffers lay_out(Carver& carver, Problem const& p, std::int64_t chunk_steps,
                         std::size_t product_workspace, SumsIn kernel_sums, SumsIn recurrent_sums) {
    std::int64_t const C = p.input_size;
    std::int64_t const H = p.hidden_size;
    std::int64_t const values = p.batch * H;
    bool const recomputes = p.reserve == ReservePolicy::kRecompute;
    bool const rewrites = p.reserve == ReservePolicy::kOverwrite;
    Buffers buffers;
    buffers.status = carver.take<std::uint32_t>(1);
    buffers.direct = carver.take<A>(values);
    buffers.through_r = carver.take<A>(values);
    buffers.through_reset = carver.take<A>(is_after(p) ? 0 : values);
    buffers.dq = carver.take<T>(3 * values);
    buffers.bias_sums = carver.take<A>(4 * values);
    buffers.operands = carver.take<T>(chunk_steps * values);
    buffers.gradients = carver.take<T>(rewrites ? 0 : chunk_steps * 4 * values);
    buffers.x = carver.take<T>(gathers_x(p) ? chunk_steps * p.batch * C : 0);
    buffers.p = carver.take<A>(recomputes ? chunk_steps * 3 * values : 0);
    buffers.q = carver.take<A>(recomputes ? chunk_steps * 3 * values : 0);
    bool const sums_kernel = kernel_sums == SumsIn::kWorkspace;
    bool const sums_recurrent = recurrent_sums == SumsIn::kWorkspace;
    buffers.kernel_sums = carver.take<A>(sums_kernel ? 3 * C * H : 0);
    buffers.recurrent_sums = carver.take<A>(sums_recurrent ? 3 * H * H : 0);
    buffers.dropped_weights = carver.take<T>(dropped_weights_size(p));
    buffers.product_workspace =
        carver.take<std::byte>(static_cast<std::int64_t>(product_workspace));
    return buffers;
  }

  Buffers lay_out(Carver& carver, Problem const& p, std::int64_t chunk_steps,
                  std::size_t product_workspace) const {
    return lay_out(carver, p, chunk_steps, product_workspace, kernel_sums_, recurrent_sums_);
  }

  /// One chunk where it fits: then 16-bit weight gradients need no sums in the workspace.
  static ChunkPlan plan_backward(Problem const& p) {
    auto const bytes_for = [&](std::int64_t chunk_count) {
      Chunks assumed;
      assumed.count = chunk_count;
      SumsIn const kernel_sums = sums_in(p, assumed, false);
      SumsIn const recurrent_sums = sums_in(p, assumed, drops(p, p.dropconnect));
      return [&p, kernel_sums, recurrent_sums](std::int64_t steps) {
        Carver carver;
        lay_out(carver, p, steps, 0, kernel_sums, recurrent_sums);
        return carver.bytes();
      };
    };
    bool const one_chunk =
        bytes_for(1)(p.steps) <= p.workspace_limit && p.steps * p.batch <= kLargestExtent;
    return plan_chunks(p, bytes_for(one_chunk || p.steps == 1 ? 1 : 2));
  }

  void plan_products(DeviceFacts const& facts, std::size_t most) {
    Problem const& p = problem_;
    std::int64_t const H = p.hidden_size;
    bool const after = is_after(p);
    dx_ = {chunks_,
           [&](std::int64_t steps) { return input_gradient_product<T>(p, steps, facts, most); }};
    dkernel_ = {chunks_,
                [&](std::int64_t steps) { return dkernel_product(p, steps, facts, most); }};
    drecurrent_gates_ = {chunks_, [&](std::int64_t steps) {
                           return drecurrent_product(p, steps, H, 2, facts, most);
                         }};
    drecurrent_candidate_ = {chunks_, [&](std::int64_t steps) {
                               return drecurrent_product(p, steps, after ? H : 4 * H, 1, facts,
                                                         most);
                             }};
    through_gates_ = state_gradient_product<T>(p, after ? 3 : 2, facts, most);
    if (!after) through_candidate_ = state_gradient_product<T>(p, 1, facts, most);
    if (p.reserve != ReservePolicy::kRecompute) return;
    input_ = {chunks_, [&](std::int64_t steps) { return input_product<T>(p, steps, facts, most); }};
    recompute_gates_ = {chunks_, [&](std::int64_t steps) {
                          return recurrent_product<T>(p, steps * p.batch, after ? 3 : 2, H, facts,
                                                      most);
                        }};
    if (after) return;
    recompute_candidate_ = {chunks_, [&](std::int64_t steps) {
                              return recurrent_product<T>(p, steps * p.batch, 1, 4 * H, facts,
                                                          most);
                            }};
  }

  static EnteringState<T> entering_state(Problem const& p, BackwardTensors<T> const& tensors) {
    EnteringState<T> entering;
    entering.h = tensors.h;
    entering.h_rows = sequence_rows(p, p.pitch.h, p.hidden_size);
    entering.h0 = tensors.h0;
    entering.h0_pitch = pitch_or(p.pitch.h0, p.hidden_size);
    return entering;
  }

  /// Zeros in the weight and bias gradients that are overwritten, for a pass without steps.
  void clear_weight_gradients(Run const& run) const {
    Problem const& p = problem_;
    BackwardTensors<T> const& t = run.tensors;
    auto const clear = [&](OrFloat<T> to, bool accumulate, std::int64_t rows, std::int64_t columns,
                           std::int64_t pitch) {
      if (!to || accumulate) return;
      auto const size = static_cast<std::int64_t>(to.is_float() ? sizeof(float) : sizeof(T));
      GRU_CUDA_TRY(cudaMemset2DAsync(to.data(), static_cast<std::size_t>(pitch * size), 0,
                                     static_cast<std::size_t>(columns * size),
                                     static_cast<std::size_t>(rows), run.execution.stream));
    };
    std::int64_t const gates = 3 * p.hidden_size;
    bool const in_rows = by_input(p);
    clear(t.dkernel, p.accumulate.dkernel, in_rows ? p.input_size : gates,
          in_rows ? gates : p.input_size, kernel_pitch(p));
    clear(t.drecurrent_kernel, p.accumulate.drecurrent_kernel, in_rows ? p.hidden_size : gates,
          in_rows ? gates : p.hidden_size, recurrent_kernel_pitch(p));
    clear(t.dbias, p.accumulate.dbias, 1, gates, gates);
    clear(t.drecurrent_bias, p.accumulate.drecurrent_bias, 1, gates, gates);
  }

  bool wants_biases(BackwardTensors<T> const& t) const { return t.dbias || t.drecurrent_bias; }

  /// The carried gradient after the last step is the final state's.
  void start(Run const& run) const {
    Problem const& p = problem_;
    Start<T> start;
    start.h0 = run.tensors.dfinal_state;
    start.h0_pitch = pitch_or(p.pitch.dfinal_state, p.hidden_size);
    start.state = run.buffers.direct;
    start.status = run.buffers.status;
    launch_elementwise(start_kernel<T>, run.execution.stream, p.batch, p.hidden_size, run.layer,
                       start);
    std::size_t const values = static_cast<std::size_t>(p.batch * p.hidden_size);
    GRU_CUDA_TRY(
        cudaMemsetAsync(run.buffers.through_r, 0, values * sizeof(A), run.execution.stream));
    if (wants_biases(run.tensors)) {
      GRU_CUDA_TRY(
          cudaMemsetAsync(run.buffers.bias_sums, 0, 4 * values * sizeof(A), run.execution.stream));
    }
  }

  void run_chunk(Run const& run, std::int64_t chunk) const {
    Problem const& p = problem_;
    std::int64_t const first_time = chunks_.first_time(chunk);
    std::int64_t const steps = chunks_.size_of(chunk);
    launch_elementwise(entering_operand_kernel<T>, run.execution.stream, steps * p.batch,
                       p.hidden_size, run.layer, run.entering, first_time, steps,
                       run.buffers.operands);
    std::int64_t const offset = first_time * p.batch * 4 * p.hidden_size;
    T const* kept = run.buffers.gradients;
    T* gradients = run.buffers.gradients;
    if (p.reserve == ReservePolicy::kKeep) {
      kept = static_cast<T const*>(run.tensors.reserve.data) + offset;
    } else if (p.reserve == ReservePolicy::kOverwrite) {
      gradients = static_cast<T*>(run.tensors.overwritten_reserve.data) + offset;
      kept = gradients;
    } else {
      recompute(run, chunk);
    }
    std::int64_t const begin = chunk * chunks_.size;
    for (std::int64_t i = begin + steps - 1; i >= begin; --i) {
      std::int64_t const t = run.layer.schedule.time(i);
      std::int64_t const row = (t - first_time) * p.batch * 4 * p.hidden_size;
      run_step(run, t, kept + row, gradients + row);
    }
    add_products(run, chunk, gradients);
  }

  /// Fills the chunk's reserve rows in the workspace from x and h.
  void recompute(Run const& run, std::int64_t chunk) const {
    Problem const& p = problem_;
    Buffers const& buffers = run.buffers;
    std::int64_t const H = p.hidden_size;
    double const scale = recurrent_scale(p);
    Recompute<T> work;
    work.first_time = chunks_.first_time(chunk);
    work.steps = chunks_.size_of(chunk);
    work.p = buffers.p;
    work.q = buffers.q;
    work.reserve = buffers.gradients;
    std::int64_t const rows = work.steps * p.batch;
    Rows const x_rows = sequence_rows(p, p.pitch.x, p.input_size);
    input_.of(chunks_, chunk)
        .run(run.execution, 1, run.tensors.x + x_rows.at(work.first_time, 0), run.weights.kernel, 0,
             buffers.p, buffers.product_workspace);
    recompute_gates_.of(chunks_, chunk)
        .run(run.execution, scale, buffers.operands, run.recurrent.data, 0, buffers.q,
             buffers.product_workspace);
    if (is_after(p)) {
      launch_elementwise(recompute_kernel<T, Variant::kResetAfter>, run.execution.stream, rows, H,
                         run.layer, work);
      return;
    }
    launch_elementwise(recompute_reset_kernel<T>, run.execution.stream, rows, H, run.layer,
                       run.entering, work);
    recompute_candidate_.of(chunks_, chunk)
        .run(run.execution, scale, buffers.gradients + 3 * H,
             run.recurrent.gates_from(GateColumns::g), 0, buffers.q + GateColumns::g * H,
             buffers.product_workspace);
    launch_elementwise(recompute_kernel<T, Variant::kResetBefore>, run.execution.stream, rows, H,
                       run.layer, work);
  }

  void run_step(Run const& run, std::int64_t t, T const* kept, T* gradients) const {
    Problem const& p = problem_;
    Buffers const& buffers = run.buffers;
    std::int64_t const N = p.batch;
    std::int64_t const H = p.hidden_size;
    double const scale = recurrent_scale(p);
    BackwardStep<T> step;
    step.t = t;
    step.kept = kept;
    step.gradients = gradients;
    step.dh = run.tensors.dh;
    step.dh_rows = sequence_rows(p, p.pitch.dh, H);
    step.direct = buffers.direct;
    step.through_r = buffers.through_r;
    step.dq = buffers.dq;
    step.through_reset = buffers.through_reset;
    step.bias_sums = wants_biases(run.tensors) ? buffers.bias_sums : nullptr;
    if (is_after(p)) {
      launch_elementwise(backward_kernel<T, Variant::kResetAfter>, run.execution.stream, N, H,
                         run.layer, run.entering, step);
    } else {
      launch_elementwise(backward_kernel<T, Variant::kResetBefore>, run.execution.stream, N, H,
                         run.layer, run.entering, step);
      through_candidate_.run(run.execution, scale, buffers.dq + GateColumns::g * H,
                             run.recurrent.gates_from(GateColumns::g), 0, buffers.through_reset,
                             buffers.product_workspace);
      launch_elementwise(reset_backward_kernel<T>, run.execution.stream, N, H, run.layer,
                         run.entering, step);
    }
    through_gates_.run(run.execution, scale, buffers.dq, run.recurrent.data, 0, buffers.through_r,
                       buffers.product_workspace);
  }

  /// dx, dW and dR of a chunk whose gradients of the pre-activations are known.
  void add_products(Run const& run, std::int64_t chunk, T const* gradients) const {
    Problem const& p = problem_;
    Buffers const& buffers = run.buffers;
    BackwardTensors<T> const& t = run.tensors;
    std::int64_t const H = p.hidden_size;
    std::int64_t const first_time = chunks_.first_time(chunk);
    bool const first = chunk == chunks_.count - 1;  // the first that is done
    auto const beta_of = [&](SumsIn where, bool accumulate) {
      return !first || (where == SumsIn::kPlace && accumulate) ? 1.0 : 0.0;
    };
    if (t.dx != nullptr) {
      Rows const rows = sequence_rows(p, p.pitch.dx, p.input_size);
      dx_.of(chunks_, chunk)
          .run(run.execution, 1, gradients, run.weights.kernel, p.accumulate.dx ? 1 : 0,
               t.dx + rows.at(first_time, 0), buffers.product_workspace);
    }
    if (t.dkernel) {
      bool const placed = kernel_sums_ == SumsIn::kPlace;
      dkernel_.of(chunks_, chunk)
          .run(run.execution, 1, x_of_chunk(run, chunk), gradients,
               beta_of(kernel_sums_, p.accumulate.dkernel),
               placed ? t.dkernel.data() : buffers.kernel_sums, buffers.product_workspace);
    }
    if (t.drecurrent_kernel) {
      bool const placed = recurrent_sums_ == SumsIn::kPlace;
      double const beta = beta_of(recurrent_sums_, p.accumulate.drecurrent_kernel);
      WeightMatrix<T> const place{
          nullptr, placed ? recurrent_kernel_pitch(p) : tight_recurrent_pitch(), by_input(p), H};
      auto const size = static_cast<std::int64_t>(size_of(sums_type(recurrent_sums_)));
      auto* const out =
          static_cast<std::byte*>(placed ? t.drecurrent_kernel.data() : buffers.recurrent_sums);
      std::int64_t const g = GateColumns::g;
      drecurrent_gates_.of(chunks_, chunk)
          .run(run.execution, 1, buffers.operands, gradients, beta, out, buffers.product_workspace);
      drecurrent_candidate_.of(chunks_, chunk)
          .run(run.execution, 1, is_after(p) ? buffers.operands : gradients + 3 * H,
               gradients + (is_after(p) ? 3 : g) * H, beta, out + place.block(g) * size,
               buffers.product_workspace);
    }
  }

  T const* x_of_chunk(Run const& run, std::int64_t chunk) const {
    Problem const& p = problem_;
    Rows const rows = sequence_rows(p, p.pitch.x, p.input_size);
    std::int64_t const first_time = chunks_.first_time(chunk);
    if (!gathers_x(p)) return run.tensors.x + rows.at(first_time, 0);
    std::int64_t const steps = chunks_.size_of(chunk);
    launch_elementwise(gather_rows_kernel<T>, run.execution.stream, steps * p.batch, p.input_size,
                       run.tensors.x, rows, first_time, steps, p.batch, p.input_size,
                       run.buffers.x);
    return run.buffers.x;
  }

  /// What remains once all steps are done.
  void finish(Run const& run) const {
    Problem const& p = problem_;
    BackwardTensors<T> const& t = run.tensors;
    cudaStream_t const stream = run.execution.stream;
    if (t.dh0) {
      launch_elementwise(initial_gradient_kernel<T>, stream, p.batch, p.hidden_size, run.layer,
                         run.buffers.direct, run.buffers.through_r, t.dh0,
                         pitch_or(p.pitch.dh0, p.hidden_size), p.accumulate.dh0);
    }
    if (chunks_.count == 0) return;
    if (wants_biases(t)) {
      auto const columns = static_cast<unsigned>(3 * p.hidden_size);
      bias_gradient_kernel<T><<<columns, kBiasThreads, 0, stream>>>(
          run.layer, run.buffers.bias_sums, is_after(p), t.dbias, p.accumulate.dbias,
          t.drecurrent_bias, p.accumulate.drecurrent_bias);
      GRU_CUDA_TRY(cudaGetLastError());
    }
    if (t.dkernel && kernel_sums_ == SumsIn::kWorkspace) {
      bool const in_rows = by_input(p);
      std::int64_t const gates = 3 * p.hidden_size;
      WeightView const view{p.hidden_size, in_rows ? p.input_size : gates,
                            in_rows ? gates : p.input_size, kernel_pitch(p), in_rows};
      Masks const unmasked;
      launch_elementwise(finish_weight_gradient_kernel<T>, stream, view.rows, view.columns,
                         unmasked, run.layer.columns, view, run.buffers.kernel_sums, t.dkernel,
                         p.accumulate.dkernel);
    }
    if (t.drecurrent_kernel && recurrent_sums_ == SumsIn::kWorkspace) {
      WeightView const view = recurrent_view<T>(p);
      launch_elementwise(finish_weight_gradient_kernel<T>, stream, view.rows, view.columns,
                         run.layer.masks, run.layer.columns, view, run.buffers.recurrent_sums,
                         t.drecurrent_kernel, p.accumulate.drecurrent_kernel);
    }
  }

  Problem problem_;
  Chunks chunks_;
  SumsIn kernel_sums_ = SumsIn::kPlace;
  SumsIn recurrent_sums_ = SumsIn::kPlace;
  Planned dx_;
  PlannedWeights dkernel_;
  PlannedWeights drecurrent_gates_;      // of z and r
  PlannedWeights drecurrent_candidate_;  // of g
  Product through_gates_;                // of all gates, or of z and r (reset before)
  Product through_candidate_;            // of g (reset before)
  Planned input_;                        // recompute
  Planned recompute_gates_;
  Planned recompute_candidate_;
  std::size_t product_workspace_ = 0;
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
