// SPDX-License-Identifier: Apache-2.0
#include "support/memory.hpp"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <utility>

namespace gru::test {

Block::Block(Allocate const& allocate, std::string name, RawBytes payload, std::size_t offset)
    : name_{std::move(name)},
      offset_{offset},
      payload_{std::move(payload)},
      memory_{allocate(kGuard + offset + payload_.size() + kGuard)} {
  memory_->write(image());
}

RawBytes Block::image() const {
  RawBytes all(kGuard + offset_ + payload_.size() + kGuard, kPoison);
  std::copy(payload_.begin(), payload_.end(),
            all.begin() + static_cast<std::ptrdiff_t>(kGuard + offset_));
  return all;
}

RawBytes Block::read() const {
  RawBytes all = checked_image();
  auto const begin = all.begin() + static_cast<std::ptrdiff_t>(kGuard + offset_);
  all.erase(begin + static_cast<std::ptrdiff_t>(payload_.size()), all.end());
  all.erase(all.begin(), begin);
  return all;
}

RawBytes Block::checked_image() const {
  RawBytes all = memory_->read();
  auto const begin = all.begin() + static_cast<std::ptrdiff_t>(kGuard + offset_);
  auto const end = begin + static_cast<std::ptrdiff_t>(payload_.size());
  auto const is_poison = [](std::byte b) { return b == kPoison; };
  if (!std::all_of(all.begin(), begin, is_poison)) FAIL(name_ << " was written before its begin");
  if (!std::all_of(end, all.end(), is_poison)) FAIL(name_ << " was written past its end");
  return all;
}

void Block::write(RawBytes payload) {
  payload_ = std::move(payload);
  memory_->write(image());
}

void Block::check_unchanged() const {
  RawBytes const all = checked_image();
  auto const begin = all.begin() + static_cast<std::ptrdiff_t>(kGuard + offset_);
  if (!std::equal(payload_.begin(), payload_.end(), begin)) {
    FAIL(name_ << " is an input, but was written to");
  }
}

}  // namespace gru::test
