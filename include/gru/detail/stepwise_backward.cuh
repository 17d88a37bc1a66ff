// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include <gru/detail/chunked_backward.cuh>
#include <gru/detail/layer_products.cuh>
#include <gru/detail/stepwise_kernels.cuh>

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// Backward's steps one by one: for each, one fused kernel and one product with the transpose of R
/// (reset before: two of each). See ChunkedBackward.
template <typename T>
class StepwiseBackwardSteps {
  using A = Accumulator<T>;

 public:
  using Value = T;

  struct Scratch {
    A* through_reset = nullptr;  // [N, H] reset before: gradient of r * s
    T* dq = nullptr;             // [N, 3H]
  };

  StepwiseBackwardSteps(Problem const& p, DeviceFacts const& facts)
      : problem_{p},
        launches_early_{facts.code_capability >= 90},
        through_parts_{state_gradient_parts<T>(p, gates())} {}

  void plan(DeviceFacts const& facts, std::size_t most_workspace) {
    through_gates_ =
        state_gradient_product<T>(problem_, gates(), through_parts_, facts, most_workspace);
    if (!is_after()) {
      through_candidate_ = state_gradient_product<T>(problem_, 1, 1, facts, most_workspace);
    }
  }

  std::int64_t through_parts() const { return through_parts_; }

  std::size_t product_workspace_bytes() const {
    return std::max(through_gates_.workspace_bytes(), through_candidate_.workspace_bytes());
  }

  /// Each step uses the whole device.
  OverlapCosts overlap_costs(DeviceFacts const&) const { return {}; }

  void lay_out(Carver& carver, std::int64_t, Scratch& scratch) const {
    std::int64_t const values = problem_.batch * problem_.hidden_size;
    scratch.through_reset = carver.take<A>(is_after() ? 0 : values);
    scratch.dq = carver.take<T>(3 * values);
  }

  void start(BackwardRun<T> const&, Scratch const&) const {}

  void run(BackwardRun<T> const& run, BackwardSteps<T> const& steps, Scratch const& scratch,
           cudaEvent_t) const {
    bool const ascends = problem_.direction == Direction::kReverse;
    std::int64_t const step_values = problem_.batch * 4 * problem_.hidden_size;
    for (std::int64_t i = 0; i < steps.chunk.steps; ++i) {
      std::int64_t const row = ascends ? i : steps.chunk.steps - 1 - i;
      run_step(run, steps.chunk.first_time + row, steps.kept + row * step_values,
               steps.gradients + row * step_values, scratch);
    }
  }

  void finish(BackwardRun<T> const&, Scratch const&) const {}

 private:
  bool is_after() const { return problem_.variant == Variant::kResetAfter; }

  /// Whose gradients go back through R together.
  std::int64_t gates() const { return is_after() ? 3 : 2; }

  template <Variant variant>
  void launch_cell(BackwardRun<T> const& run, BackwardStep<T> const& step) const {
    std::int64_t const H = problem_.hidden_size;
    bool const in_pairs = H % 2 == 0 && has_pairs(run.entering.h, run.entering.h_rows) &&
                          has_pairs(step.kept) && has_pairs(step.gradients) &&
                          has_pairs(step.dh, step.dh_rows);
    launch_early(in_pairs ? backward_kernel<T, variant, 2> : backward_kernel<T, variant, 1>,
                 launches_early_, run.execution.stream, problem_.batch, H / (in_pairs ? 2 : 1),
                 run.layer, run.entering, step);
  }

  void run_step(BackwardRun<T> const& run, std::int64_t t, T const* kept, T* gradients,
                Scratch const& scratch) const {
    Problem const& p = problem_;
    cudaStream_t const stream = run.execution.stream;
    std::int64_t const N = p.batch;
    std::int64_t const H = p.hidden_size;
    double const scale = recurrent_scale(p);
    BackwardStep<T> step;
    step.t = t;
    step.kept = kept;
    step.gradients = gradients;
    step.dh = run.tensors.dh;
    step.dh_rows = sequence_rows(p, p.pitch.dh, H);
    step.direct = run.direct;
    step.through_r = run.through_r;
    step.through_parts = through_parts_;
    step.dq = scratch.dq;
    step.through_reset = scratch.through_reset;
    step.bias_sums = run.bias_sums;
    if (is_after()) {
      launch_cell<Variant::kResetAfter>(run, step);
    } else {
      launch_cell<Variant::kResetBefore>(run, step);
      through_candidate_.run(run.execution, scale, scratch.dq + GateColumns::g * H,
                             run.recurrent.gates_from(GateColumns::g), 0, scratch.through_reset,
                             run.product_workspace);
      launch_elementwise(reset_backward_kernel<T>, stream, N, H, run.layer, run.entering, step);
    }
    through_gates_.run(run.execution, scale, scratch.dq, run.recurrent.data, 0, run.through_r,
                       run.product_workspace);
  }

  Problem problem_;
  bool launches_early_;
  std::int64_t through_parts_;
  Product through_gates_;      // of all gates, or of z and r (reset before)
  Product through_candidate_;  // of g (reset before)
};

template <typename T>
using StepwiseBackward = ChunkedBackward<StepwiseBackwardSteps<T>>;

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
