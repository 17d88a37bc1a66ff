// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace gru::bench {

/// A layer to be timed.
struct Shape {
  std::string name;
  std::int64_t steps = 0;        // T
  std::int64_t batch = 0;        // N
  std::int64_t input_size = 0;   // C
  std::int64_t hidden_size = 0;  // H
};

/// Layers as they are used: predecessors' benchmarks and examples, speech, reinforcement learning.
inline std::vector<Shape> used_shapes() {
  return {
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
}

/// C = H, named after N and H.
inline Shape square_shape(std::int64_t steps, std::int64_t batch, std::int64_t hidden_size) {
  return {"n" + std::to_string(batch) + "-h" + std::to_string(hidden_size), steps, batch,
          hidden_size, hidden_size};
}

/// Long enough for a persistent kernel's start to weigh little.
inline constexpr std::int64_t kSweepSteps = 200;

inline std::vector<Shape> batch_sweep() {
  std::vector<Shape> shapes;
  for (std::int64_t const hidden_size : {512, 1024}) {
    for (std::int64_t const batch : {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512}) {
      shapes.push_back(square_shape(kSweepSteps, batch, hidden_size));
    }
  }
  return shapes;
}

inline std::vector<Shape> hidden_sweep() {
  std::vector<Shape> shapes;
  for (std::int64_t const batch : {1, 16, 64}) {
    for (std::int64_t const hidden_size :
         {64, 100, 128, 200, 256, 384, 500, 512, 640, 768, 1000, 1024, 1280, 1536, 2048, 3072}) {
      shapes.push_back(square_shape(kSweepSteps, batch, hidden_size));
    }
  }
  return shapes;
}

/// Where the options are timed.
inline std::vector<Shape> option_shapes() {
  return {square_shape(1000, 64, 512), square_shape(1000, 8, 1024)};
}

/// Where sequences of different lengths are timed.
inline std::vector<Shape> length_shapes() {
  std::vector<Shape> shapes;
  for (std::int64_t const batch : {16, 64, 128, 256, 480}) {
    shapes.push_back(square_shape(500, batch, 512));
  }
  for (std::int64_t const batch : {16, 64, 128}) shapes.push_back(square_shape(500, batch, 1024));
  return shapes;
}

/// One step a call.
inline std::vector<Shape> streaming_shapes() {
  std::vector<Shape> shapes;
  for (std::int64_t const batch : {1, 16}) {
    for (std::int64_t const hidden_size : {256, 512, 1024}) {
      shapes.push_back(square_shape(1, batch, hidden_size));
    }
  }
  return shapes;
}

/// Smaller ones, for the host engine.
inline std::vector<Shape> host_shapes() {
  return {
      {"char-model", 64, 32, 128, 128},
      {"streaming-h256", 200, 1, 256, 256},
      {"haste-grid-a", 50, 32, 256, 256},
      {"haste-grid-b", 50, 64, 128, 512},
  };
}

}  // namespace gru::bench
