// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <thread>

#include <gru/host/execution.hpp>
#include <gru/host/parallel.hpp>

namespace gru::detail::host {

/// Work in phases, each of the same tiles; a phase begins when all tiles of the one before are
/// done.
///
/// Runs as tasks of the caller's parallel_for, which need not run at the same time: a task takes
/// tiles that none has taken yet, and waits for nothing but tiles that a running task has taken.
/// A task that begins alone does everything, and those that come later find nothing to do.
class Phases {
 public:
  static constexpr std::int64_t kMostTiles = 64;

  Phases(std::int64_t phases, std::int64_t tiles) : phases_{phases}, tiles_{tiles} {}

  /// Calls f(phase, tile) once for each of both.
  template <typename F>
  void run(gru::host::Execution const& execution, F const& f) {
    for_each_task(execution, tiles_, [&](std::int64_t) { work(f); });
  }

 private:
  /// How many phases have taken a tile. Apart from others, since tasks write them all the time.
  struct alignas(64) Counter {
    std::atomic<std::int64_t> value{0};
  };

  template <typename F>
  void work(F const& f) {
    std::int64_t const first = first_tile(tasks_.value.fetch_add(1));
    std::int64_t const begin = done_.value.load(std::memory_order_acquire) / tiles_;
    for (std::int64_t phase = begin; phase < phases_; ++phase) {
      // Tiles that are done, but not counted yet: one by one they would keep the tasks busy with
      // each other's caches.
      std::int64_t count = 0;
      auto const publish = [&] {
        if (count > 0) done_.value.fetch_add(count, std::memory_order_acq_rel);
        count = 0;
      };
      for (std::int64_t i = 0; i < tiles_; ++i) {
        std::int64_t const tile = (first + i) % tiles_;
        if (!take(phase, tile)) {
          publish();
          continue;
        }
        try {
          f(phase, tile);
        } catch (...) {
          failed_ = true;
          throw;
        }
        ++count;
      }
      publish();
      if (!wait_for(phase)) return;
    }
  }

  /// Where the i-th task begins: as far as possible from those before it, so that each comes to the
  /// same tiles in every phase and finds what it read of the weights in its own cache.
  std::int64_t first_tile(std::int64_t i) const {
    double place = 0;
    for (double share = 0.5; i > 0; i /= 2, share /= 2) place += i % 2 == 0 ? 0 : share;
    return static_cast<std::int64_t>(place * static_cast<double>(tiles_));
  }

  bool take(std::int64_t phase, std::int64_t tile) {
    std::atomic<std::int64_t>& taken = taken_[static_cast<std::size_t>(tile)].value;
    std::int64_t expected = phase;
    return taken.load(std::memory_order_relaxed) == phase &&
           taken.compare_exchange_strong(expected, phase + 1, std::memory_order_relaxed);
  }

  /// Waits for the tiles that others have taken; false where one of them failed.
  bool wait_for(std::int64_t phase) const {
    constexpr int kPollsBeforeYield = 2000;
    std::int64_t const wanted = (phase + 1) * tiles_;
    int polls = 0;
    while (done_.value.load(std::memory_order_acquire) < wanted) {
      if (failed_.load(std::memory_order_relaxed)) return false;
      if (polls == kPollsBeforeYield) {
        std::this_thread::yield();
      } else {
        ++polls;
      }
    }
    return true;
  }

  std::int64_t phases_;
  std::int64_t tiles_;
  Counter tasks_;
  Counter done_;
  std::array<Counter, kMostTiles> taken_;
  std::atomic<bool> failed_{false};
};

/// Rows of the batch and panels of units: what a task does of a step.
struct Tile {
  std::int64_t row_begin;
  std::int64_t row_end;
  std::int64_t panel_begin;
  std::int64_t panel_end;
};

/// A step cut into tiles: so many rows that a panel in the cache serves them all, and panels where
/// they are worth a task's wait for the others.
class StepTiles {
 public:
  /// `work`: multiplications of a row and a panel. Units are not shared where R is not packed:
  /// narrow strips of it are slow to read.
  StepTiles(std::int64_t steps, std::int64_t batch, std::int64_t panels, std::int64_t work,
            bool packed) {
    constexpr std::int64_t kRows = 64;
    constexpr std::int64_t kLeastWork = 1 << 13;
    constexpr std::int64_t kLeastWorkOfRun = 1 << 18;
    std::int64_t const all = batch * panels * work;
    std::int64_t const most =
        all * steps < kLeastWorkOfRun
            ? 1
            : std::clamp<std::int64_t>(all / kLeastWork, 1, Phases::kMostTiles);
    std::int64_t const row_blocks = std::min(divide_up(batch, kRows), most);
    rows_ = {batch, row_blocks};
    panels_ = {panels, packed ? std::min(panels, most / row_blocks) : 1};
  }

  std::int64_t count() const { return rows_.count * panels_.count; }

  Tile tile(std::int64_t i) const {
    std::int64_t const row = i / panels_.count;
    std::int64_t const panel = i % panels_.count;
    return {rows_.begin(row), rows_.end(row), panels_.begin(panel), panels_.end(panel)};
  }

 private:
  Ranges rows_;
  Ranges panels_;
};

}  // namespace gru::detail::host
