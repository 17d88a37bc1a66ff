// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <tuple>

#include <gru/problem.hpp>

/// Whether two Problems are the same, so that one pass serves both: to look passes up.
namespace gru {

namespace detail {

// Each names all members, so that one more does not compile before it is compared, too.
inline auto members(Dropping const& d) {
  auto const& [rate, mask] = d;
  return std::tie(rate, mask);
}
inline auto members(WeightFormat const& f) {
  auto const& [shape, gates, kernel_pitch, recurrent_kernel_pitch] = f;
  return std::tie(shape, gates, kernel_pitch, recurrent_kernel_pitch);
}
inline auto members(RowPitches const& p) {
  auto const& [x, h, dx, dh, h0, final_state, dh0, dfinal_state, starts, zoneout, dropout] = p;
  return std::tie(x, h, dx, dh, h0, final_state, dh0, dfinal_state, starts, zoneout, dropout);
}
inline auto members(Accumulate const& a) {
  auto const& [dx, dkernel, drecurrent_kernel, dbias, drecurrent_bias, dh0] = a;
  return std::tie(dx, dkernel, drecurrent_kernel, dbias, drecurrent_bias, dh0);
}
inline auto members(Problem const& p) {
  auto const& [steps, batch, input_size, hidden_size, variant, direction, layout, weight_format,
               pitch, lengths, host_lengths, episode_starts, zoneout, dropconnect,
               recurrent_dropout, stochastic, keep_for_backward, reserve, accumulate, precision,
               state_type, weight_gradient_type, engine, workspace_limit, overlap_products] = p;
  return std::tuple_cat(std::tie(steps, batch, input_size, hidden_size, variant, direction, layout),
                        members(weight_format), members(pitch),
                        std::tie(lengths, host_lengths, episode_starts), members(zoneout),
                        members(dropconnect), members(recurrent_dropout),
                        std::tie(stochastic, keep_for_backward, reserve), members(accumulate),
                        std::tie(precision, state_type, weight_gradient_type, engine,
                                 workspace_limit, overlap_products));
}

}  // namespace detail

inline bool operator==(Problem const& a, Problem const& b) {
  return detail::members(a) == detail::members(b);
}
inline bool operator!=(Problem const& a, Problem const& b) {
  return !(a == b);
}

}  // namespace gru
