// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "backend.hpp"
#include "model.hpp"

namespace char_model {

/// Draws text from the model, a character at a time, by ForwardPass::step: the state stays in the
/// backend's memory and is updated in place.
class Sampler {
 public:
  struct Options {
    double temperature = 1;  // 0 = the likeliest character
    double zoneout = 0;      // as in training; here they weight instead of dropping
    double dropconnect = 0;
    DataType type = DataType::kFloat;
    std::uint64_t seed = 0;
  };

  Sampler(Backend& backend, ParameterTable const& table, float const* parameters,
          Options const& options);

  /// Puts one character in.
  void feed(std::uint8_t token);

  /// The next character, by the softmax of the logits divided by the temperature.
  std::uint8_t draw();

 private:
  struct Layer {
    std::unique_ptr<GruPasses> passes;
    Buffer<float> state;  // [1, H]
  };

  Backend* backend_;
  ParameterTable const* table_;
  float const* parameters_;
  Options options_;
  std::uint64_t drawn_ = 0;
  Buffer<std::uint8_t> token_;  // [1]
  Buffer<float> embedded_;      // [1, E]
  Buffer<float> logits_;        // [1, V]
  std::vector<Layer> layers_;
};

}  // namespace char_model
