# SPDX-License-Identifier: Apache-2.0
"""The same weights in flax's GRUCells under scan give the same outputs and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

import gru_jax
from support import assert_close, make_layer, value_and_gradients


def _swap_gates(weights):
    """From z, r, g to flax's order r, z, n."""
    z, r, g = jnp.split(weights, 3, axis=-1)
    return jnp.concatenate([r, z, g], axis=-1)


def test_equals_linen_grucell_under_scan():
    x, params, h0 = make_layer()
    units = h0.shape[-1]
    # linen has one bias each for z and r, and two for n.
    keep = jnp.concatenate([jnp.zeros(2 * units), jnp.ones(units)])
    params = params._replace(recurrent_bias=params.recurrent_bias * keep)

    def linen(x, params, h0):
        cell = {}
        names = zip(("z", "r", "n"), *(jnp.split(v, 3, axis=-1) for v in params), strict=True)
        for gate, kernel, recurrent_kernel, bias, recurrent_bias in names:
            cell["i" + gate] = {"kernel": kernel, "bias": bias}
            cell["h" + gate] = {"kernel": recurrent_kernel}
            if gate == "n":
                cell["hn"]["bias"] = recurrent_bias
        apply = nn.GRUCell(units, param_dtype=x.dtype).apply
        step = lambda state, x_t: apply({"params": cell}, state, x_t)
        h_last, h = jax.lax.scan(step, h0, x)
        return h, h_last

    def ours(x, params, h0):
        return gru_jax.gru(x, params._replace(recurrent_bias=params.recurrent_bias * keep), h0)

    expected = value_and_gradients(linen, x, params, h0)
    assert_close(value_and_gradients(ours, x, params, h0), expected)


def test_equals_nnx_grucell_under_scan():
    x, params, h0 = make_layer()
    inputs, units = x.shape[-1], h0.shape[-1]
    params = params._replace(recurrent_bias=None)

    def with_nnx(x, params, h0):
        def step(state, x_t):
            cell = nnx.GRUCell(inputs, units, param_dtype=x.dtype, rngs=nnx.Rngs(0))
            cell.dense_i.kernel[...] = _swap_gates(params.kernel)
            cell.dense_i.bias[...] = _swap_gates(params.bias)
            cell.dense_h.kernel[...] = _swap_gates(params.recurrent_kernel)
            return cell(state, x_t)

        h_last, h = jax.lax.scan(step, h0, x)
        return h, h_last

    ours = value_and_gradients(gru_jax.gru, x, params, h0)
    assert_close(ours, value_and_gradients(with_nnx, x, params, h0))


def test_resets_equal_the_scanned_rnn_of_reinforcement_learning():
    x, params, h0 = make_layer()
    dones = jax.random.bernoulli(jax.random.key(3), 0.4, x.shape[:2])
    params = params._replace(recurrent_bias=None)

    def scanned(x, params, h0):
        def step(state, at):
            x_t, done = at
            state = jnp.where(done[:, None], jnp.zeros_like(state), state)
            h, state = gru_cell(x_t, params, state)
            return state, h

        h_last, h = jax.lax.scan(step, h0, (x, dones))
        return h, h_last

    def gru_cell(x_t, params, state):
        variables = {
            "params": {
                prefix + gate: {"kernel": k, **({"bias": b} if b is not None else {})}
                for prefix, kernels, biases in (
                    ("i", params.kernel, jnp.split(params.bias, 3)),
                    ("h", params.recurrent_kernel, (None, None, jnp.zeros(state.shape[-1]))),
                )
                for gate, k, b in zip("zrn", jnp.split(kernels, 3, axis=-1), biases, strict=True)
            }
        }
        cell = nn.GRUCell(state.shape[-1], param_dtype=x_t.dtype)
        state, h = cell.apply(variables, state, x_t)
        return h, state

    def ours(x, params, h0):
        return gru_jax.gru(x, params, h0, episode_starts=dones)

    expected = value_and_gradients(scanned, x, params, h0)
    assert_close(value_and_gradients(ours, x, params, h0), expected)
