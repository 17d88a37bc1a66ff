// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "support/layer.hpp"

/// The GRU once more, in double, as plain loops over steps, samples and units written from the
/// papers (1406.1078v1 and v3, 1606.01305, 1512.05287). It shares nothing with the engines but the
/// generator of random words.
namespace gru::test {

/// Forward and, where the Problem keeps what it needs, backward.
Results reference(Layer const& layer);

using Forward = std::function<Results(Layer const&)>;

/// An input that has a gradient.
struct Differentiable {
  NamedResult gradient;
  Values Layer::*input;
};

/// All of them.
std::vector<Differentiable> const& differentiable_inputs();

/// The layer for `slope`: forward alone, with every input that has a gradient.
Layer prepared_for_slopes(Layer layer);

/// The slope of sum(dh * h) + sum(dfinal_state * final_state) as an input moves by multiples of
/// `direction`: by a stencil of five points, `distance` from each other, whose error is of the
/// fourth order in that.
double slope(Layer const& layer, Values Layer::*input, Values const& direction, double distance,
             Forward const& forward);

/// The gradients of the same sum, element by element. Ignores `held` and `wanted`.
Results finite_differences(Layer const& layer, Forward const& forward);

/// The layer with the masks that its Problem draws brought by the caller.
Layer with_masks_brought(Layer const& layer);

}  // namespace gru::test
