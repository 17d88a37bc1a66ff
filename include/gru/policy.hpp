// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <gru/problem.hpp>

namespace gru {

inline char const* to_string(Engine engine) {
  switch (engine) {
    case Engine::kAutomatic:
      return "automatic";
    case Engine::kStepwise:
      return "stepwise";
    case Engine::kHost:
      return "host";
    case Engine::kCluster:
      return "cluster";
    case Engine::kGrid:
      return "grid";
    case Engine::kClusterFma:
      return "cluster_fma";
    case Engine::kGridFma:
      return "grid_fma";
  }
  return "unknown";
}

/// What the policy knows about one engine for one Problem on one device.
struct Candidate {
  Engine engine = Engine::kAutomatic;
  bool can_run = false;
  std::string reason;               ///< Why it can or cannot run.
  double predicted_us = 0;          ///< Predicted time of a run, without launch costs of the host,
                                    ///< in microseconds; 0 = no prediction.
  std::size_t workspace_bytes = 0;  ///< 0 where it cannot run.
};

/// Which engine runs a Problem, why, and how many bytes of workspace it needs.
struct Decision {
  Engine engine = Engine::kAutomatic;
  std::string reason;
  std::size_t workspace_bytes = 0;
  std::vector<Candidate> candidates;
};

/// The decision as text, a line a candidate, the chosen one marked by an asterisk.
inline std::string to_string(Decision const& decision) {
  std::ostringstream out;
  out << "engine " << to_string(decision.engine) << ": " << decision.reason << '\n';
  for (Candidate const& c : decision.candidates) {
    out << (c.can_run && c.engine == decision.engine ? "* " : "  ") << to_string(c.engine) << ": ";
    if (c.can_run) {
      if (c.predicted_us > 0) out << c.predicted_us << " us predicted, ";
      out << c.workspace_bytes << " bytes of workspace; ";
    }
    out << c.reason << '\n';
  }
  return out.str();
}

namespace detail {

/// Picks the candidate that the Problem names or, left to itself, the fastest that can run. Throws
/// Unsupported, with every candidate's reason, where there is none.
inline Decision decide(Problem const& problem, std::vector<Candidate> candidates) {
  Candidate const* best = nullptr;
  for (Candidate const& c : candidates) {
    bool const eligible = problem.engine == Engine::kAutomatic || problem.engine == c.engine;
    if (!eligible || !c.can_run) continue;
    if (best == nullptr || c.predicted_us < best->predicted_us) best = &c;
  }
  Decision decision;
  if (best != nullptr) {
    decision.engine = best->engine;
    decision.workspace_bytes = best->workspace_bytes;
    decision.reason = problem.engine == Engine::kAutomatic
                          ? "fastest predicted of those that can run; " + best->reason
                          : "asked for by the Problem; " + best->reason;
  }
  decision.candidates = std::move(candidates);
  GRU_EXPECT(decision.engine != Engine::kAutomatic, Unsupported,
             "no engine can run this (asked: ", to_string(problem.engine), ")\n",
             to_string(decision));
  return decision;
}

}  // namespace detail
}  // namespace gru
