// SPDX-License-Identifier: Apache-2.0
#include "trainer.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace char_model {
namespace {

constexpr std::int64_t kLossesKept = 64;
constexpr std::int64_t kValidated = 1 << 14;  // characters, at most
constexpr double kWarmUp = 20;                // iterations in which the rate rises

constexpr char const* kFirstMoment = "adam.first_moment.";
constexpr char const* kSecondMoment = "adam.second_moment.";

std::string state_name(std::int64_t layer) {
  return "state.l" + std::to_string(layer);
}

/// Few enough streams that each has a window's worth of characters, if there are so many.
std::int64_t validation_batch(Tokens const& text, TrainingOptions const& options) {
  auto const windows = static_cast<std::int64_t>(text.tokens.size()) / (options.steps + 1);
  return std::clamp<std::int64_t>(windows, 1, options.batch);
}

}  // namespace

Streams::Streams(Backend& backend, Tokens const& text, std::int64_t batch)
    : batch_{batch},
      stream_length_{(static_cast<std::int64_t>(text.tokens.size()) - 1) / batch},
      tokens_{backend, text.tokens},
      starts_{backend, text.starts} {
  if (stream_length_ < 1) {
    throw std::runtime_error{"a text of " + std::to_string(text.tokens.size()) +
                             " characters is too short for a batch of " + std::to_string(batch)};
  }
}

Validator::Validator(Backend& backend, ParameterTable const& table, Tokens const& text,
                     TrainingOptions const& options)
    : backend_{&backend}, table_{&table}, streams_{backend, text, validation_batch(text, options)} {
  options_.steps = std::min(options.steps, streams_.stream_length());
  options_.batch = streams_.batch();
  options_.zoneout = options.zoneout;
  options_.dropconnect = options.dropconnect;
}

double Validator::loss(float const* parameters) {
  std::int64_t const most = std::max<std::int64_t>(1, kValidated / options_.batch / options_.steps);
  std::int64_t const windows = std::min(most, streams_.stream_length() / options_.steps);
  Network network{*backend_, *table_, options_};  // anew, for its state is zero
  Buffer<double> losses{*backend_, windows};
  for (std::int64_t i = 0; i < windows; ++i) {
    network.read(streams_.view(), i * options_.steps);
    network.forward(parameters, {}, losses.data() + i);
    network.carry_state();
  }
  double sum = 0;
  for (double const loss : losses.download()) sum += loss;
  return sum / static_cast<double>(windows);
}

Trainer::Trainer(Backend& backend, ParameterTable const& table, Tokens const& text,
                 TrainingOptions const& options)
    : backend_{&backend},
      table_{&table},
      options_{options},
      streams_{backend, text, options.batch},
      network_{backend,
               table,
               {options.steps, options.batch, options.zoneout, options.dropconnect, true}},
      parameters_{backend, initial_parameters(table, options.seed)},
      gradient_{backend, table.block_size()},
      first_moment_{backend, table.block_size()},
      second_moment_{backend, table.block_size()},
      losses_{backend, kLossesKept} {}

std::int64_t Trainer::iterations_per_epoch() const {
  return (streams_.stream_length() + options_.steps - 1) / options_.steps;
}

double Trainer::rate() const {
  return options_.rate * std::min(1.0, static_cast<double>(iteration_ + 1) / kWarmUp);
}

void Trainer::iterate() {
  gru::Random random;
  random.seed = options_.seed;
  random.offset = static_cast<std::uint64_t>(iteration_);

  network_.read(streams_.view(), iteration_ * options_.steps % streams_.stream_length());
  network_.forward(parameters_.data(), random, losses_.data() + pending_);
  network_.backward(parameters_.data(), gradient_.data());
  network_.carry_state();

  AdamStep adam;
  adam.count = table_->block_size();
  adam.iteration = iteration_ + 1;
  adam.rate = rate();
  adam.clip = options_.clip;
  adam.gradient = gradient_.data();
  adam.value = parameters_.data();
  adam.first_moment = first_moment_.data();
  adam.second_moment = second_moment_.data();
  backend_->adam(adam);

  ++pending_;
  ++iteration_;
}

void Trainer::collect_losses() {
  std::vector<double> const losses = losses_.download(pending_);
  history_.losses.insert(history_.losses.end(), losses.begin(), losses.end());
  pending_ = 0;
  for (double const loss : losses) {
    if (!std::isfinite(loss)) {
      throw std::runtime_error{"the loss is no longer finite; try a lower --rate"};
    }
  }
}

void Trainer::save_block(SafeTensors& file, std::string const& prefix,
                         Buffer<float> const& block) const {
  std::vector<float> const values = block.download();
  for (Parameter const& parameter : table_->all()) {
    auto const begin = values.begin() + parameter.offset;
    file.add(prefix + parameter.name, parameter.shape,
             std::vector<float>(begin, begin + parameter.size()));
  }
}

void Trainer::load_block(SafeTensors const& file, std::string const& prefix,
                         Buffer<float>& block) const {
  block.upload(read_parameters(file, *table_, prefix));
}

void Trainer::save(SafeTensors& file) const {
  save_block(file, "", parameters_);
  save_block(file, kFirstMoment, first_moment_);
  save_block(file, kSecondMoment, second_moment_);
  for (std::int64_t l = 0; l < table_->sizes().layers; ++l) {
    file.add(state_name(l), {options_.batch, table_->sizes().hidden}, network_.state(l));
  }
  std::vector<double> validations;
  for (Validation const& v : history_.validations) {
    validations.insert(validations.end(), {static_cast<double>(v.iteration), v.loss});
  }
  file.add("history.loss", {iteration_}, history_.losses);
  file.add("history.validation", {static_cast<std::int64_t>(history_.validations.size()), 2},
           validations);
}

void Trainer::restore(SafeTensors const& file) {
  load_weights(file);
  load_block(file, kFirstMoment, first_moment_);
  load_block(file, kSecondMoment, second_moment_);
  for (std::int64_t l = 0; l < table_->sizes().layers; ++l) {
    network_.set_state(l, file.get<float>(state_name(l), {options_.batch, table_->sizes().hidden}));
  }
  history_.losses = file.get<double>("history.loss", {-1});
  std::vector<double> const validations = file.get<double>("history.validation", {-1, 2});
  history_.validations.clear();
  for (std::size_t i = 0; i < validations.size(); i += 2) {
    history_.validations.push_back({static_cast<std::int64_t>(validations[i]), validations[i + 1]});
  }
  iteration_ = static_cast<std::int64_t>(history_.losses.size());
  pending_ = 0;
}

void Trainer::load_weights(SafeTensors const& file) {
  load_block(file, "", parameters_);
}

std::vector<float> read_parameters(SafeTensors const& file, ParameterTable const& table,
                                   std::string const& prefix) {
  std::vector<float> block(static_cast<std::size_t>(table.block_size()));
  for (Parameter const& parameter : table.all()) {
    std::vector<float> const values = file.get<float>(prefix + parameter.name, parameter.shape);
    std::copy(values.begin(), values.end(), block.begin() + parameter.offset);
  }
  return block;
}

}  // namespace char_model
