// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

namespace gru::bench {

/// What a layer computes in.
enum class Type {
  kFp32,  ///< float; Precision::kFp32, and cuDNN's FMA math
  kTf32,  ///< float; Precision::kTf32, and cuDNN's tensor-op math
  kFp16,  ///< __half
  kBf16,  ///< __nv_bfloat16
};

inline constexpr Type kAllTypes[] = {Type::kFp32, Type::kTf32, Type::kFp16, Type::kBf16};

inline char const* to_string(Type type) {
  switch (type) {
    case Type::kFp32:
      return "fp32";
    case Type::kTf32:
      return "tf32";
    case Type::kFp16:
      return "fp16";
    case Type::kBf16:
      return "bf16";
  }
  return "unknown";
}

inline std::size_t bytes_of(Type type) {
  return type == Type::kFp16 || type == Type::kBf16 ? 2 : 4;
}

}  // namespace gru::bench
