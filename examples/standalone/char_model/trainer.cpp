// SPDX-License-Identifier: Apache-2.0
#include "trainer.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

namespace char_model {
namespace {

constexpr std::int64_t kLossesKept = 64;
constexpr double kValidated = 16000;  // characters, or as many as there are
constexpr double kWarmUp = 20;        // iterations in which the rate rises

constexpr char const* kFirstMoment = "adam.first_moment.";
constexpr char const* kSecondMoment = "adam.second_moment.";

std::string state_name(std::int64_t layer) {
  return "state.l" + std::to_string(layer);
}

std::unique_ptr<Windows> make_windows(Backend& backend, Tokens const& text,
                                      TrainingOptions const& options) {
  if (options.lines) {
    return std::make_unique<Lines>(backend, text, options.steps, options.batch);
  }
  return std::make_unique<Streams>(backend, text, options.steps, options.batch);
}

/// Few enough streams, or lines at once, that each has a window's worth of characters, if there are
/// so many.
TrainingOptions fit_to(Tokens const& text, TrainingOptions options) {
  auto const size = static_cast<std::int64_t>(text.tokens.size());
  options.batch = std::clamp<std::int64_t>(size / (options.steps + 1), 1, options.batch);
  options.steps = std::min(options.steps, (size - 1) / options.batch);
  return options;
}

NetworkOptions network_options(TrainingOptions const& options, bool training) {
  NetworkOptions result;
  result.steps = options.steps;
  result.batch = options.batch;
  result.zoneout = options.zoneout;
  result.dropconnect = options.dropconnect;
  result.type = options.type;
  result.lines = options.lines;
  result.training = training;
  return result;
}

void check_history(bool condition, double value) {
  if (condition) return;
  throw std::runtime_error{"the file's history has " + std::to_string(value) +
                           " for a loss or an iteration"};
}

}  // namespace

Streams::Streams(Backend& backend, Tokens const& text, std::int64_t steps, std::int64_t batch)
    : steps_{steps},
      batch_{batch},
      stream_length_{(static_cast<std::int64_t>(text.tokens.size()) - 1) / batch},
      tokens_{backend, text.tokens},
      starts_{backend, text.starts} {
  if (stream_length_ < 1) {
    throw std::runtime_error{"a text of " + std::to_string(text.tokens.size()) +
                             " characters is too short for a batch of " + std::to_string(batch)};
  }
}

void Streams::read(Network& network, std::int64_t i) const {
  network.read({tokens_.data(), starts_.data(), stream_length_}, i * steps_ % stream_length_);
}

Lines::Lines(Backend& backend, Tokens const& text, std::int64_t steps, std::int64_t batch)
    : steps_{steps}, batch_{batch}, tokens_{backend, text.tokens} {
  std::vector<std::int64_t> begins;
  std::size_t begin = 0;
  for (std::size_t end = 1; end <= text.tokens.size(); ++end) {
    if (end < text.tokens.size() && text.starts[end] == 0) continue;
    auto const targets = static_cast<std::int64_t>(end - begin) - 1;
    if (targets > 0) {
      begins.push_back(static_cast<std::int64_t>(begin));
      lengths_.push_back(static_cast<std::int32_t>(std::min(targets, steps)));
    }
    begin = end;
  }
  if (begins.empty()) throw std::runtime_error{"the text has no line to learn from"};
  line_begins_ = Buffer<std::int64_t>{backend, begins};
  line_lengths_ = Buffer<std::int32_t>{backend, lengths_};
}

void Lines::read(Network& network, std::int64_t i) const {
  std::int64_t const first = i * batch_ % size();
  std::int64_t targets = 0;
  for (std::int64_t n = 0; n < batch_; ++n) {
    targets += lengths_[static_cast<std::size_t>((first + n) % size())];
  }
  network.read({tokens_.data(), line_begins_.data(), line_lengths_.data(), size()}, first, targets);
}

Validator::Validator(Backend& backend, ParameterTable const& table, Tokens const& text,
                     TrainingOptions const& options)
    : backend_{&backend},
      table_{&table},
      options_{fit_to(text, options)},
      windows_{make_windows(backend, text, options_)} {}

double Validator::loss(float const* parameters) {
  // Anew, for its state is zero.
  Network network{*backend_, *table_, network_options(options_, false)};
  Buffer<double> losses{*backend_, windows_->whole()};
  std::vector<double> counts;
  double seen = 0;
  for (std::int64_t i = 0; i < windows_->whole() && seen < kValidated; ++i) {
    windows_->read(network, i);
    network.forward(parameters, {}, losses.data() + i);
    network.carry_state();
    counts.push_back(static_cast<double>(network.target_count()));
    seen += counts.back();
  }
  std::vector<double> const means = losses.download();
  return std::inner_product(counts.begin(), counts.end(), means.begin(), 0.0) / seen;
}

Trainer::Trainer(Backend& backend, ParameterTable const& table, Tokens const& text,
                 TrainingOptions const& options)
    : backend_{&backend},
      table_{&table},
      options_{options},
      windows_{make_windows(backend, text, options)},
      network_{backend, table, network_options(options, true)},
      parameters_{backend, initial_parameters(table, options.seed)},
      gradient_{backend, table.block_size()},
      first_moment_{backend, table.block_size()},
      second_moment_{backend, table.block_size()},
      losses_{backend, kLossesKept} {}

double Trainer::rate() const {
  return options_.rate * std::min(1.0, static_cast<double>(iteration_ + 1) / kWarmUp);
}

void Trainer::iterate() {
  gru::Random random;
  random.seed = options_.seed;
  random.offset = static_cast<std::uint64_t>(iteration_);

  windows_->read(network_, iteration_);
  network_.forward(parameters_.data(), random, losses_.data() + pending_);
  network_.backward(parameters_.data(), gradient_.data());
  network_.carry_state();

  AdamStep adam;
  adam.count = table_->block_size();
  adam.iteration = iteration_ + 1;
  adam.rate = rate();
  adam.gradient_scale = 1 / static_cast<double>(network_.target_count());
  adam.clip = options_.clip;
  adam.gradient = gradient_.data();
  adam.value = parameters_.data();
  adam.first_moment = first_moment_.data();
  adam.second_moment = second_moment_.data();
  backend_->adam(adam);

  ++pending_;
  ++iteration_;
  characters_ += network_.target_count();
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
  auto const last = static_cast<double>(history_.losses.size());
  for (double const loss : history_.losses) check_history(std::isfinite(loss), loss);
  for (std::size_t i = 0; i < validations.size(); i += 2) {
    check_history(validations[i] >= 0 && validations[i] <= last, validations[i]);
    check_history(std::isfinite(validations[i + 1]), validations[i + 1]);
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
