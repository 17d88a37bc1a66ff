// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "trainer.hpp"

namespace char_model {

/// The loss curve in characters: training losses, held-out losses, and the unigram entropy.
std::string terminal_curve(History const& history, double unigram_entropy);

/// Writes the loss curve as an image: SVG, or by Python's matplotlib where the name ends in .png.
/// Throws where that is not possible.
void plot_curve(std::string const& path, History const& history, double unigram_entropy);

}  // namespace char_model
