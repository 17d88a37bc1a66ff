// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gru/detail/macros.hpp>

namespace gru::detail {

/// Converts between a storage type and an accumulation type. Specialised for CUDA's 16-bit types,
/// whose conversion operators many projects switch off.
template <typename To, typename From>
struct Converter {
  GRU_HOST_DEVICE static To apply(From value) { return static_cast<To>(value); }
};

template <typename To, typename From>
GRU_HOST_DEVICE To convert(From value) {
  return Converter<To, From>::apply(value);
}

}  // namespace gru::detail
