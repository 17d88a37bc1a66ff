// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "support/engine.hpp"

/// What must hold for every engine and type, whatever the numbers are. Each function is one claim,
/// checked over variants, directions and the options that matter to it.
namespace gru::test {

void check_lengths_equal_truncation(Engine const& engine);
void check_episode_starts_equal_split_sequences(Engine const& engine);
void check_reverse_equals_flipping(Engine const& engine);
void check_batch_major_equals_time_major(Engine const& engine);
void check_steps_equal_the_sequence(Engine const& engine);
void check_float_states_stream_without_loss(Engine const& engine);
void check_steps_in_place(Engine const& engine);
void check_steps_without_h(Engine const& engine);
void check_accumulating_twice_equals_twice(Engine const& engine);
void check_reruns_have_the_same_bits(Engine const& engine);
void check_reserve_policies_agree(Engine const& engine);
void check_chunks_agree(Engine const& engine);
void check_null_gradients_change_no_other(Engine const& engine);
void check_no_steps(Engine const& engine);
void check_no_samples(Engine const& engine);
void check_lengths_of_zero(Engine const& engine);
void check_not_finite_values_stay_in_their_sample(Engine const& engine);
void check_not_finite_states_stay_in_their_sample(Engine const& engine);
void check_weights_that_are_nan_spread(Engine const& engine);
void check_drawn_masks_equal_brought_ones(Engine const& engine);
void check_saturated_update_gates_keep_their_gradient(Engine const& engine);
void check_precisions(Engine const& engine);

/// Each option alone, and all pairs: a random direction for each input, along which the loss must
/// rise as the gradient says. Values that are float's or better are the engine's own, others the
/// host engine's in double.
void check_gradients_are_slopes(Engine const& engine, Precision precision = Precision::kFp32);
void check_bytes(Engine const& engine);

/// Two passes write the halves of one [T, N, 2H] tensor and read the halves of its gradient; the
/// second adds to the first one's dx.
template <typename T>
void check_bidirectional_halves(Backend<T> const& backend);

}  // namespace gru::test
