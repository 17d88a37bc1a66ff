// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>

#include <gru/policy.hpp>

#include "support/device.hpp"
#include "support/properties.hpp"

namespace gru::test {
namespace {

/// Calls `check` for every engine of the device. What is said of backward alone, or takes long, is
/// checked by the engine that the policy chooses.
template <typename T>
void for_each_engine(void (*check)(Engine const&)) {
  for (gru::Engine const engine : forward_engines<T>()) {
    INFO("engine: " << to_string(engine));
    check(device_engine<T>(engine));
  }
}

TEMPLATE_TEST_CASE("Device engine: lengths equal truncation", "", float, double, Eigen::half,
                   Eigen::bfloat16) {
  for_each_engine<TestType>(check_lengths_equal_truncation);
}

TEMPLATE_TEST_CASE("Device engine: episode starts equal split sequences, in both directions", "",
                   float, double, Eigen::half, Eigen::bfloat16) {
  for_each_engine<TestType>(check_episode_starts_equal_split_sequences);
}

TEMPLATE_TEST_CASE("Device engine: reverse equals flipping, with the episode starts shifted by one",
                   "", float, double, Eigen::half, Eigen::bfloat16) {
  for_each_engine<TestType>(check_reverse_equals_flipping);
}

TEMPLATE_TEST_CASE("Device engine: batch-major equals time-major", "", float, double, Eigen::half,
                   Eigen::bfloat16) {
  for_each_engine<TestType>(check_batch_major_equals_time_major);
}

TEMPLATE_TEST_CASE("Device engine: step by step equals the sequence", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  for_each_engine<TestType>(check_steps_equal_the_sequence);
}

TEMPLATE_TEST_CASE("Device engine: a step in place equals one out of place", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  for_each_engine<TestType>(check_steps_in_place);
}

TEMPLATE_TEST_CASE("Device engine: a step without h gives the same state", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  for_each_engine<TestType>(check_steps_without_h);
}

TEMPLATE_TEST_CASE("Device engine: accumulating on a gradient equals twice the gradient", "", float,
                   double, Eigen::half, Eigen::bfloat16) {
  check_accumulating_twice_equals_twice(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("Device engine: two runs give the same bits", "", float, double, Eigen::half,
                   Eigen::bfloat16) {
  for_each_engine<TestType>(check_reruns_have_the_same_bits);
}

TEMPLATE_TEST_CASE("Device engine: the three reserve policies agree", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  for_each_engine<TestType>(check_reserve_policies_agree);
}

TEMPLATE_TEST_CASE("Device engine: chunks under a small workspace limit agree with the whole", "",
                   float, double, Eigen::half, Eigen::bfloat16) {
  for_each_engine<TestType>(check_chunks_agree);
}

TEMPLATE_TEST_CASE("Device engine: a null gradient changes no other", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  check_null_gradients_change_no_other(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("Device engine: no steps copy the initial state and its gradient", "", float,
                   double, Eigen::half, Eigen::bfloat16) {
  for_each_engine<TestType>(check_no_steps);
}

TEMPLATE_TEST_CASE("Device engine: no samples give weight gradients of zero", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  check_no_samples(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("Device engine: lengths of zero copy the initial state and its gradient", "",
                   float, double, Eigen::half, Eigen::bfloat16) {
  for_each_engine<TestType>(check_lengths_of_zero);
}

TEMPLATE_TEST_CASE("Device engine: NaN and infinity stay in their sample", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  for_each_engine<TestType>(check_not_finite_values_stay_in_their_sample);
}

TEMPLATE_TEST_CASE("Device engine: initial states that are not finite stay in their sample", "",
                   float, double, Eigen::half, Eigen::bfloat16) {
  for_each_engine<TestType>(check_not_finite_states_stay_in_their_sample);
}

TEMPLATE_TEST_CASE("Device engine: a weight that is NaN spreads, and ends no run", "", float,
                   double, Eigen::half, Eigen::bfloat16) {
  for_each_engine<TestType>(check_weights_that_are_nan_spread);
}

TEMPLATE_TEST_CASE("Device engine: drawn masks equal the same masks brought, forward and backward",
                   "", float, double, Eigen::half, Eigen::bfloat16) {
  for_each_engine<TestType>(check_drawn_masks_equal_brought_ones);
}

TEMPLATE_TEST_CASE("Device engine: update gates near 1 keep their gradient", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  for_each_engine<TestType>(check_saturated_update_gates_keep_their_gradient);
}

TEMPLATE_TEST_CASE("Device engine: two directions write the halves of one tensor", "", float,
                   double, Eigen::half, Eigen::bfloat16) {
  for (gru::Engine const engine : forward_engines<TestType>()) {
    INFO("engine: " << to_string(engine));
    check_bidirectional_halves(device_backend<TestType>(engine));
  }
}

TEMPLATE_TEST_CASE("Device engine: float states stream 16-bit types without loss", "", Eigen::half,
                   Eigen::bfloat16) {
  check_float_states_stream_without_loss(device_engine<TestType>());
}

TEMPLATE_TEST_CASE(
    "Device engine: the reserve is 4H a step and sample, the workspace within its limit", "", float,
    double, Eigen::half, Eigen::bfloat16) {
  check_bytes(device_engine<TestType>());
}

TEST_CASE("Device engine: each precision of float keeps its tolerance") {
  for_each_engine<float>(check_precisions);
}

}  // namespace
}  // namespace gru::test
