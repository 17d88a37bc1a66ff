// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include <gru/detail/device.cuh>
#include <gru/policy.hpp>

namespace gru::detail {
inline namespace GRU_DEVICE_NAMESPACE {

inline constexpr int kLeastComputeCapability = 75;

/// 9.0 for 90.
inline std::string capability_name(int capability) {
  return std::to_string(capability / 10) + '.' + std::to_string(capability % 10);
}

/// Why an engine that needs at least this compute capability cannot run; empty where it can. The
/// code must be for that, too: PTX for an older one runs on the device, without what it needs.
inline std::string lacking_code(DeviceFacts const& facts, int least) {
  std::string const device = capability_name(facts.compute_capability);
  std::string const needs = "needs compute capability " + capability_name(least);
  if (facts.compute_capability < least) return needs + ", the device has " + device;
  if (!facts.has_code()) return "built without code for the device's compute capability " + device;
  if (facts.code_capability >= least) return "";
  return needs + ", the build has code for " + capability_name(facts.code_capability) + " alone";
}

/// The stepwise engine as a candidate, from what is known about the device and the build.
inline Candidate stepwise_candidate(DeviceFacts const& facts, double predicted_us = 0) {
  Candidate candidate;
  candidate.predicted_us = predicted_us;
  candidate.engine = Engine::kStepwise;
  candidate.reason = lacking_code(facts, kLeastComputeCapability);
  if (!candidate.reason.empty()) return candidate;
  candidate.can_run = true;
  candidate.reason = "runs every type, size and option";
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
