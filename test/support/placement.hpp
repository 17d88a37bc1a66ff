// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "support/layer.hpp"

namespace gru::test {

/// Where each element of a canonical tensor lies in a buffer of `elements`. What no element lies on
/// is a gap between rows.
struct Placement {
  std::int64_t elements = 0;
  std::vector<std::int64_t> index;
};

/// [T, N, width] in the Problem's layout; a pitch of 0 means tight.
Placement place_sequence(Problem const& problem, std::int64_t width, std::int64_t pitch);

/// [N, width].
Placement place_state(Problem const& problem, std::int64_t width, std::int64_t pitch);

/// W [C, 3H] in the Problem's weight format.
Placement place_kernel(Problem const& problem);

/// R [H, 3H] in the Problem's weight format.
Placement place_recurrent_kernel(Problem const& problem);

/// The mask of R: its format, without a pitch.
Placement place_dropconnect_mask(Problem const& problem);

/// A bias [3H] in the format's order of gates.
Placement place_bias(Problem const& problem);

/// `count` elements one behind the other.
Placement place_dense(std::int64_t count);

}  // namespace gru::test
