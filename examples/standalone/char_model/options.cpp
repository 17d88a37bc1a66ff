// SPDX-License-Identifier: Apache-2.0
#include "options.hpp"

#include <CLI/CLI.hpp>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <type_traits>

namespace char_model {

NLOHMANN_JSON_SERIALIZE_ENUM(DataType, {{DataType::kFloat, "float"},
                                        {DataType::kHalf, "half"},
                                        {DataType::kBfloat16, "bfloat16"}})
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(TrainingOptions, batch, steps, rate, clip, zoneout, dropconnect,
                                   type, lines, seed)

namespace {

constexpr double kLargestRate = 0.999;  // of zoneout and DropConnect
constexpr double kLargestFloat = std::numeric_limits<float>::max();
constexpr double kLongest = 1e9;                               // seconds or epochs
constexpr std::int64_t kLargestCount = std::int64_t{1} << 53;  // a double counts as far

constexpr char const* kDescription =
    "Trains a character-level GRU language model and writes text with it.\n"
    "Without options it learns this repository's own sources for a bit more than a minute.";

/// As CLI::Range, which lets NaN through and prints large limits with all their digits.
CLI::Validator within(double least, double most) {
  std::ostringstream range;
  range << '[' << least << " - " << most << ']';
  auto const check = [least, most, range = range.str()](std::string& text) {
    double const value = std::strtod(text.c_str(), nullptr);
    return value >= least && value <= most ? "" : "Value " + text + " not in range " + range;
  };
  return {check, "in " + range.str()};
}

CLI::Range whole_numbers(std::int64_t least, std::int64_t most) {
  return CLI::Range{least, most};
}

std::string names_a_plot(std::string const& path) {
  std::string const ending = std::filesystem::path{path}.extension().string();
  return ending == ".svg" || ending == ".png" ? "" : path + " ends neither in .svg nor in .png";
}

void add_model(CLI::App& app, Options& o) {
  char const* const group = "Model (ignored with --load and --resume: the file has its own sizes)";
  app.add_option("--embedding", o.embedding, "Width of the embedding")
      ->check(whole_numbers(1, kLargestSize))
      ->capture_default_str()
      ->group(group);
  app.add_option("--hidden", o.hidden, "Width of the GRU layers")
      ->check(whole_numbers(1, kLargestSize))
      ->capture_default_str()
      ->group(group);
  app.add_option("--layers", o.layers, "Number of GRU layers")
      ->check(whole_numbers(1, kMostLayers))
      ->capture_default_str()
      ->group(group);
}

void add_training(CLI::App& app, Options& o) {
  TrainingOptions const defaults;
  auto const in_group = [](CLI::Option* option, auto const& value) {
    return option->default_str(nlohmann::json(value).dump())->group("Training");
  };
  CLI::Validator const is_rate = within(0, kLargestRate);
  in_group(app.add_option("--batch", o.batch, "Streams read side by side"), defaults.batch)
      ->check(whole_numbers(1, kLargestSize));
  in_group(app.add_option("--steps", o.steps, "Characters a stream between two updates"),
           defaults.steps)
      ->check(whole_numbers(1, kLargestSize));
  in_group(app.add_option("--rate", o.rate, "Adam's learning rate"), defaults.rate)
      ->check(within(0, kLargestFloat));
  in_group(app.add_option("--clip", o.clip, "Largest norm of the gradient, 0 = any"), defaults.clip)
      ->check(within(0, kLargestFloat));
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
  app.add_option("--seconds", o.seconds)->check(within(0, kLongest))->group(group);
  app.add_option("--epochs", o.epochs, "Passes over the text")
      ->check(within(0, kLongest))
      ->group(group);
  app.add_option("--iterations", o.iterations, "Updates; 0 = only write a sample")
      ->check(whole_numbers(0, kLargestCount))
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
      ->check(names_a_plot)
      ->group("Files");
  app.add_option("--log", o.log, "Write the loss of every iteration, and the held-out text's (CSV)")
      ->group("Files");
}

void add_sampling(CLI::App& app, Options& o) {
  app.add_option("--sample", o.sample, "Characters to write at the end, 0 = none")
      ->check(whole_numbers(0, kLargestCount))
      ->capture_default_str()
      ->group("Sample");
  app.add_option("--prompt", o.prompt, "How the sample begins (default: a new line)")
      ->group("Sample");
  app.add_option("--temperature", o.temperature, "0 = always the likeliest character")
      ->check(within(0, kLargestFloat))
      ->capture_default_str()
      ->group("Sample");
}

// ---- A saved model's ----------------------------------------------------------------------------

/// Throws where an option is not a number of this range; whole where T is.
template <typename T>
void check_saved(nlohmann::json const& options, char const* name, T least, T most) {
  nlohmann::json const& value = options.at(name);
  bool const is_t = std::is_integral_v<T> ? value.is_number_integer() : value.is_number();
  if (is_t && value.get<T>() >= least && value.get<T>() <= most) return;
  throw std::runtime_error{std::string{"its training has "} + name + " = " + value.dump()};
}

}  // namespace

ParsedOptions parse_options(int argc, char** argv) {
  Options options;
  CLI::App app{kDescription, "char_model"};
  app.add_option("--text", options.text, "Files to learn (default: this repository's sources)")
      ->check(CLI::ExistingFile);
  app.add_option("--held-out", options.held_out, "Share of the text, its end, kept for validation")
      ->check(within(0, 0.5))
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
  auto const json = nlohmann::json::parse(text);
  check_saved<std::int64_t>(json, "batch", 1, kLargestSize);
  check_saved<std::int64_t>(json, "steps", 1, kLargestSize);
  check_saved<double>(json, "rate", 0, kLargestFloat);
  check_saved<double>(json, "clip", 0, kLargestFloat);
  check_saved<double>(json, "zoneout", 0, kLargestRate);
  check_saved<double>(json, "dropconnect", 0, kLargestRate);
  check_saved<std::uint64_t>(json, "seed", 0, std::numeric_limits<std::uint64_t>::max());
  auto const options = json.get<TrainingOptions>();
  // The conversion makes float of a type that it does not know.
  if (json.at("type") != nlohmann::json(options.type)) {
    throw std::runtime_error{"its training has type = " + json.at("type").dump()};
  }
  return options;
}

}  // namespace char_model
