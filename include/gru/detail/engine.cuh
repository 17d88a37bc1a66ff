// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gru/detail/chunks.hpp>
#include <gru/detail/device.cuh>
#include <gru/detail/device_namespace.cuh>
#include <gru/detail/sequence.hpp>
#include <gru/execution.hpp>
#include <gru/policy.hpp>
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
  /// What cutting the steps into chunks is predicted to cost: nothing that was noticed.
  double chunking_us() const { return 0; }
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
  /// What cutting the steps into chunks is predicted to cost.
  virtual double chunking_us() const = 0;
  virtual void run(Execution const& execution, Weights<T> const& weights,
                   BackwardTensors<T> const& tensors, Schedule const& schedule, Masks const& masks,
                   Workspace workspace) const = 0;
};

/// Why a recurrence in one kernel can run: where its weights are, and what the build lacks.
template <typename Recurrence>
std::string why_it_runs(Recurrence const& recurrence, DeviceFacts const& facts) {
  std::string reason = "R stays on the chip";
  if constexpr (Recurrence::kEngine == Engine::kGrid) {
    if (recurrence.streams()) reason = "R is on the chip in part, and read from the L2 cache";
    if (facts.lacks_sm_90a_code())
      reason += "; code for sm_90a would be faster than this for sm_90";
  }
  return reason;
}

/// Makes the engines of the candidates that can run, and keeps the one that is chosen. Interface is
/// ForwardEngine or BackwardEngine.
template <typename Interface>
class EngineMaker {
 public:
  EngineMaker(Problem const& problem, DeviceFacts const& facts)
      : problem_{problem}, facts_{facts} {}

  /// Makes the candidate's engine, and enters its workspace. One whose least workspace is above the
  /// Problem's limit cannot run.
  template <typename Made>
  void make(Candidate& candidate) {
    if (!candidate.can_run) return;
    try {
      auto engine = std::make_shared<Made const>(problem_, facts_);
      candidate.workspace_bytes = engine->workspace_bytes();
      if (candidate.predicted_us > 0) candidate.predicted_us += engine->chunking_us();
      engines_.emplace_back(candidate.engine, std::move(engine));
    } catch (LimitTooSmall const& error) {
      candidate.can_run = false;
      candidate.reason = error.what();
      if (problem_.engine != Engine::kAutomatic && problem_.engine != candidate.engine) return;
      if (!too_large_ || error.least_bytes < too_large_->least_bytes) too_large_ = error;
    }
  }

  /// Decides, and hands out the chosen engine. Where nothing but the workspace limit is in the way,
  /// throws what the engine that needs least says of it.
  Decision decide(std::vector<Candidate> candidates, std::shared_ptr<Interface const>& chosen) {
    bool has_eligible = false;
    for (auto const& [name, engine] : engines_) {
      has_eligible |= problem_.engine == Engine::kAutomatic || problem_.engine == name;
    }
    if (!has_eligible && too_large_) throw *too_large_;
    Decision const decision = detail::decide(problem_, std::move(candidates));
    for (auto const& [name, engine] : engines_) {
      if (name == decision.engine) chosen = engine;
    }
    return decision;
  }

 private:
  Problem const& problem_;
  DeviceFacts const& facts_;
  std::vector<std::pair<Engine, std::shared_ptr<Interface const>>> engines_;
  std::optional<LimitTooSmall> too_large_;
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
