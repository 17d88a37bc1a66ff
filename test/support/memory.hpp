// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace gru::test {

using RawBytes = std::vector<std::byte>;

/// What fills memory that a pass must not read or not write: NaN in every floating-point type.
inline constexpr std::byte kPoison{0xFF};

/// Owned memory that an engine can address, aligned to 256 bytes.
class Memory {
 public:
  virtual ~Memory() = default;
  virtual std::byte* data() const = 0;
  virtual void write(RawBytes const& contents) = 0;
  virtual RawBytes read() const = 0;
};

using Allocate = std::function<std::unique_ptr<Memory>(std::size_t bytes)>;

/// Memory with guards of poison around its payload.
class Block {
 public:
  /// The payload begins `offset` bytes past a 256-byte boundary.
  Block(Allocate const& allocate, std::string name, RawBytes payload, std::size_t offset = 0);

  std::byte* data() const { return memory_->data() + kGuard + offset_; }
  std::size_t bytes() const { return payload_.size(); }

  /// The payload as it is now; fails the test where a guard was written to.
  RawBytes read() const;

  /// Replaces the payload.
  void write(RawBytes payload);

  /// Fails the test where the payload is not what was last written here.
  void check_unchanged() const;

 private:
  static constexpr std::size_t kGuard = 256;

  RawBytes image() const;

  /// The memory as it is now; fails the test where a guard was written to.
  RawBytes checked_image() const;

  std::string name_;
  std::size_t offset_;
  RawBytes payload_;
  std::unique_ptr<Memory> memory_;
};

}  // namespace gru::test
