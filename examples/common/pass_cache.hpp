// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <iterator>
#include <list>
#include <memory>
#include <mutex>

#include <gru/equality.hpp>
#include <gru/problem.hpp>

namespace gru::adapter {

/// The passes of a kind that were used last, so that a call whose Problem came before need not plan
/// again: to plan, a pass asks cuBLAS and the device dozens of questions. Thread-safe; passes are
/// immutable, and may run at the same time.
template <typename Pass>
class PassCache {
 public:
  explicit PassCache(std::size_t most = 64) : most_{most} {}

  /// The pass of a Problem for the device that is current. Throws what its construction throws.
  std::shared_ptr<Pass const> get(Problem const& problem, int device) {
    if (auto pass = find(problem, device)) return pass;
    auto pass = std::make_shared<Pass const>(problem);  // others need not wait for it
    std::lock_guard<std::mutex> const lock{mutex_};
    used_.push_front({problem, device, pass});
    if (used_.size() > most_) used_.pop_back();
    return pass;
  }

 private:
  struct Entry {
    Problem problem;
    int device;
    std::shared_ptr<Pass const> pass;
  };

  std::shared_ptr<Pass const> find(Problem const& problem, int device) {
    std::lock_guard<std::mutex> const lock{mutex_};
    for (auto entry = used_.begin(); entry != used_.end(); ++entry) {
      if (entry->device != device || entry->problem != problem) continue;
      used_.splice(used_.begin(), used_, entry);
      return entry->pass;
    }
    return nullptr;
  }

  std::mutex mutex_;
  std::list<Entry> used_;  // the last one first
  std::size_t most_;
};

}  // namespace gru::adapter
