// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "support/backend.hpp"

namespace gru::test {

/// Runs every case of a file of golden vectors (test/golden, "keras" for keras.json), weights read
/// and weight gradients written in the framework's own format, and compares outputs and gradients.
/// Defined for float, double, Eigen::half and Eigen::bfloat16.
template <typename T>
void check_golden(Backend<T> const& backend, std::string const& framework);

}  // namespace gru::test
