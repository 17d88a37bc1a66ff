// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <gru/problem.hpp>
#include <string>
#include <vector>

#include "support/backend.hpp"
#include "support/engine.hpp"

/// The rows of docs/bad_input.md, tried on any engine.
namespace gru::test {

/// What the message of an exception must contain.
using Words = std::vector<std::string>;

/// A Problem that both passes must reject with InvalidArgument when they are constructed.
struct BadProblem {
  std::string row;   ///< of docs/bad_input.md
  std::string what;  ///< what is wrong, the test's name
  Problem problem;
  Words words;
};

/// A small valid Problem.
Problem valid_problem();

/// For every type of data.
std::vector<BadProblem> const& bad_problems();
/// For double alone.
std::vector<BadProblem> const& bad_problems_of_double();

/// Fails the test unless `call` throws Exception with the words in its message.
template <typename Exception>
void check_throws(std::function<void()> const& call, Words const& words);

/// The rows about what a run brings: each first passes with all as it should be, then throws
/// InvalidArgument with one thing wrong, the words in its message, and every output as it was.
/// Defined for float, double and Eigen::half.
template <typename T>
void check_bad_runs(Backend<T> const& backend);

/// A workspace limit below what one step needs, and one just enough.
template <typename T>
void check_small_workspace_limit(Backend<T> const& backend);

/// Fails the test unless docs/bad_input.md has the rows that are tested, and no others.
void check_rows_are_documented();

/// What is legal though unusual.
void check_empty_sequences(Engine const& engine);
void check_empty_batch(Engine const& engine);
void check_odd_lengths(Engine const& engine);
void check_masks_at_rate_zero(Engine const& engine);
void check_values_that_are_not_finite(Engine const& engine);

}  // namespace gru::test
