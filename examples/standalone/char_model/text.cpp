// SPDX-License-Identifier: Apache-2.0
#include "text.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <stdexcept>

namespace char_model {
namespace {

namespace fs = std::filesystem;

void append_file(Corpus& corpus, fs::path const& path) {
  std::ifstream in{path, std::ios::binary};
  if (!in) throw std::runtime_error{"cannot read " + path.string()};
  std::string const text{std::istreambuf_iterator<char>{in}, {}};
  if (in.bad()) throw std::runtime_error{"cannot read " + path.string()};
  if (text.empty()) return;
  corpus.starts.push_back(1);
  corpus.starts.resize(corpus.starts.size() + text.size() - 1, 0);
  corpus.text += text;
  ++corpus.files;
}

bool is_source(fs::path const& path) {
  static constexpr char const* kExtensions[] = {".hpp", ".cuh", ".cpp", ".cu", ".md"};
  auto const matches = [&](char const* extension) { return path.extension() == extension; };
  return std::any_of(std::begin(kExtensions), std::end(kExtensions), matches);
}

bool is_skipped(fs::path const& directory) {
  std::string const name = directory.filename().string();
  return name.rfind('.', 0) == 0 || name.rfind("build", 0) == 0;
}

std::vector<fs::path> sources_under(fs::path const& root) {
  std::vector<fs::path> paths;
  fs::recursive_directory_iterator entry{root};
  for (; entry != fs::recursive_directory_iterator{}; ++entry) {
    if (entry->is_directory() && is_skipped(entry->path())) entry.disable_recursion_pending();
    if (entry->is_regular_file() && is_source(entry->path())) paths.push_back(entry->path());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace

Corpus read_files(std::vector<std::string> const& paths) {
  Corpus corpus;
  for (std::string const& path : paths) {
    if (!fs::is_regular_file(path)) throw std::runtime_error{path + " is not a file"};
    append_file(corpus, path);
  }
  return corpus;
}

Corpus read_sources(std::string const& root) {
  if (!fs::is_directory(root)) {
    throw std::runtime_error{"no sources at " + root + "; give a text with --text FILE"};
  }
  Corpus corpus;
  for (fs::path const& path : sources_under(root)) append_file(corpus, path);
  return corpus;
}

Corpus shuffled_lines(Corpus const& corpus, std::uint64_t seed) {
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < corpus.text.size(); ++i) {
    bool const begins = i == 0 || corpus.starts[i] != 0 || corpus.text[i - 1] == '\n';
    if (begins) lines.emplace_back();
    lines.back() += corpus.text[i];
  }
  // A file's last line may lack its end; the vocabulary has that only where the text does.
  bool const have_ends = corpus.text.find('\n') != std::string::npos;
  for (std::string& line : lines) {
    if (have_ends && line.back() != '\n') line += '\n';
  }
  std::mt19937_64 generator{seed};
  for (std::size_t i = lines.size(); i > 1; --i) std::swap(lines[i - 1], lines[generator() % i]);
  Corpus shuffled;
  for (std::string const& line : lines) {
    shuffled.starts.push_back(1);
    shuffled.starts.resize(shuffled.starts.size() + line.size() - 1, 0);
    shuffled.text += line;
  }
  shuffled.files = corpus.files;
  return shuffled;
}

Vocabulary::Vocabulary(std::string const& text) {
  std::array<bool, 256> occurs{};
  for (char const c : text) occurs[static_cast<std::uint8_t>(c)] = true;
  for (int byte = 0; byte < 256; ++byte) {
    if (occurs[byte]) bytes_.push_back(static_cast<std::uint8_t>(byte));
  }
  number();
}

Vocabulary::Vocabulary(std::vector<std::uint8_t> bytes) : bytes_{std::move(bytes)} {
  number();
}

void Vocabulary::number() {
  if (size() > 255) throw std::runtime_error{"a file in which every byte occurs is no text"};
  tokens_.fill(-1);
  int next = 0;
  for (std::uint8_t const byte : bytes_) tokens_[byte] = next++;
}

std::vector<std::uint8_t> Vocabulary::encode(std::string const& text) const {
  std::vector<std::uint8_t> tokens;
  tokens.reserve(text.size());
  for (char const c : text) {
    auto const byte = static_cast<std::uint8_t>(c);
    if (tokens_[byte] < 0) {
      throw std::runtime_error{"the model does not know the byte " + std::to_string(byte) +
                               (byte > 32 && byte < 127 ? std::string{" ('"} + c + "')" : "")};
    }
    tokens.push_back(static_cast<std::uint8_t>(tokens_[byte]));
  }
  return tokens;
}

SplitText encode_and_split(Corpus const& corpus, Vocabulary const& vocabulary, double held_out) {
  constexpr std::ptrdiff_t kLine = 80;
  std::vector<std::uint8_t> const tokens = vocabulary.encode(corpus.text);
  auto const size = static_cast<std::ptrdiff_t>(tokens.size());
  auto tail = static_cast<std::ptrdiff_t>(held_out * static_cast<double>(size));
  if (tail < kLine) tail = 0;
  auto const slice = [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    return Tokens{{tokens.begin() + begin, tokens.begin() + end},
                  {corpus.starts.begin() + begin, corpus.starts.begin() + end}};
  };
  return {slice(0, size - tail), slice(size - tail, size)};
}

double unigram_entropy(Tokens const& text) {
  std::array<std::int64_t, 256> counts{};
  for (std::uint8_t const token : text.tokens) ++counts[token];
  double entropy = 0;
  for (std::int64_t const count : counts) {
    if (count == 0) continue;
    double const p = static_cast<double>(count) / static_cast<double>(text.tokens.size());
    entropy -= p * std::log(p);
  }
  return entropy;
}

std::uint64_t fingerprint(std::string const& text) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (char const c : text) hash = (hash ^ static_cast<std::uint8_t>(c)) * 0x100000001b3u;
  return hash;
}

}  // namespace char_model
