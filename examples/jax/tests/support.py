# SPDX-License-Identifier: Apache-2.0
"""Random layers, and how near two results must be."""

import jax
import jax.numpy as jnp
import numpy as np

import gru_jax

EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}


def make_layer(steps=6, batch=3, inputs=4, units=5, dtype="float64", seed=1, time_major=True):
    """x, parameters and h0 with random values that dtype can hold."""
    random = np.random.default_rng(seed)

    def draw(*shape, scale=1.0):
        return jnp.asarray(random.normal(0, scale, shape), dtype)

    params = gru_jax.Parameters(
        draw(inputs, 3 * units, scale=0.5),
        draw(units, 3 * units, scale=0.5),
        draw(3 * units, scale=0.3),
        draw(3 * units, scale=0.3),
    )
    outer = (steps, batch) if time_major else (batch, steps)
    return draw(*outer, inputs), params, draw(batch, units, scale=0.5)


def assert_close(actual, expected, dtype="float64", terms=64):
    """Two trees agree. `actual` was computed in dtype; `terms` is the length of the longest chain
    of sums: rounding errors grow with its root, and are relative to the largest value."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, e = (np.asarray(v, np.float64) for v in (a, e))
        assert a.shape == e.shape
        scale = max(1.0, np.max(np.abs(e), initial=0.0))
        allowed = 2 * EPSILON[dtype] * np.sqrt(terms) * scale
        np.testing.assert_allclose(a, e, rtol=0, atol=allowed)


def loss_of(outputs):
    """A sum of all outputs with weights that differ, so that no error can hide in it."""
    return sum(
        jnp.sum(v.astype(jnp.float64) * jnp.linspace(-1.0, 1.0, v.size).reshape(v.shape))
        for v in jax.tree.leaves(outputs)
    )


def value_and_gradients(function, *arguments):
    """The outputs of function(*arguments), and the gradient of their loss by each argument."""

    def loss(*inner):
        outputs = function(*inner)
        return loss_of(outputs), outputs

    everything = tuple(range(len(arguments)))
    gradients, outputs = jax.grad(loss, everything, has_aux=True)(*arguments)
    return outputs, gradients
