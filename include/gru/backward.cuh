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

/// The backward pass of one GRU layer and direction on the device that is current at construction.
///
/// T is float, double, __half or __nv_bfloat16. The Problem is forward's, with keep_for_backward
/// set. Immutable and thread-safe, as ForwardPass.
template <typename T>
class BackwardPass {
  static_assert(detail::kIsDeviceType<T>,
                "gru::BackwardPass<T>: T must be float, double, __half or __nv_bfloat16");

 public:
  /// Validates the Problem and chooses its engine and algorithms. Enqueues nothing. Throws as
  /// ForwardPass does, and InvalidArgument where the Problem does not keep for backward.
  explicit BackwardPass(Problem const& problem);

  Problem const& problem() const { return problem_; }

  /// Which engine runs, why, and what else could.
  Decision const& decision() const { return decision_; }

  /// Bytes of device memory that a run needs, aligned to 256.
  std::size_t workspace_bytes() const { return decision_.workspace_bytes; }

  /// Bytes of the reserve that forward filled; 0 with ReservePolicy::kRecompute.
  std::size_t reserve_bytes() const {
    return static_cast<std::size_t>(reserve_values(problem_)) * sizeof(T);
  }

  /// Enqueues the pass on execution.stream; neither synchronizes nor allocates, and may be captured
  /// in a CUDA graph. Two runs with the same inputs give the same bits. Each gradient is
  /// overwritten or added to as Problem::accumulate says; a null pointer skips its work.
  ///
  /// Throws InvalidArgument, before anything is enqueued, where a pointer, the workspace, the
  /// reserve or the current device is not what the Problem and this pass need; DeviceError where an
  /// enqueued call fails.
  void run(Execution const& execution, Weights<T> const& weights, BackwardTensors<T> const& tensors,
           Workspace workspace) const;

 private:
  Problem problem_;
  int device_ = 0;
  std::shared_ptr<detail::BackwardEngine<T> const> engine_;
  Decision decision_;
};

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru

#include <gru/detail/backward_pass.cuh>
