// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace gru::detail {

/// Slices a workspace, or only counts its bytes where it has none: the function that lays out a
/// workspace is called once with each, so that size and layout cannot differ.
class Carver {
 public:
  static constexpr std::size_t kAlignment = 256;

  /// Counts.
  Carver() = default;
  /// Slices the memory at `base`.
  explicit Carver(void* base) : base_{static_cast<std::byte*>(base)} {}

  /// The next `count` values of T; null while counting, and for none.
  template <typename T>
  T* take(std::int64_t count) {
    std::size_t const begin = used_;
    std::size_t const bytes = static_cast<std::size_t>(count) * sizeof(T);
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (base_ == nullptr || count == 0) return nullptr;
    return reinterpret_cast<T*>(base_ + begin);
  }

  std::size_t bytes() const { return used_; }

 private:
  std::byte* base_ = nullptr;
  std::size_t used_ = 0;
};

}  // namespace gru::detail
