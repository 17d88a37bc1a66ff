// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gru/tensors.hpp>

#include "launch.hpp"

/// What the launchers of host and device share: from untyped pointers to a pass that runs. `Pass`
/// is the engine's ForwardPass<T> or BackwardPass<T> , `Execution` what its run() takes.
namespace gru::adapter::detail {

template <typename T>
gru::Weights<T> typed(Weights const& weights) {
  return {static_cast<T const*>(weights.kernel), static_cast<T const*>(weights.recurrent_kernel),
          static_cast<T const*>(weights.bias), static_cast<T const*>(weights.recurrent_bias)};
}

/// h0, the final state and their gradients are T or float, as the Problem says.
template <typename T>
OrFloat<T const> typed_state(Problem const& p, void const* data) {
  if (p.state_type == StateType::kFloat) return static_cast<float const*>(data);
  return static_cast<T const*>(data);
}
template <typename T>
OrFloat<T> typed_state(Problem const& p, void* data) {
  if (p.state_type == StateType::kFloat) return static_cast<float*>(data);
  return static_cast<T*>(data);
}

/// Weight and bias gradients are T or float, as the Problem says.
template <typename T>
OrFloat<T> typed_gradient(Problem const& p, void* data) {
  if (p.weight_gradient_type == WeightGradientType::kFloat) return static_cast<float*>(data);
  return static_cast<T*>(data);
}

template <typename T, typename Tensors>
Tensors typed_inputs(Problem const& p, Inputs const& inputs) {
  Tensors t;
  t.x = static_cast<T const*>(inputs.x);
  t.h0 = typed_state<T>(p, inputs.h0);
  t.lengths = inputs.lengths;
  t.episode_starts = inputs.episode_starts;
  t.random = inputs.random;
  return t;
}

template <typename Pass>
Workspace workspace_for(Pass const& pass, Allocate const& allocate) {
  std::size_t const bytes = pass.workspace_bytes();
  return {bytes == 0 ? nullptr : allocate(bytes), bytes};
}

template <typename T, typename Pass, typename Execution>
void run_forward(Pass const& pass, Weights const& weights, Inputs const& inputs,
                 ForwardOutputs const& outputs, Execution const& execution,
                 Allocate const& allocate) {
  Problem const& problem = pass.problem();
  auto tensors = typed_inputs<T, ForwardTensors<T>>(problem, inputs);
  tensors.host_lengths = inputs.host_lengths;
  tensors.h = static_cast<T*>(outputs.h);
  tensors.final_state = typed_state<T>(problem, outputs.final_state);
  tensors.reserve = {outputs.reserve, pass.reserve_bytes()};
  pass.run(execution, typed<T>(weights), tensors, workspace_for(pass, allocate));
}

template <typename T, typename Pass, typename Execution>
void run_backward(Pass const& pass, Weights const& weights, Inputs const& inputs,
                  BackwardInputs const& incoming, Gradients const& gradients,
                  Execution const& execution, Allocate const& allocate) {
  Problem const& problem = pass.problem();
  auto tensors = typed_inputs<T, BackwardTensors<T>>(problem, inputs);
  tensors.h = static_cast<T const*>(incoming.h);
  tensors.dh = static_cast<T const*>(incoming.dh);
  tensors.dfinal_state = typed_state<T>(problem, incoming.dfinal_state);
  tensors.reserve = {incoming.reserve, pass.reserve_bytes()};
  tensors.dx = static_cast<T*>(gradients.dx);
  tensors.dkernel = typed_gradient<T>(problem, gradients.dkernel);
  tensors.drecurrent_kernel = typed_gradient<T>(problem, gradients.drecurrent_kernel);
  tensors.dbias = typed_gradient<T>(problem, gradients.dbias);
  tensors.drecurrent_bias = typed_gradient<T>(problem, gradients.drecurrent_bias);
  tensors.dh0 = typed_state<T>(problem, gradients.dh0);
  pass.run(execution, typed<T>(weights), tensors, workspace_for(pass, allocate));
}

}  // namespace gru::adapter::detail
