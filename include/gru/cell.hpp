// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include <gru/detail/macros.hpp>

/// The GRU's formulas, forward and backward: the only place where they stand.
///
/// Every function works on one unit of one sample. The value type A is the accumulation type
/// (float or double), or a pack of such values on the host; it needs + - * / and exp and tanh found
/// by argument-dependent lookup. Products with W and R are the engines' business: what comes in
/// here are the sums p = x W + bx and q = s R + br, with s the state that enters the step.
///
/// Papers: Cho et al., 1406.1078 (v1: reset after the product, v3: reset before it);
/// zoneout: Krueger et al., 1606.01305.
namespace gru::cell {

/// One value for each gate: a part of its pre-activation, or the gradient of one.
template <typename A>
struct Gates {
  A z;  ///< update
  A r;  ///< reset
  A g;  ///< candidate
};

/// 1 / (1 + exp(-x)). `sigmoid(-x)` is 1 - sigmoid(x) without cancellation.
template <typename A>
GRU_HOST_DEVICE A sigmoid(A x) {
  using std::exp;
  return A(1) / (A(1) + exp(-x));
}

/// sigmoid(x) and its complement.
template <typename A>
struct Sigmoids {
  A on;   ///< sigmoid(x)
  A off;  ///< sigmoid(-x)
};

/// Both at once, for value types that have a cheaper way to them and overload this.
template <typename A>
GRU_HOST_DEVICE Sigmoids<A> sigmoids(A x) {
  return {sigmoid(x), sigmoid(-x)};
}

/// Pre-activations where the reset gate acts after the product (1406.1078v1).
template <typename A>
GRU_HOST_DEVICE Gates<A> reset_after(Gates<A> p, Gates<A> q) {
  A const a_r = p.r + q.r;
  return {p.z + q.z, a_r, p.g + sigmoid(a_r) * q.g};
}

/// Pre-activations where the reset gate acts before the product (1406.1078v3): q.g is (r * s) R_g +
/// br_g, with r * s from `reset_state`.
template <typename A>
GRU_HOST_DEVICE Gates<A> reset_before(Gates<A> p, Gates<A> q) {
  return {p.z + q.z, p.r + q.r, p.g + q.g};
}

/// r * s, the state that multiplies R_g where the reset gate acts before the product.
template <typename A>
GRU_HOST_DEVICE A reset_state(A a_r, A s) {
  return sigmoid(a_r) * s;
}

/// c = z * s + (1 - z) * g from the pre-activations of z and g.
template <typename A>
GRU_HOST_DEVICE A new_state(A a_z, A a_g, A s) {
  using std::tanh;
  Sigmoids<A> const z = sigmoids(a_z);
  return z.on * s + z.off * tanh(a_g);
}

/// Zoneout: w * c + (1 - w) * s, where w is the mask (training) or 1 - rate (inference).
template <typename A>
GRU_HOST_DEVICE A zoneout(A c, A s, A w) {
  return w * c + (A(1) - w) * s;
}

/// Gradients that leave `zoneout`.
template <typename A>
struct ZoneoutGradient {
  A c;  ///< of the new state
  A s;  ///< of the entering state
};

/// Backward of `zoneout`, given dh.
template <typename A>
GRU_HOST_DEVICE ZoneoutGradient<A> zoneout_backward(A w, A dh) {
  return {w * dh, (A(1) - w) * dh};
}

/// Gradients that leave `new_state`.
template <typename A>
struct NewStateGradient {
  A a_z;  ///< of the update gate's pre-activation
  A a_g;  ///< of the candidate's pre-activation
  A s;    ///< of the entering state, along z * s alone
};

/// Backward of `new_state`, given dc.
template <typename A>
GRU_HOST_DEVICE NewStateGradient<A> new_state_backward(A a_z, A a_g, A s, A dc) {
  using std::tanh;
  Sigmoids<A> const z = sigmoids(a_z);
  A const g = tanh(a_g);
  return {dc * (s - g) * z.on * z.off, dc * z.off * (A(1) - g) * (A(1) + g), dc * z.on};
}

/// Gradients that leave `reset_after`, beside those of z and p.g, which pass unchanged.
template <typename A>
struct ResetAfterGradient {
  A a_r;  ///< of the reset gate's pre-activation
  A q_g;  ///< of the candidate's recurrent part
};

/// Backward of `reset_after`, given the gradient of the candidate's pre-activation.
template <typename A>
GRU_HOST_DEVICE ResetAfterGradient<A> reset_after_backward(A a_r, A q_g, A da_g) {
  Sigmoids<A> const r = sigmoids(a_r);
  return {da_g * q_g * r.on * r.off, da_g * r.on};
}

/// Gradients that leave `reset_state`.
template <typename A>
struct ResetStateGradient {
  A a_r;  ///< of the reset gate's pre-activation
  A s;    ///< of the entering state, along r * s
};

/// Backward of `reset_state`, given the gradient of r * s.
template <typename A>
GRU_HOST_DEVICE ResetStateGradient<A> reset_state_backward(A a_r, A s, A du) {
  Sigmoids<A> const r = sigmoids(a_r);
  return {du * s * r.on * r.off, du * r.on};
}

}  // namespace gru::cell
