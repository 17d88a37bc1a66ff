// SPDX-License-Identifier: Apache-2.0
#include "support/placement.hpp"

#include <algorithm>
#include <utility>

namespace gru::test {
namespace {

/// Counts the elements up to the last one that is used.
Placement placed(std::vector<std::int64_t> index) {
  std::int64_t elements = 0;
  for (std::int64_t const i : index) elements = std::max(elements, i + 1);
  return {elements, std::move(index)};
}

std::int64_t or_tight(std::int64_t pitch, std::int64_t width) {
  return pitch == 0 ? width : pitch;
}

/// The block in which a canonical gate (0 z, 1 r, 2 g) lies.
std::int64_t block_of(Problem const& p, std::int64_t gate) {
  bool const reset_first = p.weight_format.gates == WeightFormat::GateOrder::kResetFirst;
  return reset_first && gate < 2 ? 1 - gate : gate;
}

Placement place_matrix(Problem const& p, std::int64_t inputs, std::int64_t pitch) {
  std::int64_t const H = p.hidden_size;
  bool const input_by_gates = p.weight_format.shape == WeightFormat::Shape::kInputByGates;
  std::vector<std::int64_t> index;
  index.reserve(static_cast<std::size_t>(inputs * 3 * H));
  for (std::int64_t k = 0; k < inputs; ++k) {
    for (std::int64_t gate = 0; gate < 3; ++gate) {
      for (std::int64_t unit = 0; unit < H; ++unit) {
        std::int64_t const column = block_of(p, gate) * H + unit;
        index.push_back(input_by_gates ? k * or_tight(pitch, 3 * H) + column
                                       : column * or_tight(pitch, inputs) + k);
      }
    }
  }
  return placed(std::move(index));
}

}  // namespace

Placement place_sequence(Problem const& p, std::int64_t width, std::int64_t pitch) {
  std::vector<std::int64_t> index;
  for (std::int64_t t = 0; t < p.steps; ++t) {
    for (std::int64_t n = 0; n < p.batch; ++n) {
      std::int64_t const row = p.layout == Layout::kTimeMajor ? t * p.batch + n : n * p.steps + t;
      for (std::int64_t i = 0; i < width; ++i) index.push_back(row * or_tight(pitch, width) + i);
    }
  }
  return placed(std::move(index));
}

Placement place_state(Problem const& p, std::int64_t width, std::int64_t pitch) {
  std::vector<std::int64_t> index;
  for (std::int64_t n = 0; n < p.batch; ++n) {
    for (std::int64_t i = 0; i < width; ++i) index.push_back(n * or_tight(pitch, width) + i);
  }
  return placed(std::move(index));
}

Placement place_kernel(Problem const& p) {
  return place_matrix(p, p.input_size, p.weight_format.kernel_pitch);
}

Placement place_recurrent_kernel(Problem const& p) {
  return place_matrix(p, p.hidden_size, p.weight_format.recurrent_kernel_pitch);
}

Placement place_dropconnect_mask(Problem const& p) {
  return place_matrix(p, p.hidden_size, 0);
}

Placement place_bias(Problem const& p) {
  std::vector<std::int64_t> index;
  for (std::int64_t gate = 0; gate < 3; ++gate) {
    for (std::int64_t unit = 0; unit < p.hidden_size; ++unit) {
      index.push_back(block_of(p, gate) * p.hidden_size + unit);
    }
  }
  return placed(std::move(index));
}

Placement place_dense(std::int64_t count) {
  std::vector<std::int64_t> index;
  for (std::int64_t i = 0; i < count; ++i) index.push_back(i);
  return placed(std::move(index));
}

}  // namespace gru::test
