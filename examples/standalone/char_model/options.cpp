// SPDX-License-Identifier: Apache-2.0
#include "options.hpp"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

namespace char_model {

NLOHMANN_JSON_SERIALIZE_ENUM(DataType, {{DataType::kFloat, "float"},
                                        {DataType::kHalf, "half"},
                                        {DataType::kBfloat16, "bfloat16"}})
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(TrainingOptions, batch, steps, rate, clip, zoneout, dropconnect,
                                   type, lines, seed)

namespace {

constexpr char const* kDescription =
    "Trains a character-level GRU language model and writes text with it.\n"
    "Without options it learns this repository's own sources for a bit more than a minute.";

void add_model(CLI::App& app, Options& o) {
  app.add_option("--embedding", o.embedding, "Width of the embedding")
      ->check(CLI::PositiveNumber)
      ->capture_default_str()
      ->group("Model");
  app.add_option("--hidden", o.hidden, "Width of the GRU layers")
      ->check(CLI::PositiveNumber)
      ->capture_default_str()
      ->group("Model");
  app.add_option("--layers", o.layers, "Number of GRU layers")
      ->check(CLI::Range(1, 8))
      ->capture_default_str()
      ->group("Model");
}

void add_training(CLI::App& app, Options& o) {
  TrainingOptions const defaults;
  auto const in_group = [](CLI::Option* option, auto const& value) {
    return option->default_str(nlohmann::json(value).dump())->group("Training");
  };
  CLI::Range const is_rate{0.0, 0.999};
  in_group(app.add_option("--batch", o.batch, "Streams read side by side"), defaults.batch)
      ->check(CLI::PositiveNumber);
  in_group(app.add_option("--steps", o.steps, "Characters a stream between two updates"),
           defaults.steps)
      ->check(CLI::PositiveNumber);
  in_group(app.add_option("--rate", o.rate, "Adam's learning rate"), defaults.rate)
      ->check(CLI::NonNegativeNumber);
  in_group(app.add_option("--clip", o.clip, "Largest norm of the gradient, 0 = any"), defaults.clip)
      ->check(CLI::NonNegativeNumber);
  in_group(app.add_option("--zoneout", o.zoneout, "Rate of zoneout"), defaults.zoneout)
      ->check(is_rate);
  in_group(app.add_option("--dropconnect", o.dropconnect, "Rate of DropConnect on R"),
           defaults.dropconnect)
      ->check(is_rate);
  in_group(app.add_option("--type", o.type, "What the GRU computes in; its weights stay float"),
           defaults.type)
      ->check(CLI::IsMember({"float", "half", "bfloat16"}));
  app.add_flag("--lines", o.lines, "Learn each line by itself, up to --steps characters of it")
      ->group("Training");
  in_group(app.add_option("--seed", o.seed, "Of the weights, masks and samples"), defaults.seed);
}

void add_length(CLI::App& app, Options& o) {
  char const* const group = "Length of this run (default: 75 seconds, at most 10 epochs)";
  app.add_option("--seconds", o.seconds)->check(CLI::NonNegativeNumber)->group(group);
  app.add_option("--epochs", o.epochs, "Passes over the text")
      ->check(CLI::NonNegativeNumber)
      ->group(group);
  app.add_option("--iterations", o.iterations, "Updates; 0 = only write a sample")
      ->check(CLI::NonNegativeNumber)
      ->group(group);
}

void add_files(CLI::App& app, Options& o) {
  app.add_option("--save", o.save, "Write weights and training state (safetensors)")
      ->group("Files");
  auto* const load = app.add_option("--load", o.load, "Begin with the weights of a saved model")
                         ->check(CLI::ExistingFile)
                         ->group("Files");
  app.add_option("--resume", o.resume, "Go on with a saved run exactly where it ended")
      ->check(CLI::ExistingFile)
      ->excludes(load)
      ->group("Files");
  app.add_option("--plot", o.plot, "Draw the loss curve: .svg, or .png by Python's matplotlib")
      ->group("Files");
  app.add_option("--log", o.log, "Write the loss of every iteration, and the held-out text's (CSV)")
      ->group("Files");
}

void add_sampling(CLI::App& app, Options& o) {
  app.add_option("--sample", o.sample, "Characters to write at the end, 0 = none")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->group("Sample");
  app.add_option("--prompt", o.prompt, "How the sample begins (default: a new line)")
      ->group("Sample");
  app.add_option("--temperature", o.temperature, "0 = always the likeliest character")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->group("Sample");
}

}  // namespace

ParsedOptions parse_options(int argc, char** argv) {
  Options options;
  CLI::App app{kDescription, "char_model"};
  app.add_option("--text", options.text, "Files to learn (default: this repository's sources)")
      ->check(CLI::ExistingFile);
  app.add_option("--held-out", options.held_out, "Share of the text, its end, kept for validation")
      ->check(CLI::Range(0.0, 0.5))
      ->capture_default_str();
  app.add_option("--validations", options.validations, "How often the loss on that is computed")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option(
         "--engine", options.engine,
         "auto = the GPU if there is one, else the host; gpu = the fastest engine there, or "
         "else the named one")
      ->check(CLI::IsMember(
          {"auto", "host", "gpu", "stepwise", "cluster", "grid", "cluster_fma", "grid_fma"}))
      ->capture_default_str();
  app.add_option("--threads", options.threads, "Threads of the host engine, 0 = as many as CPUs")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  add_model(app, options);
  add_training(app, options);
  add_length(app, options);
  add_files(app, options);
  add_sampling(app, options);
  try {
    app.parse(argc, argv);
  } catch (CLI::ParseError const& error) {
    return {std::nullopt, app.exit(error)};
  }
  return {options, 0};
}

TrainingOptions resolve(Options const& options, TrainingOptions const& base) {
  TrainingOptions result;
  result.batch = options.batch.value_or(base.batch);
  result.steps = options.steps.value_or(base.steps);
  result.rate = options.rate.value_or(base.rate);
  result.clip = options.clip.value_or(base.clip);
  result.zoneout = options.zoneout.value_or(base.zoneout);
  result.dropconnect = options.dropconnect.value_or(base.dropconnect);
  result.type = options.type ? nlohmann::json(*options.type).get<DataType>() : base.type;
  result.lines = options.lines.value_or(base.lines);
  result.seed = options.seed.value_or(base.seed);
  return result;
}

std::string to_json(TrainingOptions const& options) {
  return nlohmann::json(options).dump();
}

TrainingOptions training_options_from_json(std::string const& text) {
  return nlohmann::json::parse(text).get<TrainingOptions>();
}

}  // namespace char_model
