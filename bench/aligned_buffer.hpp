// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gru::bench {

/// Host memory aligned to 256 bytes.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(std::size_t bytes) : storage_(bytes + kAlignment), bytes_{bytes} {
    auto const address = reinterpret_cast<std::uintptr_t>(storage_.data());
    data_ = storage_.data() + (kAlignment - address % kAlignment) % kAlignment;
  }

  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  static constexpr std::size_t kAlignment = 256;

  std::vector<std::byte> storage_;
  std::byte* data_ = nullptr;
  std::size_t bytes_;
};

}  // namespace gru::bench
