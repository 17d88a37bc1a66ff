// SPDX-License-Identifier: Apache-2.0
#include "progress.hpp"

#include <algorithm>
#include <cstdio>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace char_model {
namespace {

constexpr int kBarWidth = 20;

bool writes_to_terminal() {
#if defined(__unix__) || defined(__APPLE__)
  return isatty(STDOUT_FILENO) != 0;
#else
  return false;
#endif
}

}  // namespace

Progress::Progress(double unigram_entropy)
    : unigram_entropy_{unigram_entropy}, terminal_{writes_to_terminal()} {}

Progress::~Progress() {
  if (terminal_ && tenths_shown_ >= 0) std::putchar('\n');
}

void Progress::show(Status const& status) {
  double const fraction = std::clamp(status.fraction, 0.0, 1.0);
  int const tenths = static_cast<int>(fraction * 10);
  bool const due = terminal_ || tenths > tenths_shown_;
  tenths_shown_ = std::max(tenths, tenths_shown_);
  if (!due) return;
  std::string const text = numbers(status);
  int const percent = static_cast<int>(fraction * 100);
  if (terminal_) {
    std::string bar(kBarWidth, ' ');
    std::fill_n(bar.begin(), static_cast<int>(fraction * kBarWidth), '#');
    std::printf("\r[%s] %3d%%  %s\x1b[K", bar.c_str(), percent, text.c_str());
  } else {
    std::printf("%3d%%  %s\n", percent, text.c_str());
  }
  std::fflush(stdout);
}

std::string Progress::numbers(Status const& s) const {
  char validation[32] = "";
  if (s.validation > 0) std::snprintf(validation, sizeof validation, " val %.3f", s.validation);
  auto const left = static_cast<long>(s.seconds_left + 0.5);
  char text[192];
  std::snprintf(text, sizeof text,
                "#%lld  loss %.3f%s (unigram %.3f)  %.1fk char/s  %ld:%02ld left",
                static_cast<long long>(s.iteration), s.loss, validation, unigram_entropy_,
                s.characters_per_second / 1000, left / 60, left % 60);
  return text;
}

}  // namespace char_model
