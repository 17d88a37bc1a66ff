// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <limits>
#include <optional>
#include <stdexcept>

#include "curve.hpp"
#include "options.hpp"
#include "progress.hpp"
#include "run_length.hpp"
#include "sampler.hpp"
#include "saved_model.hpp"
#include "text.hpp"
#include "trainer.hpp"

#include <gru/policy.hpp>

// A character-level language model, from the text to the weights to a sample. The library's passes
// are called in model.cpp (training) and sampler.cpp (one step at a time).
namespace char_model {
namespace {

constexpr double kSecondsBetweenShows = 0.2;

volatile std::sig_atomic_t interrupted = 0;

void interrupt(int) {
  interrupted = 1;
  std::signal(SIGINT, SIG_DFL);  // a second one ends the program at once
}

/// The library's engine of that name; what names none is up to the policy.
gru::Engine engine_named(std::string const& name) {
  using gru::Engine;
  for (Engine const engine : {Engine::kStepwise, Engine::kCluster, Engine::kGrid,
                              Engine::kClusterFma, Engine::kGridFma}) {
    if (name == gru::to_string(engine)) return engine;
  }
  return Engine::kAutomatic;
}

std::unique_ptr<Backend> make_backend(Options const& options) {
  if (options.engine != "host") {
    std::string reason;
    std::unique_ptr<Backend> gpu = make_gpu_backend(engine_named(options.engine), reason);
    if (gpu != nullptr) return gpu;
    if (options.engine != "auto") throw std::runtime_error{"no GPU can be used: " + reason};
    std::printf("No GPU can be used (%s): running on the host.\n", reason.c_str());
  }
  return make_host_backend(options.threads);
}

std::optional<SavedModel> saved_model(Options const& options) {
  if (!options.resume.empty()) return read_model(options.resume);
  if (!options.load.empty()) return read_model(options.load);
  return std::nullopt;
}

Corpus read_corpus(Options const& options) {
  return options.text.empty() ? read_sources(CHAR_MODEL_SOURCES) : read_files(options.text);
}

ModelDescription describe(Options const& options, std::optional<SavedModel> const& saved,
                          Corpus const& corpus) {
  ModelDescription description;
  if (saved) {
    description = saved->description;
  } else {
    description.vocabulary = Vocabulary{corpus.text};
    description.sizes = {description.vocabulary.size(), options.embedding, options.hidden,
                         options.layers};
  }
  description.training = resolve(options, description.training);
  description.text_fingerprint = fingerprint(corpus.text);
  return description;
}

/// Throws where a file cannot be written, and leaves what is there as it is.
void check_writable(std::string const& path) {
  namespace fs = std::filesystem;
  bool const exists = fs::exists(fs::symlink_status(path));
  if (exists && !fs::is_regular_file(path) && !fs::is_directory(path)) return;  // a device, a pipe
  if (!std::ofstream{path, std::ios::app}) throw std::runtime_error{"cannot write " + path};
  if (!exists) fs::remove(path);
}

/// Throws where the results could not be written, which nobody wants to learn after the training.
void check_results(Options const& options, Vocabulary const& vocabulary) {
  if (options.sample > 0) vocabulary.encode(options.prompt);
  for (std::string const& path : {options.log, options.plot}) {
    if (!path.empty()) check_writable(path);
  }
  if (options.save.empty()) return;
  if (std::filesystem::is_directory(options.save)) {
    throw std::runtime_error{"cannot write " + options.save + ", a directory"};
  }
  check_writable(SafeTensors::temporary(options.save));
}

// ---- Training -----------------------------------------------------------------------------------

/// The mean of the last losses.
double recent_loss(History const& history) {
  constexpr std::size_t kRecent = 20;
  std::size_t const count = std::min(kRecent, history.losses.size());
  double sum = 0;
  for (std::size_t i = 0; i < count; ++i) sum += history.losses[history.losses.size() - 1 - i];
  return sum / static_cast<double>(count);
}

void train(Trainer& trainer, Validator* validator, int validations, RunLength const& length,
           double unigram) {
  Progress progress{unigram};
  Clock clock;
  std::int64_t const first = trainer.iteration();
  double shown = 0;
  int validated = 0;
  std::signal(SIGINT, interrupt);
  bool ended = false;
  while (!ended) {
    trainer.iterate();
    auto const iterations = static_cast<double>(trainer.iteration() - first);
    double const seconds = clock.seconds();
    double const fraction = length.fraction(seconds, iterations);
    ended = fraction >= 1 || interrupted != 0;
    bool const validates =
        validator != nullptr && (ended || fraction * validations >= validated + 1);
    bool const shows = validates || ended || seconds - shown >= kSecondsBetweenShows;
    if (!shows && !trainer.must_collect()) continue;

    trainer.collect_losses();
    Status status;
    status.fraction = fraction;
    status.iteration = trainer.iteration();
    status.loss = recent_loss(trainer.history());
    status.characters_per_second = static_cast<double>(trainer.characters()) / clock.seconds();
    if (validates) {
      trainer.add_validation(validator->loss(trainer.parameters()));
      ++validated;
    }
    shown = clock.seconds();
    status.seconds_left = length.seconds_left(shown, iterations);
    progress.show(status);
  }
  std::signal(SIGINT, SIG_DFL);
}

// ---- Results ------------------------------------------------------------------------------------

void print_loss(char const* what, double loss, double unigram) {
  double const bit = std::log(2.0);
  std::printf("%-8s loss %.3f nats (%.3f bits) a character, unigram entropy %.3f (%.3f)\n", what,
              loss, loss / bit, unigram, unigram / bit);
}

void write_log(std::string const& path, History const& history) {
  std::ofstream out{path};
  out << "iteration,loss,held_out\n"
      << std::setprecision(std::numeric_limits<double>::max_digits10);
  auto validation = history.validations.begin();
  for (std::size_t i = 0; i < history.losses.size(); ++i) {
    out << i + 1 << ',' << history.losses[i] << ',';
    bool const validated = validation != history.validations.end() &&
                           validation->iteration == static_cast<std::int64_t>(i) + 1;
    if (validated) out << (validation++)->loss;
    out << '\n';
  }
  out.close();
  if (!out) throw std::runtime_error{"cannot write " + path};
}

void write_sample(Backend& backend, ParameterTable const& table, float const* parameters,
                  ModelDescription const& description, Options const& options) {
  Sampler::Options how;
  how.temperature = options.temperature;
  how.zoneout = description.training.zoneout;
  how.dropconnect = description.training.dropconnect;
  how.type = description.training.type;
  how.seed = description.training.seed;
  Sampler sampler{backend, table, parameters, how};
  std::string prompt = options.prompt;
  if (prompt.empty())
    prompt = description.vocabulary.knows('\n') ? '\n' : description.vocabulary.decode(0);
  for (std::uint8_t const token : description.vocabulary.encode(prompt)) sampler.feed(token);

  std::printf("\n---- sample at temperature %g ----\n%s", options.temperature, prompt.c_str());
  for (std::int64_t i = 0; i < options.sample; ++i) {
    std::uint8_t const token = sampler.draw();
    std::putchar(description.vocabulary.decode(token));
    sampler.feed(token);
  }
  std::printf("\n---- end of sample ----\n");
}

// ---- The two ways through the program -----------------------------------------------------------

void sample_only(Backend& backend, Options const& options, SavedModel const& saved) {
  ParameterTable const table{saved.description.sizes};
  Buffer<float> const parameters{backend, read_parameters(saved.tensors, table, "")};
  ModelDescription description = saved.description;
  description.training = resolve(options, description.training);
  write_sample(backend, table, parameters.data(), description, options);
}

void train_and_sample(Backend& backend, Options const& options,
                      std::optional<SavedModel> const& saved) {
  Clock const clock;
  Corpus const corpus = read_corpus(options);
  ModelDescription const description = describe(options, saved, corpus);
  check_results(options, description.vocabulary);
  bool const lines = description.training.lines;
  SplitText const text =
      encode_and_split(lines ? shuffled_lines(corpus, description.training.seed) : corpus,
                       description.vocabulary, options.held_out);
  double const unigram = unigram_entropy(text.training);
  ParameterTable const table{description.sizes};
  std::printf("Text: %zu characters of %zu files, %lld different; %zu held out.\n",
              corpus.text.size(), corpus.files,
              static_cast<long long>(description.vocabulary.size()), text.held_out.tokens.size());

  Trainer trainer{backend, table, text.training, description.training};
  if (!options.resume.empty()) {
    trainer.restore(saved->tensors);
    std::printf("Going on after iteration %lld.\n", static_cast<long long>(trainer.iteration()));
    if (saved->description.text_fingerprint != description.text_fingerprint) {
      std::printf("The text has changed since: the run cannot go on exactly as it would have.\n");
    }
  } else if (saved) {
    trainer.load_weights(saved->tensors);
  }
  std::printf("Model: %lld weights. Running on %s, GRU engine: %s.\n",
              static_cast<long long>(table.weights()), backend.description().c_str(),
              trainer.engine().c_str());

  std::optional<Validator> validator;
  if (!text.held_out.empty()) {
    validator.emplace(backend, table, text.held_out, description.training);
  }
  train(trainer, validator ? &*validator : nullptr, options.validations,
        RunLength{options, trainer.iterations_per_epoch()}, unigram);

  std::printf("\n%s\n", terminal_curve(trainer.history(), unigram).c_str());
  print_loss("training", recent_loss(trainer.history()), unigram);
  if (validator) {
    print_loss("held-out", trainer.history().validations.back().loss,
               unigram_entropy(text.held_out));
  }
  if (!options.save.empty()) {
    write_model(options.save, description, trainer);
    std::printf("Saved to %s after iteration %lld.\n", options.save.c_str(),
                static_cast<long long>(trainer.iteration()));
  }
  if (!options.log.empty()) write_log(options.log, trainer.history());
  if (options.sample > 0) {
    write_sample(backend, table, trainer.parameters(), description, options);
  }
  if (!options.plot.empty()) {
    plot_curve(options.plot, trainer.history(), unigram);
    std::printf("Loss curve drawn in %s.\n", options.plot.c_str());
  }
  std::printf("%.0f seconds in all.\n", clock.seconds());
}

void run(Options const& options) {
  std::optional<SavedModel> const saved = saved_model(options);
  bool const trains = !RunLength::is_zero(options);
  if (!trains && !saved) throw std::runtime_error{"a run of no length needs --load or --resume"};
  if (!trains && !(options.save + options.plot + options.log).empty()) {
    throw std::runtime_error{"a run of no length has nothing for --save, --plot or --log"};
  }
  std::unique_ptr<Backend> const backend = make_backend(options);
  if (trains) {
    train_and_sample(*backend, options, saved);
  } else {
    sample_only(*backend, options, *saved);
  }
}

}  // namespace
}  // namespace char_model

int main(int argc, char** argv) {
  auto const [options, exit_code] = char_model::parse_options(argc, argv);
  try {
    if (options) char_model::run(*options);
  } catch (std::exception const& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "char_model: %s\n", error.what());
    return 1;
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    std::fprintf(stderr, "char_model: cannot write to the standard output\n");
    return 1;
  }
  return exit_code;
}
