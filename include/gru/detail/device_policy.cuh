// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include <gru/detail/device.cuh>
#include <gru/policy.hpp>

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

inline constexpr int kLeastComputeCapability = 75;

/// The stepwise engine as a candidate, from what is known about the device and the build.
inline Candidate stepwise_candidate(DeviceFacts const& facts, double predicted_us = 0) {
  Candidate candidate;
  candidate.predicted_us = predicted_us;
  candidate.engine = Engine::kStepwise;
  std::string const capability = std::to_string(facts.compute_capability / 10) + '.' +
                                 std::to_string(facts.compute_capability % 10);
  if (facts.compute_capability < kLeastComputeCapability) {
    candidate.reason = "needs compute capability 7.5, the device has " + capability;
  } else if (!facts.has_code) {
    candidate.reason = "built without code for the device's compute capability " + capability;
  } else {
    candidate.can_run = true;
    candidate.reason = "runs every type, size and option";
  }
  return candidate;
}

/// The host engine, as it appears among the candidates of a device pass.
inline Candidate host_candidate_on_device() {
  Candidate candidate;
  candidate.engine = Engine::kHost;
  candidate.reason = "works on host memory: use gru::host";
  return candidate;
}

}  // namespace GRU_DEVICE_NAMESPACE
}  // namespace gru::detail
