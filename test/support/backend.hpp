// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>

#include <gru/problem.hpp>
#include <gru/tensors.hpp>

#include "support/memory.hpp"

namespace Eigen {
struct half;
struct bfloat16;
}  // namespace Eigen

namespace gru::test {

/// The bytes that a pass asks for.
struct PassBytes {
  std::size_t workspace = 0;
  std::size_t reserve = 0;
};

/// An engine for one type, behind a plain interface. T is a host type (float, double, Eigen::half,
/// Eigen::bfloat16) for device engines too: the bits are the same. The calls return when the work
/// is done.
template <typename T>
class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::unique_ptr<Memory> allocate(std::size_t bytes) const = 0;
  virtual PassBytes forward_bytes(Problem const& problem) const = 0;
  virtual PassBytes backward_bytes(Problem const& problem) const = 0;
  virtual void forward(Problem const& problem, Weights<T> const& weights,
                       ForwardTensors<T> const& tensors, Workspace workspace) const = 0;
  virtual void step(Problem const& problem, Weights<T> const& weights,
                    StepTensors<T> const& tensors, Workspace workspace) const = 0;
  virtual void backward(Problem const& problem, Weights<T> const& weights,
                        BackwardTensors<T> const& tensors, Workspace workspace) const = 0;
};

}  // namespace gru::test
