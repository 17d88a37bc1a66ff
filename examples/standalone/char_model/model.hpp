// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend.hpp"

namespace char_model {

struct ModelSizes {
  std::int64_t vocabulary = 0;  // V
  std::int64_t embedding = 0;   // E
  std::int64_t hidden = 0;      // H
  std::int64_t layers = 0;
};

/// One tensor among the model's parameters, which lie in one block.
struct Parameter {
  std::string name;
  std::vector<std::int64_t> shape;
  std::int64_t offset = 0;  // in the block, in values

  std::int64_t size() const;
};

/// Where each parameter lies. Names and formats are those of torch.nn.Embedding, GRU and Linear, so
/// that PyTorch loads a saved model as it is; the library reads PyTorch's format in place.
class ParameterTable {
 public:
  struct Layer {
    Parameter kernel;            // W  [3H, E or H]
    Parameter recurrent_kernel;  // R  [3H, H]
    Parameter bias;              // bx [3H]
    Parameter recurrent_bias;    // br [3H]
  };

  explicit ParameterTable(ModelSizes const& sizes);

  ModelSizes const& sizes() const { return sizes_; }
  Parameter const& embedding() const { return embedding_; }  // [V, E]
  std::vector<Layer> const& layers() const { return layers_; }
  Parameter const& linear_weight() const { return linear_weight_; }  // [V, H]
  Parameter const& linear_bias() const { return linear_bias_; }      // [V]

  std::vector<Parameter> all() const;
  std::int64_t weights() const;                            ///< The number of weights.
  std::int64_t block_size() const { return block_size_; }  ///< With the gaps that align them.

 private:
  Parameter place(std::string name, std::vector<std::int64_t> shape);

  ModelSizes sizes_;
  std::int64_t block_size_ = 0;
  Parameter embedding_;
  std::vector<Layer> layers_;
  Parameter linear_weight_;
  Parameter linear_bias_;
};

/// A block of parameters as drawn before training.
std::vector<float> initial_parameters(ParameterTable const& table, std::uint64_t seed);

/// The Problem of layer `layer`, with the options that are the same wherever the model runs.
gru::Problem layer_problem(ModelSizes const& sizes, std::int64_t layer);

/// The weights of a layer, given the block of parameters.
gru::Weights<float> layer_weights(ParameterTable::Layer const& layer, float const* parameters);

struct NetworkOptions {
  std::int64_t steps = 0;  // T
  std::int64_t batch = 0;  // N
  double zoneout = 0;
  double dropconnect = 0;
  DataType type = DataType::kFloat;
  bool lines = false;     // windows are lines, not pieces of streams
  bool training = false;  // draw masks, keep what backward needs
};

/// The model over windows: T characters of N streams, where the state goes from window to window,
/// or N lines of up to T characters.
class Network {
 public:
  Network(Backend& backend, ParameterTable const& table, NetworkOptions const& options);

  std::string engine() const { return layers_.front().passes->engine(); }

  /// Reads the window at `cursor`.
  void read(TextView const& text, std::int64_t cursor);

  /// Reads the lines from `first` on, which have so many targets.
  void read(LinesView const& lines, std::int64_t first, std::int64_t targets);

  /// The characters of the window that have a next one.
  std::int64_t target_count() const { return target_count_; }

  /// From the window to the mean loss, in the backend's memory.
  void forward(float const* parameters, gru::Random const& random, double* loss);

  /// After `forward`, to the gradient of all parameters: that of the sum of the losses, which is
  /// `target_count` times the mean's.
  void backward(float const* parameters, float* gradient);

  /// The state after this window becomes the state before the next.
  void carry_state();

  /// The state before the next window, a layer.
  std::vector<float> state(std::int64_t layer) const;
  void set_state(std::int64_t layer, std::vector<float> const& state);

 private:
  struct Layer {
    std::int64_t inputs;
    std::unique_ptr<GruPasses> passes;
    Buffer<float> h;            // [T, N, H]
    Buffer<float> state;        // [N, H]
    Buffer<float> final_state;  // [N, H]
  };

  std::int64_t rows() const { return options_.steps * options_.batch; }
  float const* layer_input(std::size_t layer) const;
  gru::Random layer_random(std::size_t layer) const;
  void layers_forward(float const* parameters);
  void layers_backward(float const* parameters, float* gradient);

  Backend* backend_;
  ParameterTable const* table_;
  NetworkOptions options_;
  gru::Random random_;
  std::int64_t target_count_ = 0;

  Buffer<std::uint8_t> tokens_;   // [T, N]
  Buffer<std::uint8_t> targets_;  // [T, N]
  Buffer<std::uint8_t> starts_;   // [T, N], none for lines
  Buffer<std::int32_t> lengths_;  // [N], for lines
  Buffer<float> embedded_;        // [T, N, E]
  std::vector<Layer> layers_;
  Buffer<float> logits_;       // [T, N, V], then their gradient
  Buffer<double> row_losses_;  // [T, N]
  Buffer<float> dh_;           // [T, N, H], the gradient of a layer's output
  Buffer<float> dx_;           // [T, N, E or H], the gradient of its input
};

}  // namespace char_model
