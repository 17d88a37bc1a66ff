// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>

#include <gru/random.hpp>

#include "support/engine.hpp"

/// What masks must be, computed from the definition of the draws alone, and checks of an engine's
/// masks by what the engine does.
namespace gru::test {

using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;

/// Philox4x32-10, written from the paper ("Parallel random numbers: as easy as 1, 2, 3", 2011).
PhiloxCounter philox_4x32_10(PhiloxCounter counter, PhiloxKey key);

/// Word `word` of counter (i, offset) under the key `seed` keeps its element at this rate.
bool draw_keeps(Random const& random, std::uint64_t i, std::uint64_t word, double rate);

/// The masks that a Problem of this size draws: zoneout [T, N, H], DropConnect [H, 3H] with gates
/// z, r, g, recurrent dropout [N, H].
Bytes drawn_zoneout_mask(Problem const& problem, Random const& random);
Bytes drawn_dropconnect_mask(Problem const& problem, Random const& random);
Bytes drawn_recurrent_dropout_mask(Problem const& problem, Random const& random);

/// Drawn masks give bit for bit what the same masks give when the caller brings them, in every
/// combination of variant, direction, layout, format, lengths and starts that is tried.
void check_drawn_masks_are_the_defined_ones(Engine const& engine);

/// Each mask seen in what forward and backward do: both must follow the defined one. For float and
/// double, where a kept value never equals a dropped one by chance.
void check_zoneout_is_seen(Engine const& engine);
void check_dropconnect_is_seen(Engine const& engine);
void check_recurrent_dropout_is_seen(Engine const& engine);

/// Seed and offset each change the masks; without `stochastic` neither matters.
void check_seed_and_offset_matter(Engine const& engine);

}  // namespace gru::test
