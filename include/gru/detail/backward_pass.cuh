// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <gru/backward.cuh>
#include <gru/detail/check_tensors.hpp>
#include <gru/detail/cluster_backward.cuh>
#include <gru/detail/cost_model.hpp>
#include <gru/detail/device_policy.cuh>
#include <gru/detail/fma_backward.cuh>
#include <gru/detail/grid_backward.cuh>
#include <gru/detail/stepwise_backward.cuh>

namespace gru {
inline namespace GRU_DEVICE_NAMESPACE {

template <typename T>
BackwardPass<T>::BackwardPass(Problem const& problem) : problem_{problem} {
  validate(problem_);
  detail::check_types<T>(problem_);
  detail::check_keeps_for_backward(problem_);
  detail::DeviceFacts const& facts = detail::current_device_facts();
  device_ = facts.device;
  double const stepwise_us = detail::predict_stepwise<T>(problem_, true);
  Candidate stepwise = detail::stepwise_candidate(facts, stepwise_us);
  std::vector<Candidate> candidates;
  using Engines = detail::EngineMaker<detail::BackwardEngine<T>>;
  Engines engines{problem_, facts};
  engines.template make<detail::StepwiseBackward<T>>(stepwise);
  candidates.push_back(stepwise);
  if constexpr (!std::is_same_v<T, double>) {
    detail::consider_backward_recurrence<detail::ClusterBackwardRecurrence<T>>(engines, candidates,
                                                                               problem_, facts);
    detail::consider_backward_recurrence<detail::GridBackwardRecurrence<T>>(engines, candidates,
                                                                            problem_, facts);
    detail::consider_backward_recurrence<detail::FmaClusterBackwardRecurrence<T>>(
        engines, candidates, problem_, facts);
    detail::consider_backward_recurrence<detail::FmaGridBackwardRecurrence<T>>(engines, candidates,
                                                                               problem_, facts);
  }
  candidates.push_back(detail::host_candidate_on_device());
  decision_ = engines.decide(std::move(candidates), engine_);
}

template <typename T>
void BackwardPass<T>::run(Execution const& execution, Weights<T> const& weights,
                          BackwardTensors<T> const& tensors, Workspace workspace) const {
  detail::check_execution(execution, device_);
  detail::check_weights(problem_, weights);
  detail::check_tensors(problem_, tensors);
  detail::check_workspace(workspace, workspace_bytes());
  engine_->run(execution, weights, tensors, detail::make_schedule(problem_, tensors),
               detail::make_masks(problem_, tensors), workspace);
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru
