// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace char_model {

/// A text, and where its files begin. Characters are bytes.
struct Corpus {
  std::string text;
  std::vector<std::uint8_t> starts;  // [text.size()], 1 where a file begins
  std::size_t files = 0;
};

/// Reads files, one after the other. Throws where one cannot be read.
Corpus read_files(std::vector<std::string> const& paths);

/// Reads the C++ and CUDA sources and the Markdown under `root`, in the order of their paths;
/// hidden and build directories are left out.
Corpus read_sources(std::string const& root);

/// The lines of a text in random order, each a file of its own. No line goes on in the next file.
Corpus shuffled_lines(Corpus const& corpus, std::uint64_t seed);

/// The bytes that occur, numbered in ascending order: a token is such a number, and less than 255.
class Vocabulary {
 public:
  Vocabulary() { number(); }
  explicit Vocabulary(std::string const& text);
  explicit Vocabulary(std::vector<std::uint8_t> bytes);

  std::int64_t size() const { return static_cast<std::int64_t>(bytes_.size()); }
  std::vector<std::uint8_t> const& bytes() const { return bytes_; }

  bool knows(char byte) const { return tokens_[static_cast<std::uint8_t>(byte)] >= 0; }

  /// Throws, naming the byte, where the text has one that is not in the vocabulary.
  std::vector<std::uint8_t> encode(std::string const& text) const;
  char decode(std::uint8_t token) const { return static_cast<char>(bytes_.at(token)); }

 private:
  void number();

  std::vector<std::uint8_t> bytes_;
  std::array<int, 256> tokens_{};  // -1 where the byte does not occur
};

/// An encoded text, and where its files begin.
struct Tokens {
  std::vector<std::uint8_t> tokens;
  std::vector<std::uint8_t> starts;  // as many, 1 where a file begins

  bool empty() const { return tokens.empty(); }
};

struct SplitText {
  Tokens training;
  Tokens held_out;
};

/// Encodes the text and cuts off its last `held_out` share, or nothing where that would be less
/// than a line.
SplitText encode_and_split(Corpus const& corpus, Vocabulary const& vocabulary, double held_out);

/// Entropy in nats of a character drawn by its frequency: the least loss of a model without
/// context.
double unigram_entropy(Tokens const& text);

/// A checksum (FNV-1a), to tell one text from another.
std::uint64_t fingerprint(std::string const& text);

}  // namespace char_model
