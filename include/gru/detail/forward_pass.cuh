// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include <gru/detail/check_tensors.hpp>
#include <gru/detail/cluster_forward.cuh>
#include <gru/detail/cost_model.hpp>
#include <gru/detail/device_policy.cuh>
#include <gru/detail/fma_forward.cuh>
#include <gru/detail/grid_forward.cuh>
#include <gru/detail/stepwise_forward.cuh>
#include <gru/forward.cuh>

namespace gru {
inline namespace GRU_DEVICE_NAMESPACE {

template <typename T>
ForwardPass<T>::ForwardPass(Problem const& problem) : problem_{problem} {
  validate(problem_);
  detail::check_types<T>(problem_);
  detail::DeviceFacts const& facts = detail::current_device_facts();
  device_ = facts.device;
  double const stepwise_us = detail::predict_stepwise<T>(problem_, false);
  Candidate stepwise = detail::stepwise_candidate(facts, stepwise_us);
  std::vector<Candidate> candidates;
  using Engines = detail::EngineMaker<detail::ForwardEngine<T>>;
  Engines engines{problem_, facts};
  engines.template make<detail::StepwiseForward<T>>(stepwise);
  candidates.push_back(stepwise);
  if constexpr (!std::is_same_v<T, double>) {
    detail::consider_recurrence<detail::ClusterRecurrence<T>>(engines, candidates, problem_, facts);
    detail::consider_recurrence<detail::GridRecurrence<T>>(engines, candidates, problem_, facts);
    detail::consider_recurrence<detail::FmaClusterRecurrence<T>>(engines, candidates, problem_,
                                                                 facts);
    detail::consider_recurrence<detail::FmaGridRecurrence<T>>(engines, candidates, problem_, facts);
  }
  candidates.push_back(detail::host_candidate_on_device());
  decision_ = engines.decide(std::move(candidates), engine_);
}

template <typename T>
void ForwardPass<T>::run(Execution const& execution, Weights<T> const& weights,
                         ForwardTensors<T> const& tensors, Workspace workspace) const {
  detail::check_execution(execution, device_);
  detail::check_weights(problem_, weights);
  detail::check_tensors(problem_, tensors);
  detail::check_workspace(workspace, workspace_bytes());
  engine_->run(execution, weights, tensors, detail::make_schedule(problem_, tensors),
               detail::make_masks(problem_, tensors), workspace);
}

template <typename T>
void ForwardPass<T>::step(Execution const& execution, Weights<T> const& weights,
                          StepTensors<T> const& tensors, Workspace workspace) const {
  detail::check_execution(execution, device_);
  detail::check_weights(problem_, weights);
  detail::check_tensors(problem_, tensors);
  detail::check_workspace(workspace, workspace_bytes());
  ForwardTensors<T> sequence;
  sequence.x = tensors.x;
  sequence.h0 = tensors.state;
  sequence.h = tensors.h;
  sequence.final_state = tensors.new_state;
  // The boundary clears the state that enters this step, whichever way the steps run.
  detail::Schedule schedule;
  schedule.steps = 1;
  schedule.starts = tensors.episode_starts;
  schedule.start_rows = {0, detail::pitch_or(problem_.pitch.episode_starts, 1)};
  detail::Masks masks = detail::make_masks(problem_, tensors);
  masks.first_time = tensors.time;
  engine_->run(execution, weights, sequence, schedule, masks, workspace);
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru
