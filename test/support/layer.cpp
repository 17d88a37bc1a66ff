// SPDX-License-Identifier: Apache-2.0
#include "support/layer.hpp"

#include <Eigen/Core>
#include <algorithm>

namespace gru::test {

std::string to_string(DataType type) {
  switch (type) {
    case DataType::kFloat:
      return "float";
    case DataType::kDouble:
      return "double";
    case DataType::kHalf:
      return "half";
    case DataType::kBfloat16:
      return "bfloat16";
  }
  return "unknown";
}

double round_to(DataType type, double value) {
  float const single = static_cast<float>(value);
  switch (type) {
    case DataType::kFloat:
      return single;
    case DataType::kDouble:
      return value;
    case DataType::kHalf:
      return static_cast<float>(static_cast<Eigen::half>(single));
    case DataType::kBfloat16:
      return static_cast<float>(static_cast<Eigen::bfloat16>(single));
  }
  return value;
}

DataType state_type(Problem const& problem, DataType type) {
  return problem.state_type == StateType::kFloat ? DataType::kFloat : type;
}

DataType weight_gradient_type(Problem const& problem, DataType type) {
  bool const is_float = problem.weight_gradient_type == WeightGradientType::kFloat;
  return is_float ? DataType::kFloat : type;
}

std::vector<NamedResult> const& named_results() {
  static std::vector<NamedResult> const all{
      {"h", &Results::h, false},
      {"final_state", &Results::final_state, false},
      {"dx", &Results::dx, true},
      {"dkernel", &Results::dkernel, true},
      {"drecurrent_kernel", &Results::drecurrent_kernel, true},
      {"dbias", &Results::dbias, true},
      {"drecurrent_bias", &Results::drecurrent_bias, true},
      {"dh0", &Results::dh0, true},
  };
  return all;
}

std::int64_t Layer::length(std::int64_t n) const {
  if (!problem.lengths) return T();
  return std::clamp<std::int64_t>(lengths[static_cast<std::size_t>(n)], 0, T());
}

Layer rounded(Layer layer, DataType type) {
  auto const round = [](Values& values, DataType to) {
    for (double& value : values) value = round_to(to, value);
  };
  DataType const state = state_type(layer.problem, type);
  DataType const gradient = weight_gradient_type(layer.problem, type);
  for (Values* values : {&layer.x, &layer.kernel, &layer.recurrent_kernel, &layer.bias,
                         &layer.recurrent_bias, &layer.dh, &layer.held.dx}) {
    round(*values, type);
  }
  for (Values* values : {&layer.h0, &layer.dfinal_state, &layer.held.dh0}) round(*values, state);
  for (Values* values : {&layer.held.dkernel, &layer.held.drecurrent_kernel, &layer.held.dbias,
                         &layer.held.drecurrent_bias}) {
    round(*values, gradient);
  }
  return layer;
}

}  // namespace gru::test
