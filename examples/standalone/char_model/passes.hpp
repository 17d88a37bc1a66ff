// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <optional>

#include "backend.hpp"

#include <gru/policy.hpp>

namespace char_model {

/// The library's passes behind the interface that the model uses. Host and device passes have the
/// same shape, so this is written once.
template <typename ForwardPass, typename BackwardPass, typename Execution>
class PassesOf final : public GruPasses {
 public:
  PassesOf(Backend& backend, Execution execution, gru::Problem const& problem)
      : execution_{std::move(execution)},
        forward_{problem},
        reserve_{backend, static_cast<std::int64_t>(forward_.reserve_bytes())} {
    std::size_t workspace_bytes = forward_.workspace_bytes();
    if (problem.keep_for_backward) {
      backward_.emplace(problem);
      workspace_bytes = std::max(workspace_bytes, backward_->workspace_bytes());
    }
    workspace_ = Buffer<std::byte>{backend, static_cast<std::int64_t>(workspace_bytes)};
  }

  std::string engine() const override { return gru::to_string(forward_.decision().engine); }

  void forward(gru::Weights<float> const& weights, gru::ForwardTensors<float> tensors) override {
    if (backward_) tensors.reserve = {reserve_.data(), reserve_.bytes()};
    forward_.run(execution_, weights, tensors, workspace());
  }

  void backward(gru::Weights<float> const& weights, gru::BackwardTensors<float> tensors) override {
    tensors.reserve = {reserve_.data(), reserve_.bytes()};
    backward_.value().run(execution_, weights, tensors, workspace());
  }

  void step(gru::Weights<float> const& weights, gru::StepTensors<float> const& tensors) override {
    forward_.step(execution_, weights, tensors, workspace());
  }

 private:
  gru::Workspace workspace() const { return {workspace_.data(), workspace_.bytes()}; }

  Execution execution_;
  ForwardPass forward_;
  std::optional<BackwardPass> backward_;
  Buffer<std::byte> reserve_;
  Buffer<std::byte> workspace_;
};

}  // namespace char_model
