// SPDX-License-Identifier: Apache-2.0
#include <gru/host.hpp>

#include "run_pass.hpp"

namespace gru::adapter::host {

void backward(Type type, Problem const& problem, Weights const& weights, Inputs const& inputs,
              BackwardInputs const& incoming, Gradients const& gradients, Place const& place) {
  auto const run = [&](auto value) {
    using T = decltype(value);
    detail::run_backward<T>(gru::host::BackwardPass<T>{problem}, weights, inputs, incoming,
                            gradients, gru::host::Execution{place.parallel_for}, place.allocate);
  };
  switch (type) {
    case Type::kFloat:
      return run(float{});
    case Type::kDouble:
      return run(double{});
    case Type::kHalf:
      return run(Eigen::half{});
    case Type::kBfloat16:
      return run(Eigen::bfloat16{});
  }
}

}  // namespace gru::adapter::host
