// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace gru::bench {

/// A layer to be timed.
struct Shape {
  char const* name;
  std::int64_t steps;        // T
  std::int64_t batch;        // N
  std::int64_t input_size;   // C
  std::int64_t hidden_size;  // H
};

/// The shapes of bench/results/cudnn-h200.csv, by the same names.
inline constexpr Shape kShapes[] = {
    {"tiny1", 1000, 1, 128, 128},
    {"deepfilternet-like", 1000, 1, 256, 256},
    {"wavernn-like", 1000, 1, 512, 896},
    {"b1-h1024", 1000, 1, 1024, 1024},
    {"b1-h2048", 500, 1, 2048, 2048},
    {"b8-h1024", 1000, 8, 1024, 1024},
    {"flashrnn", 1024, 16, 768, 768},
    {"b16-h1536", 256, 16, 1536, 1536},
    {"haste-grid-a", 50, 32, 256, 256},
    {"b32-h1024", 512, 32, 1024, 1024},
    {"deepbench-2816", 375, 32, 2816, 2816},
    {"b64-h256", 256, 64, 256, 256},
    {"haste-grid-b", 50, 64, 128, 512},
    {"haste-example", 1000, 64, 512, 512},
    {"b64-h2048", 256, 64, 2048, 2048},
    {"haste-grid-c", 50, 128, 256, 1024},
    {"b128-h1024", 256, 128, 1024, 1024},
    {"b256-h512", 256, 256, 512, 512},
};

/// Smaller ones, for the host engine.
inline constexpr Shape kHostShapes[] = {
    {"char-model", 64, 32, 128, 128},
    {"streaming-h256", 200, 1, 256, 256},
    {"haste-grid-a", 50, 32, 256, 256},
    {"haste-grid-b", 50, 64, 128, 512},
};

}  // namespace gru::bench
