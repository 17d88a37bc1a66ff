// SPDX-License-Identifier: Apache-2.0
#include "saved_model.hpp"

#include <charconv>
#include <limits>
#include <stdexcept>
#include <system_error>

#include "options.hpp"

namespace char_model {
namespace {

constexpr char const* kFormat = "gru char_model 1";

/// A whole number of the metadata, and nothing behind it.
template <typename T>
T number(SafeTensors const& file, std::string const& key, T least, T most) {
  std::string const& text = file.text(key);
  T value{};
  auto const [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  bool const is_whole = error == std::errc{} && end == text.data() + text.size();
  if (is_whole && value >= least && value <= most) return value;
  throw std::runtime_error{"its " + key + " is '" + text + "', no number from " +
                           std::to_string(least) + " to " + std::to_string(most)};
}

ModelDescription read_description(SafeTensors const& file) {
  if (file.text("format") != kFormat) throw std::runtime_error{"another program saved it"};
  ModelDescription d;
  d.vocabulary = Vocabulary{file.get<std::uint8_t>("vocabulary", {-1})};
  d.sizes.vocabulary = d.vocabulary.size();
  if (d.sizes.vocabulary < 1) throw std::runtime_error{"it knows no character"};
  d.sizes.embedding = number<std::int64_t>(file, "embedding", 1, kLargestSize);
  d.sizes.hidden = number<std::int64_t>(file, "hidden", 1, kLargestSize);
  d.sizes.layers = number<std::int64_t>(file, "layers", 1, kMostLayers);
  // Before memory is allocated by these sizes.
  for (Parameter const& parameter : ParameterTable{d.sizes}.all()) {
    file.check<float>(parameter.name, parameter.shape);
  }
  d.training = training_options_from_json(file.text("training"));
  d.text_fingerprint =
      number<std::uint64_t>(file, "text", 0, std::numeric_limits<std::uint64_t>::max());
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
