// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include <gru/detail/device_namespace.cuh>
#include <gru/detail/sequence.hpp>
#include <gru/execution.hpp>
#include <gru/problem.hpp>
#include <gru/tensors.hpp>

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

/// One way of computing the forward pass of a Problem. Immutable; `run` is re-entrant, enqueues all
/// of its work on the execution's stream, and neither synchronizes, allocates nor reads back.
template <typename T>
class ForwardEngine {
 public:
  virtual ~ForwardEngine() = default;
  virtual std::size_t workspace_bytes() const = 0;
  /// Arguments are checked already.
  virtual void run(Execution const& execution, Weights<T> const& weights,
                   ForwardTensors<T> const& tensors, Schedule const& schedule, Masks const& masks,
                   Workspace workspace) const = 0;
};

/// One way of computing the backward pass of a Problem; as ForwardEngine.
template <typename T>
class BackwardEngine {
 public:
  virtual ~BackwardEngine() = default;
  virtual std::size_t workspace_bytes() const = 0;
  virtual void run(Execution const& execution, Weights<T> const& weights,
                   BackwardTensors<T> const& tensors, Schedule const& schedule, Masks const& masks,
                   Workspace workspace) const = 0;
};

/// The schedule of a run over whole sequences; Tensors is ForwardTensors or BackwardTensors.
template <typename Tensors>
Schedule make_schedule(Problem const& p, Tensors const& tensors) {
  Schedule schedule;
  schedule.steps = p.steps;
  schedule.reverse = p.direction == Direction::kReverse;
  schedule.lengths = tensors.lengths;
  schedule.starts = tensors.episode_starts;
  schedule.start_rows = sequence_rows(p, p.pitch.episode_starts, 1);
  return schedule;
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
