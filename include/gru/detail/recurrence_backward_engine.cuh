// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <gru/detail/chunked_backward.cuh>
#include <gru/detail/cost_model.hpp>
#include <gru/detail/device_policy.cuh>
#include <gru/detail/recurrence_backward.cuh>
#include <gru/detail/step_flags.cuh>
#include <gru/policy.hpp>

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// Backward's steps in one kernel a chunk; see ChunkedBackward. Where an option asks for them, the
/// flags of the steps are made before it.
///
/// Recurrence is one way of doing the steps, a class with
///     using Value = T;
///     BackwardRecurrence(Problem const&, DeviceFacts const&);  throws only where CUDA fails
///     static constexpr Engine kEngine;
///     static constexpr int kLeastComputeCapability;            90 for 9.0
///     std::string const& obstacle() const;                     why it cannot run, or empty
///     double step_us() const;                                  predicted, of the steps alone
///     bool drains_tiles() const;                               whether sorted rows spare it tiles
///     int groups() const;                                      of blocks, of a launch
///     int blocks() const;                                      of a launch, one a multiprocessor
///     void lay_out(Carver&, Scratch&) const;                   carves what it needs
///     struct Scratch;                                          pointers to it
///     void prepare(cudaStream_t, LayerView<T> const&, T const* recurrent_kernel,
///                  Scratch const&) const;                      enqueues what a run needs once
///     void run(cudaStream_t, RecurrentBackward<T> const&, Scratch const&,
///              cudaEvent_t started) const;                     records it, unless null, once all
///                                                              blocks have begun
template <typename Recurrence>
class PersistentBackwardSteps {
  using T = typename Recurrence::Value;

 public:
  using Value = T;

  struct Scratch {
    T* dq = nullptr;                // [N, 3H]
    std::uint8_t* flags = nullptr;  // [chunk, N, pitch] see step_flags
    RowOrder row_order;
    typename Recurrence::Scratch recurrence;
  };

  PersistentBackwardSteps(Problem const& p, DeviceFacts const& facts)
      : problem_{p}, recurrence_{p, facts} {}

  void plan(DeviceFacts const& facts, std::size_t most_workspace) {
    // Reset before: what goes back through R_g stays in its step.
    std::int64_t const gates = problem_.variant == Variant::kResetAfter ? 3 : 2;
    through_r_ = state_gradient_product<T>(problem_, gates, 1, facts, most_workspace);
  }

  std::int64_t through_parts() const { return 1; }

  std::size_t product_workspace_bytes() const { return through_r_.workspace_bytes(); }

  OverlapCosts overlap_costs(DeviceFacts const& facts) const {
    OverlapCosts costs;
    costs.step_us =
        recurrence_.step_us() + predict_many_rows<T>(problem_, Recurrence::kEngine, true);
    costs.input_us = predict_gradient_products<T>(problem_);
    int const idle = std::max(0, facts.multiprocessors - recurrence_.blocks());
    if (problem_.overlap_products) costs.idle = double(idle) / facts.multiprocessors;
    return costs;
  }

  void lay_out(Carver& carver, std::int64_t chunk_steps, Scratch& scratch) const {
    std::int64_t const N = problem_.batch;
    std::int64_t const H = problem_.hidden_size;
    scratch.dq = carver.take<T>(3 * N * H);
    scratch.flags = carver.take<std::uint8_t>(chunk_steps * N * step_flags::pitch(H));
    if (sorts_rows()) scratch.row_order.lay_out(carver, N);
    recurrence_.lay_out(carver, scratch.recurrence);
  }

  void start(BackwardRun<T> const& run, Scratch const& scratch) const {
    cudaStream_t const stream = run.execution.stream;
    std::size_t const bytes =
        static_cast<std::size_t>(3 * problem_.batch * problem_.hidden_size) * sizeof(T);
    GRU_CUDA_TRY(cudaMemsetAsync(scratch.dq, 0, bytes, stream));
    if (sorts_rows()) {
      launch_sort_rows(stream, run.layer, scratch.row_order, recurrence_.groups());
    }
    recurrence_.prepare(stream, run.layer, run.weights.recurrent_kernel, scratch.recurrence);
  }

  void run(BackwardRun<T> const& run, BackwardSteps<T> const& steps, Scratch const& scratch,
           cudaEvent_t started) const {
    Problem const& p = problem_;
    RecurrentBackward<T> pass = make_pass(run, steps, scratch);
    if (needs_flags(run.layer.schedule, run.layer.masks)) {
      launch_step_flags(run.execution.stream, run.layer, Pass::kBackward, steps.chunk.first_time,
                        pass.steps, scratch.flags);
      pass.flags = scratch.flags;
      pass.flags_pitch = step_flags::pitch(p.hidden_size);
    }
    if (sorts_rows()) {
      pass.deal.order = scratch.row_order.order;
      pass.deal.length = scratch.row_order.length;
      std::int64_t const width = 4 * p.hidden_size;
      launch_clear_past_lengths(run.execution.stream, run.layer, pass.first_time, pass.steps,
                                pass.gradients, dense_rows(p.batch, width), width);
    }
    pass.derive();
    recurrence_.run(run.execution.stream, pass, scratch.recurrence, started);
  }

  /// What is carried through R past the first step.
  void finish(BackwardRun<T> const& run, Scratch const& scratch) const {
    if (!run.tensors.dh0) return;
    through_r_.run(run.execution, recurrent_scale(problem_), scratch.dq, run.recurrent.data, 0,
                   run.through_r, run.product_workspace);
  }

 private:
  bool sorts_rows() const { return problem_.lengths && recurrence_.drains_tiles(); }

  RecurrentBackward<T> make_pass(BackwardRun<T> const& run, BackwardSteps<T> const& steps,
                                 Scratch const& scratch) const {
    Problem const& p = problem_;
    LayerView<T> const& layer = run.layer;
    Masks const& masks = layer.masks;
    std::int64_t const H = p.hidden_size;
    RecurrentBackward<T> pass;
    pass.batch = static_cast<int>(p.batch);
    pass.hidden = static_cast<int>(H);
    pass.columns = layer.columns;
    double const dropout = masks.recurrent_dropout.on ? masks.recurrent_dropout.scale : 1;
    pass.through_scale = static_cast<float>(recurrent_scale(p) * dropout);
    pass.has_zoneout = masks.has_zoneout();
    if (masks.zoneout_expected) pass.new_weight = static_cast<float>(masks.zoneout.keep);
    pass.first_time = steps.chunk.first_time;
    pass.steps = static_cast<int>(steps.chunk.steps);
    pass.reverse = layer.schedule.reverse;
    pass.kept = steps.kept;
    pass.entering = steps.entering;
    pass.dh_rows = sequence_rows(p, p.pitch.dh, H);
    if (run.tensors.dh != nullptr) {
      pass.dh = run.tensors.dh + pass.dh_rows.at(steps.chunk.first_time, 0);
    }
    pass.gradients = steps.gradients;
    bool const even = H % 2 == 0;
    pass.wide_gradients = even && has_pairs(steps.gradients);
    pass.wide_inputs =
        even && has_pairs(steps.kept) && (pass.dh == nullptr || has_pairs(pass.dh, pass.dh_rows));
    pass.direct = run.direct;
    pass.dq = scratch.dq;
    pass.bias_sums = run.bias_sums;
    pass.status = run.status;
    pass.most_polls = run.execution.most_polls;
    return pass;
  }

  Problem problem_;
  Recurrence recurrence_;
  Product through_r_;
};

/// An engine of persistent kernels as a candidate. Throws only where CUDA fails.
template <typename Recurrence>
Candidate backward_recurrence_candidate(Problem const& p, DeviceFacts const& facts) {
  using T = typename Recurrence::Value;
  Candidate candidate;
  candidate.engine = Recurrence::kEngine;
  candidate.reason = lacking_code(facts, Recurrence::kLeastComputeCapability);
  if (!candidate.reason.empty()) return candidate;
  if (p.steps > std::numeric_limits<std::int32_t>::max() / 2) {
    candidate.reason = "counts steps in 32 bits";
  } else {
    Recurrence const recurrence{p, facts};
    candidate.can_run = recurrence.obstacle().empty();
    candidate.reason = candidate.can_run ? why_it_runs(recurrence, facts) : recurrence.obstacle();
    if (candidate.can_run) {
      OverlapCosts const costs = PersistentBackwardSteps<Recurrence>{p, facts}.overlap_costs(facts);
      candidate.predicted_us = kBackwardFrameUs +
                               predict_recurrence_start<T>(p, Recurrence::kEngine) +
                               predict_overlap(cut_for_overlap(p.steps, p.steps, costs), costs);
      if constexpr (Recurrence::kEngine == Engine::kGrid) {
        candidate.predicted_us += predict_backward_exchange(p);
      }
    }
  }
  return candidate;
}

/// Adds the engine of a Recurrence to the candidates and, where it can run, to the engines.
template <typename Recurrence>
void consider_backward_recurrence(EngineMaker<BackwardEngine<typename Recurrence::Value>>& engines,
                                  std::vector<Candidate>& candidates, Problem const& p,
                                  DeviceFacts const& facts) {
  Candidate candidate = backward_recurrence_candidate<Recurrence>(p, facts);
  engines.template make<ChunkedBackward<PersistentBackwardSteps<Recurrence>>>(candidate);
  candidates.push_back(std::move(candidate));
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
