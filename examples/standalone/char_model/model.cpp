// SPDX-License-Identifier: Apache-2.0
#include "model.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace char_model {
namespace {

constexpr std::int64_t kAlignment = 64;  // values

/// The draws of the initial weights; training uses the offsets from 0 on.
constexpr std::uint64_t kInitialOffset = std::uint64_t{1} << 63;

/// Throws where the bytes of a window's tensors are too many to be counted.
NetworkOptions const& checked(NetworkOptions const& options, ModelSizes const& sizes) {
  constexpr double kMost = 1e15;  // values
  double const rows = static_cast<double>(options.steps) * static_cast<double>(options.batch);
  auto const widest = std::max({sizes.vocabulary, sizes.embedding, sizes.hidden});
  if (rows * static_cast<double>(widest) <= kMost) return options;
  throw std::runtime_error{"a batch of " + std::to_string(options.batch) + " by " +
                           std::to_string(options.steps) + " steps is too large for a width of " +
                           std::to_string(widest)};
}

}  // namespace

std::int64_t Parameter::size() const {
  std::int64_t product = 1;
  for (std::int64_t const extent : shape) product *= extent;
  return product;
}

ParameterTable::ParameterTable(ModelSizes const& sizes) : sizes_{sizes} {
  std::int64_t const H = sizes.hidden;
  embedding_ = place("embedding.weight", {sizes.vocabulary, sizes.embedding});
  for (std::int64_t l = 0; l < sizes.layers; ++l) {
    std::int64_t const inputs = l == 0 ? sizes.embedding : H;
    std::string const suffix = "_l" + std::to_string(l);
    layers_.push_back({place("gru.weight_ih" + suffix, {3 * H, inputs}),
                       place("gru.weight_hh" + suffix, {3 * H, H}),
                       place("gru.bias_ih" + suffix, {3 * H}),
                       place("gru.bias_hh" + suffix, {3 * H})});
  }
  linear_weight_ = place("linear.weight", {sizes.vocabulary, H});
  linear_bias_ = place("linear.bias", {sizes.vocabulary});
}

Parameter ParameterTable::place(std::string name, std::vector<std::int64_t> shape) {
  Parameter parameter{std::move(name), std::move(shape), block_size_};
  std::int64_t const end = block_size_ + parameter.size();
  block_size_ = (end + kAlignment - 1) / kAlignment * kAlignment;
  return parameter;
}

std::vector<Parameter> ParameterTable::all() const {
  std::vector<Parameter> parameters{embedding_};
  for (Layer const& l : layers_) {
    parameters.insert(parameters.end(), {l.kernel, l.recurrent_kernel, l.bias, l.recurrent_bias});
  }
  parameters.insert(parameters.end(), {linear_weight_, linear_bias_});
  return parameters;
}

std::int64_t ParameterTable::weights() const {
  std::int64_t sum = 0;
  for (Parameter const& parameter : all()) sum += parameter.size();
  return sum;
}

std::vector<float> initial_parameters(ParameterTable const& table, std::uint64_t seed) {
  // PyTorch's choice for GRU and Linear: uniform within 1 / sqrt(H).
  double const bound = 1 / std::sqrt(static_cast<double>(table.sizes().hidden));
  std::vector<float> values(static_cast<std::size_t>(table.block_size()));
  for (Parameter const& parameter : table.all()) {
    double const limit = parameter.offset == table.embedding().offset ? 1 : bound;
    for (std::int64_t i = parameter.offset; i < parameter.offset + parameter.size(); ++i) {
      auto const counter = static_cast<std::uint64_t>(i);
      double const uniform = gru::philox(seed, kInitialOffset, counter).word[0] / 4294967296.0;
      values[static_cast<std::size_t>(i)] = static_cast<float>(limit * (2 * uniform - 1));
    }
  }
  return values;
}

gru::Problem layer_problem(ModelSizes const& sizes, std::int64_t layer) {
  gru::Problem problem;
  problem.input_size = layer == 0 ? sizes.embedding : sizes.hidden;
  problem.hidden_size = sizes.hidden;
  problem.weight_format = gru::WeightFormat::pytorch();
  problem.state_type = gru::StateType::kFloat;
  problem.weight_gradient_type = gru::WeightGradientType::kFloat;
  return problem;
}

gru::Weights<float> layer_weights(ParameterTable::Layer const& layer, float const* parameters) {
  gru::Weights<float> weights;
  weights.kernel = parameters + layer.kernel.offset;
  weights.recurrent_kernel = parameters + layer.recurrent_kernel.offset;
  weights.bias = parameters + layer.bias.offset;
  weights.recurrent_bias = parameters + layer.recurrent_bias.offset;
  return weights;
}

Network::Network(Backend& backend, ParameterTable const& table, NetworkOptions const& options)
    : backend_{&backend},
      table_{&table},
      options_{checked(options, table.sizes())},
      tokens_{backend, rows()},
      targets_{backend, rows()},
      starts_{backend, options.lines ? 0 : rows()},
      lengths_{backend, options.lines ? options.batch : 0},
      embedded_{backend, rows() * table.sizes().embedding},
      logits_{backend, rows() * table.sizes().vocabulary},
      row_losses_{backend, rows()} {
  ModelSizes const& sizes = table.sizes();
  for (std::int64_t l = 0; l < sizes.layers; ++l) {
    gru::Problem problem = layer_problem(sizes, l);
    problem.steps = options.steps;
    problem.batch = options.batch;
    problem.episode_starts = !options.lines;
    problem.lengths = options.lines;
    problem.zoneout.rate = options.zoneout;
    problem.dropconnect.rate = options.dropconnect;
    problem.stochastic = options.training;
    problem.keep_for_backward = options.training;
    layers_.push_back({problem.input_size, backend.make_gru(problem, options.type),
                       Buffer<float>{backend, rows() * sizes.hidden},
                       Buffer<float>{backend, options.batch * sizes.hidden},
                       Buffer<float>{backend, options.batch * sizes.hidden}});
  }
  if (!options.training) return;
  std::int64_t const widest = std::max(sizes.embedding, sizes.hidden);
  dh_ = Buffer<float>{backend, rows() * widest};
  dx_ = Buffer<float>{backend, rows() * widest};
}

void Network::read(TextView const& text, std::int64_t cursor) {
  WindowRead window;
  window.text = text;
  window.cursor = cursor;
  window.steps = options_.steps;
  window.batch = options_.batch;
  window.tokens = tokens_.data();
  window.targets = targets_.data();
  window.starts = starts_.data();
  backend_->read_window(window);
  target_count_ = rows();
}

void Network::read(LinesView const& lines, std::int64_t first, std::int64_t targets) {
  LinesRead read;
  read.lines = lines;
  read.first = first;
  read.steps = options_.steps;
  read.batch = options_.batch;
  read.tokens = tokens_.data();
  read.targets = targets_.data();
  read.lengths = lengths_.data();
  backend_->read_lines(read);
  target_count_ = targets;
}

void Network::forward(float const* parameters, gru::Random const& random, double* loss) {
  ModelSizes const& sizes = table_->sizes();
  random_ = random;

  Embedding embedding;
  embedding.rows = rows();
  embedding.vocabulary = sizes.vocabulary;
  embedding.width = sizes.embedding;
  embedding.tokens = tokens_.data();
  embedding.table = parameters + table_->embedding().offset;
  embedding.output = embedded_.data();
  backend_->embed(embedding);

  layers_forward(parameters);

  Linear linear;
  linear.rows = rows();
  linear.inputs = sizes.hidden;
  linear.outputs = sizes.vocabulary;
  linear.x = layers_.back().h.data();
  linear.weight = parameters + table_->linear_weight().offset;
  linear.bias = parameters + table_->linear_bias().offset;
  linear.y = logits_.data();
  backend_->linear(linear);

  CrossEntropy cross_entropy;
  cross_entropy.rows = rows();
  cross_entropy.classes = sizes.vocabulary;
  cross_entropy.target_count = target_count_;
  cross_entropy.targets = targets_.data();
  cross_entropy.logits = logits_.data();
  cross_entropy.row_losses = row_losses_.data();
  cross_entropy.loss = loss;
  backend_->cross_entropy(cross_entropy);
}

void Network::backward(float const* parameters, float* gradient) {
  ModelSizes const& sizes = table_->sizes();

  LinearBackward linear;
  linear.rows = rows();
  linear.inputs = sizes.hidden;
  linear.outputs = sizes.vocabulary;
  linear.x = layers_.back().h.data();
  linear.weight = parameters + table_->linear_weight().offset;
  linear.dy = logits_.data();
  linear.dx = dh_.data();
  linear.dweight = gradient + table_->linear_weight().offset;
  linear.dbias = gradient + table_->linear_bias().offset;
  backend_->linear_backward(linear);

  layers_backward(parameters, gradient);

  EmbeddingBackward embedding;
  embedding.rows = rows();
  embedding.vocabulary = sizes.vocabulary;
  embedding.width = sizes.embedding;
  embedding.tokens = tokens_.data();
  embedding.doutput = dx_.data();
  embedding.dtable = gradient + table_->embedding().offset;
  backend_->embed_backward(embedding);
}

float const* Network::layer_input(std::size_t layer) const {
  return layer == 0 ? embedded_.data() : layers_[layer - 1].h.data();
}

gru::Random Network::layer_random(std::size_t layer) const {
  gru::Random random = random_;
  random.offset = random_.offset * layers_.size() + layer;
  return random;
}

void Network::layers_forward(float const* parameters) {
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    Layer& layer = layers_[l];
    gru::ForwardTensors<float> tensors;
    tensors.x = layer_input(l);
    tensors.h0 = layer.state.data();
    tensors.lengths = lengths_.data();
    tensors.episode_starts = starts_.data();
    tensors.random = layer_random(l);
    tensors.h = layer.h.data();
    tensors.final_state = layer.final_state.data();
    layer.passes->forward(layer_weights(table_->layers()[l], parameters), tensors);
  }
}

void Network::layers_backward(float const* parameters, float* gradient) {
  for (std::size_t l = layers_.size(); l-- > 0;) {
    Layer& layer = layers_[l];
    ParameterTable::Layer const& place = table_->layers()[l];
    gru::BackwardTensors<float> tensors;
    tensors.x = layer_input(l);
    tensors.h = layer.h.data();
    tensors.h0 = layer.state.data();
    tensors.lengths = lengths_.data();
    tensors.episode_starts = starts_.data();
    tensors.random = layer_random(l);
    tensors.dh = dh_.data();
    tensors.dx = dx_.data();
    tensors.dkernel = gradient + place.kernel.offset;
    tensors.drecurrent_kernel = gradient + place.recurrent_kernel.offset;
    tensors.dbias = gradient + place.bias.offset;
    tensors.drecurrent_bias = gradient + place.recurrent_bias.offset;
    layer.passes->backward(layer_weights(place, parameters), tensors);
    if (l > 0) swap(dh_, dx_);  // the gradient of the output of the layer below
  }
}

void Network::carry_state() {
  if (options_.lines) return;  // each begins with zeros
  for (Layer& layer : layers_) swap(layer.state, layer.final_state);
}

std::vector<float> Network::state(std::int64_t layer) const {
  return layers_.at(static_cast<std::size_t>(layer)).state.download();
}

void Network::set_state(std::int64_t layer, std::vector<float> const& state) {
  layers_.at(static_cast<std::size_t>(layer)).state.upload(state);
}

}  // namespace char_model
