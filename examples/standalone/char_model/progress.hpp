// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace char_model {

/// Seconds since its construction.
class Clock {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// What the progress bar shows.
struct Status {
  double fraction = 0;  // of the run, 0 to 1
  std::int64_t iteration = 0;
  double loss = 0;  // nats a character
  double characters_per_second = 0;
  double seconds_left = 0;
};

/// A bar that is redrawn in place on a terminal, and a line for each tenth of the run elsewhere.
class Progress {
 public:
  explicit Progress(double unigram_entropy);
  /// Ends the bar's line.
  ~Progress();
  Progress(Progress const&) = delete;
  Progress& operator=(Progress const&) = delete;

  void show(Status const& status);

 private:
  double unigram_entropy_;
  bool terminal_;
  int tenths_shown_ = -1;
};

}  // namespace char_model
