// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "backend.hpp"
#include "model.hpp"
#include "safetensors.hpp"
#include "text.hpp"

namespace char_model {

struct TrainingOptions {
  std::int64_t batch = 16;
  std::int64_t steps = 32;
  double rate = 4e-3;
  double clip = 1;
  double zoneout = 0;
  double dropconnect = 0;
  DataType type = DataType::kFloat;
  bool lines = false;  // learn each line of the text by itself
  std::uint64_t seed = 1;
};

/// A text in the backend's memory, as windows of T by N characters.
class Windows {
 public:
  virtual ~Windows() = default;

  /// The windows that a pass over the text takes.
  virtual std::int64_t count() const = 0;
  /// Those that do not go on at the text's beginning; at least 1.
  virtual std::int64_t whole() const = 0;
  /// Has the network read window `i`; behind the last one the text begins anew.
  virtual void read(Network& network, std::int64_t i) const = 0;
};

/// The text cut into N streams of equal length, of which a window has the next T characters.
class Streams final : public Windows {
 public:
  /// Throws where the text is too short for so many streams.
  Streams(Backend& backend, Tokens const& text, std::int64_t steps, std::int64_t batch);

  std::int64_t count() const override { return (stream_length_ + steps_ - 1) / steps_; }
  std::int64_t whole() const override { return std::max<std::int64_t>(1, stream_length_ / steps_); }
  void read(Network& network, std::int64_t i) const override;

 private:
  std::int64_t steps_;
  std::int64_t batch_;
  std::int64_t stream_length_;
  Buffer<std::uint8_t> tokens_;
  Buffer<std::uint8_t> starts_;
};

/// The text as it begins anew at each of its starts: N of these pieces are a window, as far as
/// they fit into T steps.
class Lines final : public Windows {
 public:
  /// Throws where the text has no line of two characters.
  Lines(Backend& backend, Tokens const& text, std::int64_t steps, std::int64_t batch);

  std::int64_t count() const override { return (size() + batch_ - 1) / batch_; }
  std::int64_t whole() const override { return std::max<std::int64_t>(1, size() / batch_); }
  void read(Network& network, std::int64_t i) const override;

 private:
  std::int64_t size() const { return static_cast<std::int64_t>(lengths_.size()); }

  std::int64_t steps_;
  std::int64_t batch_;
  std::vector<std::int32_t> lengths_;
  Buffer<std::uint8_t> tokens_;
  Buffer<std::int64_t> line_begins_;
  Buffer<std::int32_t> line_lengths_;
};

/// The loss on a held-out text, or on some 16000 characters of a long one, without masks.
class Validator {
 public:
  Validator(Backend& backend, ParameterTable const& table, Tokens const& text,
            TrainingOptions const& options);

  /// Mean loss in nats a character. Waits for the backend.
  double loss(float const* parameters);

 private:
  Backend* backend_;
  ParameterTable const* table_;
  TrainingOptions options_;
  std::unique_ptr<Windows> windows_;
};

/// A point of the validation curve.
struct Validation {
  std::int64_t iteration = 0;
  double loss = 0;
};

/// What was seen so far.
struct History {
  std::vector<double> losses;  // one an iteration
  std::vector<Validation> validations;
};

/// Truncated backpropagation through time with Adam; a window is one iteration. The state of
/// streams goes on from window to window, and is cleared where a file begins.
class Trainer {
 public:
  Trainer(Backend& backend, ParameterTable const& table, Tokens const& text,
          TrainingOptions const& options);

  std::string engine() const { return network_.engine(); }
  std::int64_t iteration() const { return iteration_; }
  /// Those of all iterations since the trainer was made.
  std::int64_t characters() const { return characters_; }
  std::int64_t iterations_per_epoch() const { return windows_->count(); }
  float const* parameters() const { return parameters_.data(); }
  History const& history() const { return history_; }

  /// One update. On the GPU it is enqueued only.
  void iterate();

  /// Whether `collect_losses` has to be called before the next update.
  bool must_collect() const { return pending_ == losses_.size(); }

  /// Waits for the updates and takes their losses into the history. Throws where one is not finite.
  void collect_losses();

  void add_validation(double loss) { history_.validations.push_back({iteration_, loss}); }

  /// Everything that a later run needs to go on exactly as this one would; call `collect_losses`
  /// before.
  void save(SafeTensors& file) const;
  void restore(SafeTensors const& file);
  /// The weights alone.
  void load_weights(SafeTensors const& file);

 private:
  double rate() const;
  void save_block(SafeTensors& file, std::string const& prefix, Buffer<float> const& block) const;
  void load_block(SafeTensors const& file, std::string const& prefix, Buffer<float>& block) const;

  Backend* backend_;
  ParameterTable const* table_;
  TrainingOptions options_;
  std::unique_ptr<Windows> windows_;
  Network network_;
  Buffer<float> parameters_;
  Buffer<float> gradient_;
  Buffer<float> first_moment_;
  Buffer<float> second_moment_;
  Buffer<double> losses_;
  std::int64_t pending_ = 0;  // losses not collected yet
  std::int64_t iteration_ = 0;
  std::int64_t characters_ = 0;
  History history_;
};

/// A block of parameters out of a file.
std::vector<float> read_parameters(SafeTensors const& file, ParameterTable const& table,
                                   std::string const& prefix);

}  // namespace char_model
