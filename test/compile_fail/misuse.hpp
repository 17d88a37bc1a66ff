// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Right uses of the passes in namespace MISUSE_PASSES, each of which a macro turns into a wrong
/// one. Without a macro all of it compiles, so that what fails with one fails for its reason alone.

#if defined(GRU_MISUSE_FORWARD_OF_INT)
using ForwardType = int;
#elif defined(GRU_MISUSE_FORWARD_OF_CONST)
using ForwardType = float const;
#else
using ForwardType = float;
#endif

#if defined(GRU_MISUSE_BACKWARD_OF_INT)
using BackwardType = int;
#else
using BackwardType = float;
#endif

#if defined(GRU_MISUSE_TENSORS_OF_ANOTHER_TYPE)
using TensorType = double;
#else
using TensorType = float;
#endif

#if defined(GRU_MISUSE_WEIGHTS_OF_ANOTHER_TYPE)
using WeightType = double;
#else
using WeightType = float;
#endif

#if defined(GRU_MISUSE_CONST_OUTPUT)
using OutputType = float const;
#else
using OutputType = float;
#endif

#if defined(GRU_MISUSE_CONST_STATE_OUTPUT)
using StateOutputType = float const;
#else
using StateOutputType = float;
#endif

#if defined(GRU_MISUSE_STATE_OF_THIRD_TYPE)
using StateType = double;
#else
using StateType = float;
#endif

#if defined(GRU_MISUSE_CONST_RESERVE_OF_FORWARD)
using ReserveType = gru::ConstReserve;
#else
using ReserveType = gru::Reserve;
#endif

#if defined(GRU_MISUSE_FORWARD_TENSORS_OF_BACKWARD)
using BackwardArguments = gru::ForwardTensors<float>;
#else
using BackwardArguments = gru::BackwardTensors<float>;
#endif

inline void use(gru::Problem const& problem, MISUSE_PASSES::Execution const& execution,
                gru::Workspace workspace, OutputType* output, StateOutputType* state_output,
                StateType* state, ReserveType reserve) {
#if defined(GRU_MISUSE_PASS_WITHOUT_PROBLEM)
  MISUSE_PASSES::ForwardPass<ForwardType> const forward;
#elif defined(GRU_MISUSE_IMPLICIT_PASS)
  MISUSE_PASSES::ForwardPass<ForwardType> const forward = problem;
#else
  MISUSE_PASSES::ForwardPass<ForwardType> const forward{problem};
#endif
  MISUSE_PASSES::BackwardPass<BackwardType> const backward{problem};

  gru::Weights<WeightType> const weights{};
  gru::ForwardTensors<TensorType> tensors;
  gru::StepTensors<float> step;
  gru::ForwardTensors<float> outputs;
  outputs.h = output;
  outputs.final_state = state_output;
  outputs.h0 = state;
  outputs.reserve = reserve;
#if defined(GRU_MISUSE_RUN_WITHOUT_WORKSPACE)
  forward.run(execution, weights, tensors);
#elif defined(GRU_MISUSE_RUN_WITHOUT_TENSORS)
  forward.run(execution, weights, workspace);
#else
  forward.run(execution, weights, tensors, workspace);
#endif
  backward.run(execution, gru::Weights<float>{}, BackwardArguments{}, workspace);
#if defined(GRU_MISUSE_STEP_OF_BACKWARD)
  backward.step(execution, gru::Weights<float>{}, step, workspace);
#else
  forward.step(execution, gru::Weights<float>{}, step, workspace);
#endif
}
