// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <type_traits>

#include <Eigen/Core>

#include <gru/detail/check_tensors.hpp>
#include <gru/detail/chunks.hpp>
#include <gru/detail/sequence.hpp>
#include <gru/error.hpp>
#include <gru/host/backward.hpp>
#include <gru/host/execution.hpp>
#include <gru/host/forward.hpp>
#include <gru/host/thread_pool.hpp>
#include <gru/policy.hpp>
#include <gru/problem.hpp>
#include <gru/tensors.hpp>

/// The GRU on the CPU: the descriptors, formulas and random bits of the device passes, with host
/// pointers, matrix products from Eigen and the vector instructions that it wraps. No CUDA header
/// is read.
///
/// A run allocates nothing but the buffers into which Eigen packs blocks of the operands of
/// products over whole chunks. Precision::kTf32 is taken as kFp32: products of float are always
/// float's own. Speed depends on the instruction set that the including program is compiled for
/// (-march=native or the like); as with Eigen, all its translation units must be compiled for the
/// same.
namespace gru::host {

/// Whether the passes exist for T.
template <typename T>
inline constexpr bool is_supported_type =
    std::is_same_v<T, float> || std::is_same_v<T, double> || std::is_same_v<T, Eigen::half> ||
    std::is_same_v<T, Eigen::bfloat16>;

/// Forward over a Problem, on the CPU.
///
/// Two runs with the same inputs give the same bits, whatever the number of threads. A pass holds
/// no buffers and can run in several threads at once, each with its own workspace.
template <typename T>
class ForwardPass {
  static_assert(
      is_supported_type<T>,
      "gru::host::ForwardPass<T>: T must be float, double, Eigen::half or Eigen::bfloat16");

 public:
  /// Validates the Problem and sizes the workspace. Throws InvalidArgument, or Unsupported where
  /// the Problem asks for an engine of the device.
  explicit ForwardPass(Problem const& problem);

  Problem const& problem() const { return problem_; }
  Decision const& decision() const { return decision_; }
  std::size_t workspace_bytes() const { return decision_.workspace_bytes; }
  std::size_t reserve_bytes() const {
    return static_cast<std::size_t>(reserve_values(problem_)) * sizeof(T);
  }

  /// Computes h, and the final state and the reserve where wanted; returns when that is done.
  /// Throws InvalidArgument, before anything is written, where the pointers do not fit the Problem.
  void run(Execution const& execution, Weights<T> const& weights, ForwardTensors<T> const& tensors,
           Workspace workspace) const;

  /// Computes one step of a sequence that arrives step by step; the Problem has one step, and its
  /// direction is not regarded. The new state may be written over the old one.
  void step(Execution const& execution, Weights<T> const& weights, StepTensors<T> const& tensors,
            Workspace workspace) const;

 private:
  Problem problem_;
  gru::detail::Chunks chunks_;
  Decision decision_;
};

/// Backward over a Problem, on the CPU. The Problem is forward's, with keep_for_backward set.
///
/// Reruns and threads as for ForwardPass.
template <typename T>
class BackwardPass {
  static_assert(
      is_supported_type<T>,
      "gru::host::BackwardPass<T>: T must be float, double, Eigen::half or Eigen::bfloat16");

 public:
  /// As ForwardPass's; throws InvalidArgument too where the Problem does not keep for backward.
  explicit BackwardPass(Problem const& problem);

  Problem const& problem() const { return problem_; }
  Decision const& decision() const { return decision_; }
  std::size_t workspace_bytes() const { return decision_.workspace_bytes; }
  std::size_t reserve_bytes() const {
    return static_cast<std::size_t>(reserve_values(problem_)) * sizeof(T);
  }

  /// Computes the gradients that are not null, each overwritten or added to as
  /// Problem::accumulate says; returns when that is done. Throws InvalidArgument, before anything
  /// is written, where the pointers do not fit the Problem.
  void run(Execution const& execution, Weights<T> const& weights, BackwardTensors<T> const& tensors,
           Workspace workspace) const;

 private:
  Problem problem_;
  gru::detail::Chunks chunks_;
  Decision decision_;
};

}  // namespace gru::host

namespace gru::detail::host {

/// The host's policy: one engine.
inline Decision decide_on_host(Problem const& p, std::size_t workspace_bytes) {
  Candidate stepwise;
  stepwise.engine = Engine::kStepwise;
  stepwise.reason = "runs on a GPU, in gru::ForwardPass and gru::BackwardPass";
  Candidate host;
  host.engine = Engine::kHost;
  host.can_run = true;
  host.reason = "computes every option on the CPU";
  host.workspace_bytes = workspace_bytes;
  return decide(p, {stepwise, host});
}

}  // namespace gru::detail::host

namespace gru::host {

template <typename T>
ForwardPass<T>::ForwardPass(Problem const& problem) : problem_{problem} {
  validate(problem);
  gru::detail::check_types<T>(problem);
  chunks_ = gru::detail::host::forward_chunks<T>(problem);
  decision_ = gru::detail::host::decide_on_host(
      problem, gru::detail::host::forward_workspace_bytes<T>(problem, chunks_));
}

template <typename T>
void ForwardPass<T>::run(Execution const& execution, Weights<T> const& weights,
                         ForwardTensors<T> const& tensors, Workspace workspace) const {
  gru::detail::check_weights(problem_, weights);
  gru::detail::check_tensors(problem_, tensors);
  gru::detail::check_workspace(workspace, workspace_bytes());
  gru::detail::host::ForwardArguments<T> arguments;
  arguments.x = tensors.x;
  arguments.h0 = tensors.h0;
  arguments.schedule = gru::detail::make_schedule(problem_, tensors);
  arguments.masks = gru::detail::make_masks(problem_, tensors);
  arguments.h = tensors.h;
  arguments.final_state = tensors.final_state;
  arguments.reserve = static_cast<T*>(tensors.reserve.data);
  gru::detail::host::run_forward(problem_, chunks_, execution, weights, arguments, workspace);
}

template <typename T>
void ForwardPass<T>::step(Execution const& execution, Weights<T> const& weights,
                          StepTensors<T> const& tensors, Workspace workspace) const {
  gru::detail::check_weights(problem_, weights);
  gru::detail::check_tensors(problem_, tensors);
  gru::detail::check_workspace(workspace, workspace_bytes());
  gru::detail::host::ForwardArguments<T> arguments;
  arguments.x = tensors.x;
  arguments.h0 = tensors.state;
  arguments.schedule.steps = 1;
  arguments.schedule.starts = tensors.episode_starts;
  arguments.schedule.start_rows =
      gru::detail::sequence_rows(problem_, problem_.pitch.episode_starts, 1);
  arguments.masks = gru::detail::make_masks(problem_, tensors);
  arguments.masks.first_time = tensors.time;
  arguments.h = tensors.h;
  arguments.final_state = tensors.new_state;
  gru::detail::host::run_forward(problem_, chunks_, execution, weights, arguments, workspace);
}

template <typename T>
BackwardPass<T>::BackwardPass(Problem const& problem) : problem_{problem} {
  validate(problem);
  gru::detail::check_types<T>(problem);
  gru::detail::check_keeps_for_backward(problem);
  chunks_ = gru::detail::host::backward_chunks<T>(problem);
  decision_ = gru::detail::host::decide_on_host(
      problem, gru::detail::host::backward_workspace_bytes<T>(problem, chunks_));
}

template <typename T>
void BackwardPass<T>::run(Execution const& execution, Weights<T> const& weights,
                          BackwardTensors<T> const& tensors, Workspace workspace) const {
  gru::detail::check_weights(problem_, weights);
  gru::detail::check_tensors(problem_, tensors);
  gru::detail::check_workspace(workspace, workspace_bytes());
  gru::detail::host::run_backward(problem_, chunks_, execution, weights, tensors, workspace);
}

}  // namespace gru::host
