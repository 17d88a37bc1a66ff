// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <string>

#include <gru/version.hpp>

#include "case.hpp"
#include "exit_status.hpp"

namespace gru::bench {

/// Reads what Google Benchmark left of the command line: --budget_ms=MS. Returns whether that was
/// all.
inline bool read_flags(int argc, char** argv, Budget& budget) {
  constexpr char const* kFlag = "--budget_ms=";
  for (int i = 1; i < argc; ++i) {
    char* end = nullptr;
    bool const matches = std::strncmp(argv[i], kFlag, std::strlen(kFlag)) == 0;
    double const value = matches ? std::strtod(argv[i] + std::strlen(kFlag), &end) : 0;
    if (!matches || *end != '\0' || !(value > 0)) {
      std::fprintf(stderr, "%s: cannot use %s\n", argv[0], argv[i]);
      return false;
    }
    budget.milliseconds = value;
  }
  return true;
}

/// Names the library's version in the output.
inline void add_version_context() {
  benchmark::AddCustomContext("gru", std::to_string(GRU_VERSION_MAJOR) + '.' +
                                         std::to_string(GRU_VERSION_MINOR) + '.' +
                                         std::to_string(GRU_VERSION_PATCH));
}

}  // namespace gru::bench
