// SPDX-License-Identifier: Apache-2.0
#include "progress.hpp"

#include <algorithm>
#include <cstdio>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace char_model {
namespace {

constexpr int kBarWidth = 16;
constexpr double kLongestShown = 1e9;  // seconds

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

void Progress::show(Status const& s) {
  double const fraction = std::clamp(s.fraction, 0.0, 1.0);
  int const tenths = static_cast<int>(fraction * 10);
  bool const due = terminal_ || tenths > tenths_shown_;
  tenths_shown_ = std::max(tenths, tenths_shown_);
  if (!due) return;
  int const percent = static_cast<int>(fraction * 100);
  if (terminal_) {
    std::string bar(kBarWidth, ' ');
    std::fill_n(bar.begin(), static_cast<int>(fraction * kBarWidth), '#');
    std::printf("\r[%s] %3d%%  ", bar.c_str(), percent);
  } else {
    std::printf("%3d%%  iteration %lld  ", percent, static_cast<long long>(s.iteration));
  }
  auto const left = static_cast<long>(std::min(s.seconds_left, kLongestShown) + 0.5);
  std::printf("loss %.3f (unigram %.3f)  %.1fk char/s  %ld:%02ld left", s.loss, unigram_entropy_,
              s.characters_per_second / 1000, left / 60, left % 60);
  std::fputs(terminal_ ? "\x1b[K" : "\n", stdout);
  std::fflush(stdout);
}

}  // namespace char_model
