// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace gru::bench {

/// Exit statuses beside 0 and 1.
inline constexpr int kUsage = 2;
inline constexpr int kNothingMatches = 3;
inline constexpr int kNoDevice = 4;

}  // namespace gru::bench
