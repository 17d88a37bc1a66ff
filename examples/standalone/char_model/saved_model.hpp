// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "model.hpp"
#include "safetensors.hpp"
#include "text.hpp"
#include "trainer.hpp"

namespace char_model {

/// What a saved model is besides its weights and its training state.
struct ModelDescription {
  ModelSizes sizes;
  Vocabulary vocabulary;
  TrainingOptions training;
  std::uint64_t text_fingerprint = 0;  // of the text that it learnt
};

/// A saved model as it lies in its file.
struct SavedModel {
  ModelDescription description;
  SafeTensors tensors;
};

/// Throws, naming the file, where it is not a model that this demo saved.
SavedModel read_model(std::string const& path);

void write_model(std::string const& path, ModelDescription const& description,
                 Trainer const& trainer);

}  // namespace char_model
