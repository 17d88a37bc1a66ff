// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <gru/gru.cuh>

#include "layer_data.cuh"
#include "measure.hpp"
#include "option_sets.hpp"

namespace gru::bench {

/// Who does the two passes.
struct EnginePair {
  Engine forward = Engine::kAutomatic;
  Engine backward = Engine::kAutomatic;
};

inline Problem make_problem(Shape const& shape, Precision precision, OptionSet const& set) {
  Problem p;
  p.steps = shape.steps;
  p.batch = shape.batch;
  p.input_size = shape.input_size;
  p.hidden_size = shape.hidden_size;
  p.precision = precision;
  if (set.apply != nullptr) set.apply(p);
  return p;
}

/// This library's passes over one LayerData, of the Problem's number of steps or fewer. Data and
/// options outlive it.
template <typename T>
class Layer {
 public:
  /// `options` may be null where the Problem has none.
  Layer(Execution const& execution, LayerData<T> const& data, OptionTensors const* options,
        bool full_lengths, Problem problem, EnginePair engines, Work work)
      : execution_{execution},
        data_{data},
        options_{options},
        full_lengths_{full_lengths},
        work_{work} {
    if (work != Work::kInference) problem.keep_for_backward = true;
    problem.engine = engines.forward;
    forward_.emplace(problem);
    problem.engine = engines.backward;
    if (goes_backward(work)) backward_.emplace(problem);
    memory_.workspace = std::max(forward_->workspace_bytes(),
                                 backward_ ? backward_->workspace_bytes() : std::size_t{0});
    memory_.reserve = forward_->reserve_bytes();
    workspace_.emplace(static_cast<std::int64_t>(memory_.workspace));
    reserve_.emplace(static_cast<std::int64_t>(memory_.reserve));
    if (work == Work::kBackward) run_forward();  // so that there is something to read
  }
  Layer(Layer const&) = delete;
  Layer& operator=(Layer const&) = delete;

  void enqueue() const {
    if (work_ != Work::kBackward) run_forward();
    if (backward_) run_backward();
  }

  /// Enqueues a single step, in place on the final state. For a Problem of one step.
  void enqueue_step() const {
    StepTensors<T> t;
    t.x = data_.x.data();
    t.state = data_.final_state.data();
    t.new_state = data_.final_state.data();
    t.h = data_.h.data();
    forward_->step(execution_, data_.weights(), t, workspace());
  }

  /// Throws where the last run gave up.
  void check_status() const { gru::check(workspace(), execution_.stream); }

  Memory memory() const { return memory_; }

 private:
  Reserve reserve() const {
    if (memory_.reserve == 0) return {};  // not kept
    return {reserve_->data(), reserve_->bytes()};
  }

  void run_forward() const {
    ForwardTensors<T> t;
    t.x = data_.x.data();
    t.h0 = data_.h0.data();
    set_options(t, forward_->problem());
    if (forward_->problem().host_lengths) t.host_lengths = options_->host_lengths.data();
    t.h = data_.h.data();
    t.final_state = data_.final_state.data();
    t.reserve = reserve();
    forward_->run(execution_, data_.weights(), t, workspace());
  }

  void run_backward() const {
    BackwardTensors<T> t;
    t.x = data_.x.data();
    t.h = data_.h.data();
    t.h0 = data_.h0.data();
    set_options(t, backward_->problem());
    t.dh = data_.dh.data();
    t.dfinal_state = data_.dfinal_state.data();
    bool const overwrites = backward_->problem().reserve == ReservePolicy::kOverwrite;
    if (overwrites) {
      t.overwritten_reserve = reserve();
    } else {
      t.reserve = reserve();
    }
    t.dx = data_.dx.data();
    t.dkernel = data_.dkernel.data();
    t.drecurrent_kernel = data_.drecurrent_kernel.data();
    t.dbias = data_.dbias.data();
    t.drecurrent_bias = data_.drecurrent_bias.data();
    t.dh0 = data_.dh0.data();
    backward_->run(execution_, data_.weights(), t, workspace());
  }

  template <typename Tensors>
  void set_options(Tensors& t, Problem const& p) const {
    if (options_ == nullptr) return;
    if (p.lengths) t.lengths = (full_lengths_ ? options_->full_lengths : options_->lengths).data();
    if (p.episode_starts) t.episode_starts = options_->episode_starts.data();
    bool const brings_mask = p.zoneout.rate > 0 && p.zoneout.mask == MaskSource::kCaller;
    if (p.stochastic && brings_mask) t.zoneout_mask = options_->zoneout_mask.data();
    t.random = {1, 0, nullptr};
  }

  Workspace workspace() const { return {workspace_->data(), workspace_->bytes()}; }

  Execution execution_;
  LayerData<T> const& data_;
  OptionTensors const* options_;
  bool full_lengths_;
  Work work_;
  std::optional<ForwardPass<T>> forward_;
  std::optional<BackwardPass<T>> backward_;
  Memory memory_;
  std::optional<DeviceBuffer<std::byte>> workspace_;
  std::optional<DeviceBuffer<std::byte>> reserve_;
};

/// One choice of engines for some work, and what the policy thinks of it.
struct EngineChoice {
  EnginePair engines;
  std::string name;         ///< "stepwise", or "cluster, stepwise" for forward and backward
  bool chosen = false;      ///< It is what the policy takes.
  double predicted_us = 0;  ///< 0 = no prediction
};

namespace engine_choices_detail {

inline Candidate const* runnable(Decision const& decision, Engine engine) {
  for (Candidate const& candidate : decision.candidates) {
    if (candidate.engine == engine && candidate.can_run) return &candidate;
  }
  return nullptr;
}

/// The named engine where it can run, else the one that the policy takes.
inline Candidate const& runnable_or_chosen(Decision const& decision, Engine engine) {
  Candidate const* const named = runnable(decision, engine);
  return named != nullptr ? *named : *runnable(decision, decision.engine);
}

}  // namespace engine_choices_detail

/// What the policy takes first, then, where `all` are wanted, every other engine that can run one
/// of the work's passes; the other pass is done by the policy's engine where it cannot.
template <typename T>
std::vector<EngineChoice> engine_choices(Problem problem, Work work, bool all) {
  using engine_choices_detail::runnable_or_chosen;
  std::vector<Decision> decisions;
  if (work != Work::kInference) problem.keep_for_backward = true;
  if (work != Work::kBackward) decisions.push_back(ForwardPass<T>{problem}.decision());
  if (goes_backward(work)) decisions.push_back(BackwardPass<T>{problem}.decision());

  std::vector<EngineChoice> choices;
  auto const add = [&](Engine engine) {
    EngineChoice choice;
    choice.chosen = engine == Engine::kAutomatic;
    bool predicted = true;
    for (Decision const& decision : decisions) {
      Candidate const& candidate = runnable_or_chosen(decision, engine);
      bool const is_backward = goes_backward(work) && &decision == &decisions.back();
      (is_backward ? choice.engines.backward : choice.engines.forward) = candidate.engine;
      choice.name += (choice.name.empty() ? "" : ", ") + std::string{to_string(candidate.engine)};
      choice.predicted_us += candidate.predicted_us;
      predicted = predicted && candidate.predicted_us > 0;
    }
    if (!predicted) choice.predicted_us = 0;
    bool const known = std::any_of(choices.begin(), choices.end(), [&](EngineChoice const& other) {
      return other.name == choice.name;
    });
    if (!known) choices.push_back(choice);
  };
  add(Engine::kAutomatic);
  for (Decision const& decision : decisions) {
    for (Candidate const& candidate : decision.candidates) {
      if (all && candidate.can_run) add(candidate.engine);
    }
  }
  return choices;
}

}  // namespace gru::bench
