// SPDX-License-Identifier: Apache-2.0
#include "saved_model.hpp"

#include <algorithm>
#include <stdexcept>

#include "options.hpp"

namespace char_model {
namespace {

constexpr char const* kFormat = "gru char_model 1";

ModelDescription read_description(SafeTensors const& file) {
  if (file.text("format") != kFormat) throw std::runtime_error{"another program saved it"};
  ModelDescription d;
  d.vocabulary = Vocabulary{file.get<std::uint8_t>("vocabulary", {-1})};
  d.sizes.vocabulary = d.vocabulary.size();
  d.sizes.embedding = std::stoll(file.text("embedding"));
  d.sizes.hidden = std::stoll(file.text("hidden"));
  d.sizes.layers = std::stoll(file.text("layers"));
  d.training = training_options_from_json(file.text("training"));
  d.text_fingerprint = std::stoull(file.text("text"));
  if (std::min({d.sizes.vocabulary, d.sizes.embedding, d.sizes.hidden, d.sizes.layers}) < 1) {
    throw std::runtime_error{"its sizes make no model"};
  }
  return d;
}

}  // namespace

SavedModel read_model(std::string const& path) {
  SafeTensors tensors = SafeTensors::read(path);
  try {
    ModelDescription description = read_description(tensors);
    return {std::move(description), std::move(tensors)};
  } catch (std::exception const& error) {
    throw std::runtime_error{path + " is no model of this demo: " + error.what()};
  }
}

void write_model(std::string const& path, ModelDescription const& description,
                 Trainer const& trainer) {
  SafeTensors file;
  file.metadata["format"] = kFormat;
  file.metadata["embedding"] = std::to_string(description.sizes.embedding);
  file.metadata["hidden"] = std::to_string(description.sizes.hidden);
  file.metadata["layers"] = std::to_string(description.sizes.layers);
  file.metadata["training"] = to_json(description.training);
  file.metadata["text"] = std::to_string(description.text_fingerprint);
  file.metadata["iteration"] = std::to_string(trainer.iteration());
  file.add("vocabulary", {description.vocabulary.size()}, description.vocabulary.bytes());
  trainer.save(file);
  file.write(path);
}

}  // namespace char_model
