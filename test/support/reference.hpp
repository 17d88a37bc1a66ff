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

/// The gradients of sum(dh * h) + sum(dfinal_state * final_state) by central differences of a
/// forward pass. Ignores `held` and `wanted`.
Results finite_differences(Layer const& layer, std::function<Results(Layer const&)> const& forward);

/// The layer with the masks that its Problem draws brought by the caller.
Layer with_masks_brought(Layer const& layer);

}  // namespace gru::test
