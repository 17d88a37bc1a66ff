// SPDX-License-Identifier: Apache-2.0
#include <Eigen/Core>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>

#include "support/host.hpp"
#include "support/options.hpp"
#include "support/properties.hpp"
#include "support/tolerance.hpp"

namespace gru::test {
namespace {

TEMPLATE_TEST_CASE("Host engine: lengths equal truncation", "", float, double, Eigen::half,
                   Eigen::bfloat16) {
  check_lengths_equal_truncation(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("Host engine: episode starts equal split sequences, in both directions", "",
                   float, double, Eigen::half, Eigen::bfloat16) {
  check_episode_starts_equal_split_sequences(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("Host engine: reverse equals flipping, with the episode starts shifted by one",
                   "", float, double, Eigen::half, Eigen::bfloat16) {
  check_reverse_equals_flipping(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("Host engine: batch-major equals time-major", "", float, double, Eigen::half,
                   Eigen::bfloat16) {
  check_batch_major_equals_time_major(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("Host engine: step by step equals the sequence", "", float, double, Eigen::half,
                   Eigen::bfloat16) {
  check_steps_equal_the_sequence(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("Host engine: a step in place equals one out of place", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  check_steps_in_place(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("Host engine: a step without h gives the same state", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  check_steps_without_h(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("Host engine: accumulating on a gradient equals twice the gradient", "", float,
                   double, Eigen::half, Eigen::bfloat16) {
  check_accumulating_twice_equals_twice(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("Host engine: two runs give the same bits", "", float, double, Eigen::half,
                   Eigen::bfloat16) {
  check_reruns_have_the_same_bits(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("Host engine: the three reserve policies agree", "", float, double, Eigen::half,
                   Eigen::bfloat16) {
  check_reserve_policies_agree(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("Host engine: chunks under a small workspace limit agree with the whole", "",
                   float, double, Eigen::half, Eigen::bfloat16) {
  check_chunks_agree(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("Host engine: a null gradient changes no other", "", float, double, Eigen::half,
                   Eigen::bfloat16) {
  check_null_gradients_change_no_other(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("Host engine: no steps copy the initial state and its gradient", "", float,
                   double, Eigen::half, Eigen::bfloat16) {
  check_no_steps(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("Host engine: no samples give weight gradients of zero", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  check_no_samples(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("Host engine: lengths of zero copy the initial state and its gradient", "",
                   float, double, Eigen::half, Eigen::bfloat16) {
  check_lengths_of_zero(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("Host engine: NaN and infinity stay in their sample", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  check_not_finite_values_stay_in_their_sample(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("Host engine: initial states that are not finite stay in their sample", "",
                   float, double, Eigen::half, Eigen::bfloat16) {
  check_not_finite_states_stay_in_their_sample(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("Host engine: a weight that is NaN spreads, and ends no run", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  check_weights_that_are_nan_spread(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("Host engine: drawn masks equal the same masks brought, forward and backward",
                   "", float, double, Eigen::half, Eigen::bfloat16) {
  check_drawn_masks_equal_brought_ones(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("Host engine: update gates near 1 keep their gradient", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  check_saturated_update_gates_keep_their_gradient(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("Host engine: two directions write the halves of one tensor", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  check_bidirectional_halves(host_backend<TestType>());
}

TEMPLATE_TEST_CASE("Host engine: float states stream 16-bit types without loss", "", Eigen::half,
                   Eigen::bfloat16) {
  check_float_states_stream_without_loss(host_engine<TestType>());
}

TEMPLATE_TEST_CASE(
    "Host engine: the reserve is 4H a step and sample, the workspace within its limit", "", float,
    double, Eigen::half, Eigen::bfloat16) {
  check_bytes(host_engine<TestType>());
}

TEST_CASE("Host engine: each precision of float keeps its tolerance") {
  check_precisions(host_engine<float>());
}

TEMPLATE_TEST_CASE("Host engine: gradients are the slopes of the outputs, for each option", "",
                   float, double, Eigen::half, Eigen::bfloat16) {
  check_gradients_are_slopes(host_engine<TestType>());
}

TEMPLATE_TEST_CASE("Host engine: any number of threads gives the same bits", "", float, double,
                   Eigen::half, Eigen::bfloat16) {
  std::vector<Case> const cases = pairwise_cases();
  for (std::size_t i = 0; i < cases.size(); ++i) {
    INFO(cases[i].name << "; seed " << i);
    Layer const layer =
        make_layer(cases[i].choices, {6, 37, 5, 33}, host_engine<TestType>().type(), i);
    Results const expected = host_engine<TestType>(1).run(layer);
    check_same_bits(host_engine<TestType>(2).run(layer), expected);
    check_same_bits(host_engine<TestType>(5).run(layer), expected);
  }
}

}  // namespace
}  // namespace gru::test
