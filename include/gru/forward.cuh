// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>

#include <gru/detail/cuda_types.cuh>
#include <gru/detail/device_namespace.cuh>
#include <gru/detail/engine.cuh>
#include <gru/execution.hpp>
#include <gru/policy.hpp>
#include <gru/problem.hpp>
#include <gru/tensors.hpp>

namespace gru {
inline namespace GRU_DEVICE_NAMESPACE {

/// The forward pass of one GRU layer and direction on the device that is current at construction.
///
/// T is float, double, __half or __nv_bfloat16. Immutable and thread-safe: one object may serve
/// many runs at once, each with its own workspace.
template <typename T>
class ForwardPass {
  static_assert(detail::kIsDeviceType<T>,
                "gru::ForwardPass<T>: T must be float, double, __half or __nv_bfloat16");

 public:
  /// Validates the Problem and chooses its engine and algorithms. Enqueues nothing.
  ///
  /// Throws InvalidArgument where the Problem makes no sense, Unsupported where no engine, or not
  /// the one asked for, can run it, DeviceError where CUDA or cuBLAS fails (no device, for
  /// example).
  explicit ForwardPass(Problem const& problem);

  Problem const& problem() const { return problem_; }

  /// Which engine runs, why, and what else could.
  Decision const& decision() const { return decision_; }

  /// Bytes of device memory that a run needs, aligned to 256.
  std::size_t workspace_bytes() const { return decision_.workspace_bytes; }

  /// Bytes of the reserve; 0 where the Problem keeps none.
  std::size_t reserve_bytes() const {
    return static_cast<std::size_t>(reserve_values(problem_)) * sizeof(T);
  }

  /// Enqueues the pass on execution.stream; neither synchronizes nor allocates, and may be captured
  /// in a CUDA graph. Two runs with the same inputs give the same bits.
  ///
  /// Throws InvalidArgument, before anything is enqueued, where a pointer, the workspace, the
  /// reserve or the current device is not what the Problem and this pass need; DeviceError where an
  /// enqueued call fails.
  void run(Execution const& execution, Weights<T> const& weights, ForwardTensors<T> const& tensors,
           Workspace workspace) const;

  /// Enqueues a single step, state in, state out; as `run`, for a Problem of one step. With
  /// StateType::kFloat, steps give the numbers of the whole sequence in 16-bit types too.
  void step(Execution const& execution, Weights<T> const& weights, StepTensors<T> const& tensors,
            Workspace workspace) const;

 private:
  Problem problem_;
  int device_ = 0;
  std::shared_ptr<detail::ForwardEngine<T> const> engine_;
  Decision decision_;
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru

#include <gru/detail/forward_pass.cuh>
