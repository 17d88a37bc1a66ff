// SPDX-License-Identifier: Apache-2.0
//
// Checks of the demo's parts: `gradients` on the host, `text`, `gpu` on the GPU beside the host
// (exit code 77 where there is none).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>

#include "backend.hpp"
#include "model.hpp"
#include "safetensors.hpp"
#include "text.hpp"
#include "trainer.hpp"

namespace char_model {
namespace {

int failures = 0;

void expect(bool condition, std::string const& claim) {
  if (!condition) ++failures;
  std::printf("%s: %s\n", condition ? "ok" : "FAILED", claim.c_str());
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", value);
  return text;
}

/// Random characters in files of random length.
Tokens random_text(std::size_t size, int vocabulary) {
  std::mt19937 generator{1};
  Tokens text;
  for (std::size_t i = 0; i < size; ++i) {
    text.tokens.push_back(static_cast<std::uint8_t>(generator() % unsigned(vocabulary)));
    text.starts.push_back(generator() % 20 == 0);
  }
  return text;
}

// ---- Gradients against differences of the loss --------------------------------------------------

class LossFunction {
 public:
  LossFunction(Backend& backend, ParameterTable const& table, Tokens const& text,
               NetworkOptions const& options)
      : network_{backend, table, options},
        parameters_{backend, table.block_size()},
        gradient_{backend, table.block_size()},
        loss_{backend, 1} {
    if (options.lines) {
      Lines{backend, text, options.steps, options.batch}.read(network_, 1);
      return;
    }
    // The second window, whose state the first leaves: random, as a state that goes on must count.
    std::mt19937 generator{2};
    std::uniform_real_distribution<float> uniform{-1, 1};
    for (std::int64_t l = 0; l < table.sizes().layers; ++l) {
      std::vector<float> state(static_cast<std::size_t>(options.batch * table.sizes().hidden));
      for (float& value : state) value = uniform(generator);
      network_.set_state(l, state);
    }
    Streams{backend, text, options.steps, options.batch}.read(network_, 1);
  }

  double loss(std::vector<float> const& parameters) {
    parameters_.upload(parameters);
    gru::Random random;
    random.seed = 3;
    network_.forward(parameters_.data(), random, loss_.data());
    return loss_.download().front();
  }

  std::vector<float> gradient(std::vector<float> const& parameters) {
    loss(parameters);
    network_.backward(parameters_.data(), gradient_.data());
    std::vector<float> sum = gradient_.download();
    for (float& value : sum) value /= static_cast<float>(network_.target_count());
    return sum;
  }

 private:
  Network network_;
  Buffer<float> parameters_;
  Buffer<float> gradient_;
  Buffer<double> loss_;
};

double norm(std::vector<float> const& values) {
  double sum = 0;
  for (float const value : values) sum += double{value} * double{value};
  return std::sqrt(sum);
}

/// The slope of the loss in a direction of length 1, by differences.
double slope(LossFunction& function, std::vector<float> const& at,
             std::vector<float> const& direction) {
  constexpr float kStep = 0.02f;
  std::vector<float> before = at;
  std::vector<float> behind = at;
  for (std::size_t i = 0; i < at.size(); ++i) {
    before[i] += kStep * direction[i];
    behind[i] -= kStep * direction[i];
  }
  return (function.loss(before) - function.loss(behind)) / (2 * double{kStep});
}

/// Along the gradient, the loss rises by the gradient's length; this fails for any wrong gradient
/// that is not merely too long or too short in directions that cancel.
void check_gradients(std::int64_t layers, double zoneout, double dropconnect, bool lines = false) {
  std::unique_ptr<Backend> const backend = make_host_backend(2);
  ParameterTable const table{{11, 6, 9, layers}};
  NetworkOptions options;
  options.steps = 7;
  options.batch = 5;
  options.zoneout = zoneout;
  options.dropconnect = dropconnect;
  options.lines = lines;
  options.training = true;
  LossFunction function{*backend, table, random_text(200, 11), options};
  std::vector<float> const parameters = initial_parameters(table, 4);
  std::vector<float> const gradient = function.gradient(parameters);
  for (Parameter const& parameter : table.all()) {
    std::vector<float> direction(gradient.size());
    auto const begin = gradient.begin() + parameter.offset;
    std::copy(begin, begin + parameter.size(), direction.begin() + parameter.offset);
    double const length = norm(direction);
    for (float& value : direction) value /= static_cast<float>(length);
    double const measured = slope(function, parameters, direction);
    expect(length > 1e-4 && std::fabs(measured - length) < 0.01 * length,
           std::to_string(layers) + (lines ? " layers, lines" : " layers, streams") + ", zoneout " +
               number(zoneout) + ", DropConnect " + number(dropconnect) + ": gradient of " +
               parameter.name + " is " + number(length) + " long, the loss's slope along it " +
               number(measured));
  }
}

// ---- The GPU beside the host --------------------------------------------------------------------

std::vector<double> losses(Trainer& trainer, int iterations) {
  for (int i = 0; i < iterations; ++i) {
    if (trainer.must_collect()) trainer.collect_losses();
    trainer.iterate();
  }
  trainer.collect_losses();
  return trainer.history().losses;
}

void check_gpu_beside_host(Backend& gpu, Backend& host, TrainingOptions const& options) {
  ParameterTable const table{{37, 20, 48, 2}};
  Tokens const text = random_text(5000, 37);
  constexpr int kIterations = 100;
  std::string const what = options.lines ? "lines: " : "streams: ";

  Trainer on_host{host, table, text, options};
  Trainer on_gpu{gpu, table, text, options};
  std::vector<double> const expected = losses(on_host, kIterations);
  std::vector<double> const seen = losses(on_gpu, kIterations);
  double worst = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    worst = std::max(worst, std::fabs(seen[i] - expected[i]) / expected[i]);
  }
  expect(worst < 1e-5,
         what + "all losses are the host's; largest relative difference " + number(worst));

  Validator on_host_held_out{host, table, text, options};
  Validator on_gpu_held_out{gpu, table, text, options};
  double const host_loss = on_host_held_out.loss(on_host.parameters());
  double const gpu_loss = on_gpu_held_out.loss(on_gpu.parameters());
  expect(std::fabs(gpu_loss - host_loss) < 1e-5 * host_loss,
         what + "the loss without masks is the host's: " + number(gpu_loss) + " and " +
             number(host_loss));

  Trainer again{gpu, table, text, options};
  losses(again, kIterations / 2);
  SafeTensors file;
  again.save(file);
  Trainer resumed{gpu, table, text, options};
  resumed.restore(file);
  expect(losses(resumed, kIterations - kIterations / 2) == seen,
         what + "a second run, saved and resumed half-way, has the same losses bit by bit");

  for (DataType const type : {DataType::kHalf, DataType::kBfloat16}) {
    TrainingOptions in_16_bits = options;
    in_16_bits.type = type;
    Trainer low_on_host{host, table, text, in_16_bits};
    Trainer low_on_gpu{gpu, table, text, in_16_bits};
    double const host_first = losses(low_on_host, 1).front();
    double const gpu_first = losses(low_on_gpu, 1).front();
    expect(std::fabs(gpu_first - host_first) < 1e-3 * host_first,
           what + "the first loss in 16 bits is the host's: " + number(gpu_first) + " and " +
               number(host_first));
  }
}

int check_gpu() {
  std::string reason;
  std::unique_ptr<Backend> const gpu = make_gpu_backend(gru::Engine::kAutomatic, reason);
  if (gpu == nullptr) {
    std::printf("no CUDA device: %s\n", reason.c_str());
    return 77;
  }
  std::unique_ptr<Backend> const host = make_host_backend(0);
  TrainingOptions options;
  options.batch = 9;
  options.steps = 13;
  options.zoneout = 0.1;
  options.dropconnect = 0.2;
  options.clip = 0.5;
  check_gpu_beside_host(*gpu, *host, options);
  options.lines = true;
  check_gpu_beside_host(*gpu, *host, options);
  return failures == 0 ? 0 : 1;
}

int check_all_gradients() {
  check_gradients(1, 0, 0);
  check_gradients(2, 0, 0);
  check_gradients(2, 0.2, 0.3);
  check_gradients(2, 0.2, 0.3, true);
  return failures == 0 ? 0 : 1;
}

// ---- Text ---------------------------------------------------------------------------------------

/// The lines in ascending order.
std::vector<std::string> lines_of(Corpus const& corpus) {
  Corpus const shuffled = shuffled_lines(corpus, 1);
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < shuffled.text.size(); ++i) {
    if (shuffled.starts[i] != 0) lines.emplace_back();
    lines.back() += shuffled.text[i];
  }
  std::sort(lines.begin(), lines.end());
  return lines;
}

int check_text() {
  using Strings = std::vector<std::string>;
  expect(lines_of({"b\nc\na\nd", {1, 0, 0, 1, 0, 0, 1}, 3}) ==
             Strings{"\n", "a\n", "b\n", "c\n", "d\n"},
         "a file's last line is a line, with or without its end");
  expect(lines_of({"abcd", {1, 0, 1, 0}, 2}) == Strings{"ab", "cd"},
         "a text without line ends gets none");
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace char_model

int main(int argc, char** argv) {
  std::string const what = argc > 1 ? argv[1] : "";
  if (what == "gradients") return char_model::check_all_gradients();
  if (what == "text") return char_model::check_text();
  if (what == "gpu") return char_model::check_gpu();
  std::fprintf(stderr, "usage: %s gradients|text|gpu\n", argv[0]);
  return 2;
}
