// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <optional>
#include <type_traits>

#include "backend.hpp"

#include <gru/policy.hpp>

namespace char_model {

/// A tensor of the model as a pass in T has it: itself where T is float, else a copy. Library is a
/// backend's: its passes, their execution, and `convert(from, to, count)`.
template <typename T, typename Library>
class TensorAs {
  static constexpr bool kIsFloat = std::is_same_v<T, float>;

 public:
  TensorAs(Backend& backend, std::int64_t size)
      : size_{size}, copy_{backend, kIsFloat ? 0 : size} {}

  /// The values, rounded to T.
  T const* read(Library& library, float const* values) {
    if constexpr (kIsFloat) {
      return values;
    } else {
      library.convert(values, copy_.data(), size_);
      return copy_.data();
    }
  }

  /// Where a pass writes its result; `written` brings it to `values`.
  T* result(float* values) {
    if constexpr (kIsFloat) {
      return values;
    } else {
      return copy_.data();
    }
  }
  void written(Library& library, float* values) {
    if constexpr (!kIsFloat) library.convert(copy_.data(), values, size_);
  }

 private:
  std::int64_t size_;
  Buffer<T> copy_;
};

/// The library's passes in T behind the interface that the model uses. Host and device passes have
/// the same shape, so this is written once.
template <typename T, typename Library>
class PassesOf final : public GruPasses {
  using ForwardPass = typename Library::template ForwardPass<T>;
  using BackwardPass = typename Library::template BackwardPass<T>;
  using Tensor = TensorAs<T, Library>;

 public:
  PassesOf(Backend& backend, Library library, gru::Problem const& problem)
      : library_{std::move(library)},
        forward_{problem},
        reserve_{backend, static_cast<std::int64_t>(forward_.reserve_bytes())},
        x_{backend, problem.steps * problem.batch * problem.input_size},
        h_{backend, problem.steps * problem.batch * problem.hidden_size},
        kernel_{backend, 3 * problem.hidden_size * problem.input_size},
        recurrent_kernel_{backend, 3 * problem.hidden_size * problem.hidden_size},
        bias_{backend, 3 * problem.hidden_size},
        recurrent_bias_{backend, 3 * problem.hidden_size},
        dh_{backend, problem.steps * problem.batch * problem.hidden_size},
        dx_{backend, problem.steps * problem.batch * problem.input_size} {
    std::size_t workspace_bytes = forward_.workspace_bytes();
    if (problem.keep_for_backward) {
      backward_.emplace(make_backward(problem));
      workspace_bytes = std::max(workspace_bytes, backward_->workspace_bytes());
    }
    workspace_ = Buffer<std::byte>{backend, static_cast<std::int64_t>(workspace_bytes)};
  }

  std::string engine() const override {
    std::string const forward = gru::to_string(forward_.decision().engine);
    if (!backward_) return forward;
    return forward + " forward, " + gru::to_string(backward_->decision().engine) + " backward";
  }

  void forward(gru::Weights<float> const& weights,
               gru::ForwardTensors<float> const& given) override {
    gru::ForwardTensors<T> tensors;
    set_common(tensors, given);
    tensors.h0 = static_cast<float const*>(given.h0.data());
    tensors.lengths = given.lengths;
    tensors.h = h_.result(given.h);
    tensors.final_state = static_cast<float*>(given.final_state.data());
    if (backward_) tensors.reserve = {reserve_.data(), reserve_.bytes()};
    forward_.run(library_.execution, in_type(weights), tensors, workspace());
    h_.written(library_, given.h);
  }

  void backward(gru::Weights<float> const& weights,
                gru::BackwardTensors<float> const& given) override {
    gru::BackwardTensors<T> tensors;
    set_common(tensors, given);
    tensors.h = h_.read(library_, given.h);
    tensors.h0 = static_cast<float const*>(given.h0.data());
    tensors.lengths = given.lengths;
    tensors.reserve = {reserve_.data(), reserve_.bytes()};
    tensors.dh = dh_.read(library_, given.dh);
    tensors.dx = dx_.result(given.dx);
    tensors.dkernel = static_cast<float*>(given.dkernel.data());
    tensors.drecurrent_kernel = static_cast<float*>(given.drecurrent_kernel.data());
    tensors.dbias = static_cast<float*>(given.dbias.data());
    tensors.drecurrent_bias = static_cast<float*>(given.drecurrent_bias.data());
    backward_.value().run(library_.execution, in_type(weights), tensors, workspace());
    dx_.written(library_, given.dx);
  }

  void step(gru::Weights<float> const& weights, gru::StepTensors<float> const& given) override {
    gru::StepTensors<T> tensors;
    set_common(tensors, given);
    tensors.state = static_cast<float const*>(given.state.data());
    tensors.new_state = static_cast<float*>(given.new_state.data());
    forward_.step(library_.execution, in_type(weights), tensors, workspace());
  }

 private:
  /// By the engine that the Problem names or, where that cannot run backward, by the policy's.
  static BackwardPass make_backward(gru::Problem problem) {
    try {
      return BackwardPass{problem};
    } catch (gru::Unsupported const&) {
      problem.engine = gru::Engine::kAutomatic;
      return BackwardPass{problem};
    }
  }

  template <typename Tensors, typename Given>
  void set_common(Tensors& tensors, Given const& given) {
    tensors.x = x_.read(library_, given.x);
    tensors.episode_starts = given.episode_starts;
    tensors.random = given.random;
  }

  gru::Weights<T> in_type(gru::Weights<float> const& given) {
    gru::Weights<T> weights;
    weights.kernel = kernel_.read(library_, given.kernel);
    weights.recurrent_kernel = recurrent_kernel_.read(library_, given.recurrent_kernel);
    weights.bias = bias_.read(library_, given.bias);
    weights.recurrent_bias = recurrent_bias_.read(library_, given.recurrent_bias);
    return weights;
  }

  gru::Workspace workspace() const { return {workspace_.data(), workspace_.bytes()}; }

  Library library_;
  ForwardPass forward_;
  std::optional<BackwardPass> backward_;
  Buffer<std::byte> reserve_;
  Buffer<std::byte> workspace_;
  Tensor x_, h_, kernel_, recurrent_kernel_, bias_, recurrent_bias_, dh_, dx_;
};

/// The passes of a Library whose 16-bit types are Half and Bfloat16.
template <typename Half, typename Bfloat16, typename Library>
std::unique_ptr<GruPasses> make_passes(Backend& backend, Library const& library,
                                       gru::Problem const& problem, DataType type) {
  switch (type) {
    case DataType::kHalf:
      return std::make_unique<PassesOf<Half, Library>>(backend, library, problem);
    case DataType::kBfloat16:
      return std::make_unique<PassesOf<Bfloat16, Library>>(backend, library, problem);
    case DataType::kFloat:
      break;
  }
  return std::make_unique<PassesOf<float, Library>>(backend, library, problem);
}

}  // namespace char_model
