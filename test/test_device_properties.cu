// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>

#include "support/device.hpp"
#include "support/properties.hpp"

namespace gru::test {
namespace {

TEMPLATE_TEST_CASE("Device engine: lengths equal truncation", "", float, double, Eigen::half,
                   Eigen::bfloat16) {
  check_lengths_equal_truncation(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("Device engine: episode starts equal split sequences, in both directions", "",
                   float, double, Eigen::half, Eigen::bfloat16) {
  check_episode_starts_equal_split_sequences(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("Device engine: reverse equals flipping, with the episode starts shifted by one",
                   "", float, double, Eigen::half, Eigen::bfloat16) {
  check_reverse_equals_flipping(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("Device engine: batch-major equals time-major", "", float, double, Eigen::half,
                   Eigen::bfloat16) {
  check_batch_major_equals_time_major(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("Device engine: step by step equals the sequence", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  check_steps_equal_the_sequence(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("Device engine: a step in place equals one out of place", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  check_steps_in_place(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("Device engine: accumulating on a gradient equals twice the gradient", "", float,
                   double, Eigen::half, Eigen::bfloat16) {
  check_accumulating_twice_equals_twice(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("Device engine: two runs give the same bits", "", float, double, Eigen::half,
                   Eigen::bfloat16) {
  check_reruns_have_the_same_bits(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("Device engine: the three reserve policies agree", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  check_reserve_policies_agree(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("Device engine: chunks under a small workspace limit agree with the whole", "",
                   float, double, Eigen::half, Eigen::bfloat16) {
  check_chunks_agree(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("Device engine: a null gradient changes no other", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  check_null_gradients_change_no_other(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("Device engine: no steps copy the initial state and its gradient", "", float,
                   double, Eigen::half, Eigen::bfloat16) {
  check_no_steps(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("Device engine: no samples give weight gradients of zero", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  check_no_samples(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("Device engine: lengths of zero copy the initial state and its gradient", "",
                   float, double, Eigen::half, Eigen::bfloat16) {
  check_lengths_of_zero(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("Device engine: NaN and infinity stay in their sample", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  check_not_finite_values_stay_in_their_sample(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("Device engine: drawn masks equal the same masks brought, forward and backward",
                   "", float, double, Eigen::half, Eigen::bfloat16) {
  check_drawn_masks_equal_brought_ones(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("Device engine: update gates near 1 keep their gradient", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  check_saturated_update_gates_keep_their_gradient(device_engine<TestType>());
}

TEMPLATE_TEST_CASE("Device engine: two directions write the halves of one tensor", "", float,
                   double, Eigen::half, Eigen::bfloat16) {
  check_bidirectional_halves(device_backend<TestType>());
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
  check_precisions(device_engine<float>());
}

}  // namespace
}  // namespace gru::test
