// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model.hpp"
#include "trainer.hpp"

namespace char_model {

/// The largest of each size (of the model, of a window): products of two and of bytes fit 64 bits.
constexpr std::int64_t kLargestSize = std::int64_t{1} << 24;
constexpr std::int64_t kMostLayers = 8;

/// What the command line says.
struct Options {
  std::vector<std::string> text;  // empty: this repository's sources
  std::string engine = "auto";
  int threads = 0;
  double held_out = 0.05;  // the share of the text that is kept for validation
  int validations = 5;     // in a run

  // The model. A file that is loaded decides instead.
  std::int64_t embedding = 64;
  std::int64_t hidden = 256;
  std::int64_t layers = 1;

  // Training. What is not given comes from the run that is resumed, else from the defaults.
  std::optional<std::int64_t> batch;
  std::optional<std::int64_t> steps;
  std::optional<double> rate;
  std::optional<double> clip;
  std::optional<double> zoneout;
  std::optional<double> dropconnect;
  std::optional<std::string> type;
  std::optional<bool> lines;
  std::optional<std::uint64_t> seed;

  // The run ends at the first of these.
  std::optional<double> seconds;
  std::optional<double> epochs;
  std::optional<std::int64_t> iterations;

  std::string load;
  std::string resume;
  std::string save;
  std::string plot;
  std::string log;

  std::int64_t sample = 400;
  std::string prompt;  // empty: a new line
  double temperature = 0.7;
};

/// Either the options, or the exit code of a command line that ends here (--help, or an error).
struct ParsedOptions {
  std::optional<Options> options;
  int exit_code = 0;
};

ParsedOptions parse_options(int argc, char** argv);

/// The training options given on the command line, the others from `base`.
TrainingOptions resolve(Options const& options, TrainingOptions const& base);

/// For the metadata of a saved model.
std::string to_json(TrainingOptions const& options);
/// Throws where a value is missing or is none that the command line would take.
TrainingOptions training_options_from_json(std::string const& text);

}  // namespace char_model
