// SPDX-License-Identifier: Apache-2.0
#include "sampler.hpp"

#include <algorithm>
#include <cmath>

namespace char_model {
namespace {

/// The draws of characters; the initial weights use the offset 2^63, training those from 0 on.
constexpr std::uint64_t kSampleOffset = (std::uint64_t{1} << 63) + 1;

}  // namespace

Sampler::Sampler(Backend& backend, ParameterTable const& table, float const* parameters,
                 Options const& options)
    : backend_{&backend},
      table_{&table},
      parameters_{parameters},
      options_{options},
      token_{backend, 1},
      embedded_{backend, table.sizes().embedding},
      logits_{backend, table.sizes().vocabulary} {
  for (std::int64_t l = 0; l < table.sizes().layers; ++l) {
    gru::Problem problem = layer_problem(table.sizes(), l);
    problem.steps = 1;
    problem.batch = 1;
    problem.zoneout.rate = options.zoneout;
    problem.dropconnect.rate = options.dropconnect;
    layers_.push_back(
        {backend.make_gru(problem, options.type), Buffer<float>{backend, table.sizes().hidden}});
  }
}

void Sampler::feed(std::uint8_t token) {
  ModelSizes const& sizes = table_->sizes();
  token_.upload({token});

  Embedding embedding;
  embedding.rows = 1;
  embedding.vocabulary = sizes.vocabulary;
  embedding.width = sizes.embedding;
  embedding.tokens = token_.data();
  embedding.table = parameters_ + table_->embedding().offset;
  embedding.output = embedded_.data();
  backend_->embed(embedding);

  float const* x = embedded_.data();
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    float* const state = layers_[l].state.data();
    gru::StepTensors<float> tensors;
    tensors.x = x;
    tensors.state = state;
    tensors.new_state = state;
    layers_[l].passes->step(layer_weights(table_->layers()[l], parameters_), tensors);
    x = state;
  }

  Linear linear;
  linear.rows = 1;
  linear.inputs = sizes.hidden;
  linear.outputs = sizes.vocabulary;
  linear.x = x;
  linear.weight = parameters_ + table_->linear_weight().offset;
  linear.bias = parameters_ + table_->linear_bias().offset;
  linear.y = logits_.data();
  backend_->linear(linear);
}

std::uint8_t Sampler::draw() {
  std::vector<float> const logits = logits_.download();
  auto const largest = std::max_element(logits.begin(), logits.end());
  if (options_.temperature <= 0) return static_cast<std::uint8_t>(largest - logits.begin());

  std::vector<double> cumulative;  // of the softmax, but for its denominator
  double sum = 0;
  for (float const logit : logits) {
    sum += std::exp(static_cast<double>(logit - *largest) / options_.temperature);
    cumulative.push_back(sum);
  }
  double const uniform = gru::philox(options_.seed, kSampleOffset, drawn_++).word[0] / 4294967296.0;
  auto const chosen = std::upper_bound(cumulative.begin(), cumulative.end() - 1, uniform * sum);
  return static_cast<std::uint8_t>(chosen - cumulative.begin());
}

}  // namespace char_model
