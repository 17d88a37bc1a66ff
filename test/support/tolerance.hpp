// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "support/layer.hpp"

/// How far results may differ: from the types' eps and the lengths of the sums alone. No test types
/// a tolerance.
namespace gru::test {

/// The distance from 1 to the next value.
double epsilon(DataType type);

/// eps of what products of the layer's values are made of: the type's, or TF32's where the Problem
/// asks for it.
double product_epsilon(Problem const& problem, DataType type);

/// What a result computed in `type` may differ by from the exact one, relative to the largest
/// element of the exact one.
double tolerance(Layer const& layer, NamedResult const& result, DataType type);

/// How far the points of a five-point stencil lie apart where `type` computes the values: its error
/// in the fourth order and the rounding of the values are about as large there.
double finite_difference_distance(DataType type);

/// What such differences may be wrong by, relative to the gradient.
double finite_difference_tolerance(DataType type);

/// What the slope along a direction of signs may differ by between the gradient, computed in
/// `type`, and finite differences of values computed in `values_type`.
double slope_tolerance(Layer const& layer, NamedResult const& gradient, Values const& values,
                       DataType type, DataType values_type);

/// Checks every result of `actual` against `expected`, which is exact or in a wider type. Where one
/// is empty the other must be.
void check_close(Results const& actual, Results const& expected, Layer const& layer, DataType type);

/// Checks that all results have the same values: the same bits but for the sign of zeros.
void check_equal(Results const& actual, Results const& expected);

/// Checks that all results have the same bits.
void check_same_bits(Results const& actual, Results const& expected);

/// The same for one result, whose name is for the message.
void check_close(std::string const& name, Values const& actual, Values const& expected,
                 double relative);
void check_same_bits(std::string const& name, Values const& actual, Values const& expected);

}  // namespace gru::test
