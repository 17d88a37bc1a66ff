# SPDX-License-Identifier: Apache-2.0
"""vmap equals a Python loop over the examples, whatever is mapped."""

import functools

import jax
import jax.numpy as jnp
import pytest

import gru_jax
from support import assert_close, loss_of, make_layer

EXAMPLES = 3
LAYERS = [make_layer(seed=i) for i in range(EXAMPLES)]
STACKED = jax.tree.map(lambda *v: jnp.stack(v), *LAYERS)
SHARED = LAYERS[0]
KEYS = jax.random.split(jax.random.key(4), EXAMPLES)
LENGTHS = jnp.asarray([[6, 0, 3], [1, 2, 3], [5, 6, 4]], jnp.int32)
STARTS = jax.random.bernoulli(jax.random.key(5), 0.4, (EXAMPLES, 6, 3))


def call(x, params, h0, options, *, time_major=True, key=None, zoneout=0.0):
    if not time_major:
        x = jnp.swapaxes(x, 0, 1)
        options = {
            k: jnp.swapaxes(v, 0, 1) if k == "episode_starts" else v for k, v in options.items()
        }
    return gru_jax.gru(x, params, h0, time_major=time_major, key=key, zoneout=zoneout, **options)


def loop(function, axes, arguments):
    """What vmap computes, one example after another."""
    results = []
    for i in range(EXAMPLES):
        one = [
            a if axis is None else jax.tree.map(lambda v: v[i], a)
            for a, axis in zip(arguments, axes, strict=True)
        ]
        results.append(function(*one))
    return jax.tree.map(lambda *v: jnp.stack(v), *results)


def choose(axes, *, mapped=STACKED, shared=SHARED):
    return [s if axis is None else m for m, s, axis in zip(mapped, shared, axes, strict=True)]


MAPPINGS = {
    "inputs": (0, None, 0),
    "x alone": (0, None, None),
    "h0 alone": (None, None, 0),
    "weights alone": (None, 0, None),
    "all": (0, 0, 0),
}


@pytest.mark.parametrize("axes", MAPPINGS.values(), ids=MAPPINGS.keys())
@pytest.mark.parametrize("time_major", [True, False])
@pytest.mark.parametrize("masked", [False, True])
def test_vmap_and_gradients(axes, time_major, masked):
    arguments = choose(axes)
    options = {}
    option_axis = None
    if masked:
        options = {"lengths": LENGTHS, "episode_starts": STARTS}
        option_axis = 0
    arguments, axes = [*arguments, options], (*axes, option_axis)
    function = functools.partial(call, time_major=time_major)
    assert_close(jax.vmap(function, axes)(*arguments), loop(function, axes, arguments))

    gradient = jax.grad(lambda *a: loss_of(function(*a)), (0, 1, 2))
    expected = loop(gradient, axes, arguments)
    assert_close(jax.vmap(gradient, axes)(*arguments), expected)
    assert_close(jax.jit(jax.vmap(gradient, axes))(*arguments), expected)

    total = lambda map_over: jax.grad(lambda *a: loss_of(map_over(*a)), (0, 1, 2))(*arguments)
    of_loop = total(lambda *a: loop(function, axes, a))
    assert_close(total(lambda *a: jax.vmap(function, axes)(*a)), of_loop)


def test_gradients_by_the_inputs_alone():
    arguments, axes = choose((0, None, 0)), (0, None, 0)
    gradient = jax.grad(lambda *a: loss_of(gru_jax.gru(*a)), (0, 2))
    assert_close(jax.vmap(gradient, axes)(*arguments), loop(gradient, axes, arguments))
    text = jax.jit(jax.vmap(gradient, axes)).lower(*arguments).as_text()
    assert "stablehlo.while" not in text  # folded, forward and backward


@pytest.mark.parametrize("key_axis", [None, 0])
def test_zoneout_drawn(key_axis):
    key = KEYS if key_axis == 0 else KEYS[0]
    x, params, h0 = STACKED[0], SHARED[1], STACKED[2]
    function = lambda x, params, h0, key: gru_jax.gru(x, params, h0, zoneout=0.4, key=key)
    axes, arguments = (0, None, 0, key_axis), (x, params, h0, key)
    assert_close(jax.vmap(function, axes)(*arguments), loop(function, axes, arguments))
    gradient = jax.grad(lambda *a: loss_of(function(*a)), (0, 1, 2))
    assert_close(jax.vmap(gradient, axes)(*arguments), loop(gradient, axes, arguments))

    def total(map_over):
        sum_of_all = lambda x, params, h0: loss_of(map_over(x, params, h0, key))
        return jax.grad(sum_of_all, (0, 1, 2))(x, params, h0)

    of_loop = total(lambda *a: loop(function, axes, a))
    assert_close(total(jax.vmap(function, axes)), of_loop)


@pytest.mark.parametrize("out", [0, 1, 2])
def test_vmap_of_vmap(out):
    """Two mapped axes, with the weights shared, mapped by the outer, or by the inner one."""
    x = jnp.stack([STACKED[0], STACKED[0] + 0.1])
    h0 = jnp.stack([STACKED[2], STACKED[2] - 0.1])
    params = SHARED[1]
    inner_axis = outer_axis = None
    if out == 1:
        params, outer_axis = jax.tree.map(lambda v: v[:2], STACKED[1]), 0
    if out == 2:
        params, inner_axis = STACKED[1], 0
    gradient = jax.grad(lambda *a: loss_of(gru_jax.gru(*a)), (0, 1, 2))
    for function in (gru_jax.gru, gradient):
        inner = (0, inner_axis, 0)
        twice = jax.vmap(jax.vmap(function, inner), (0, outer_axis, 0))(x, params, h0)
        rows = []
        for i in range(2):
            own = jax.tree.map(lambda v: v[i], params) if out == 1 else params
            rows.append(loop(function, inner, (x[i], own, h0[i])))
        assert_close(twice, jax.tree.map(lambda *v: jnp.stack(v), *rows))


def test_jacobians():
    x, params, h0 = SHARED
    function = lambda h0: jnp.sum(gru_jax.gru(x, params, h0)[1], axis=0)
    rows = [jax.grad(lambda h0, i=i: function(h0)[i])(h0) for i in range(h0.shape[-1])]
    assert_close(jax.jacrev(function)(h0), jnp.stack(rows))


def test_a_pullback_of_one_example_is_that_example_s():
    axes, arguments = (0, None, 0), choose((0, None, 0))
    _, pullbacks = jax.vmap(lambda *a: jax.vjp(gru_jax.gru, *a), axes)(*arguments)
    cotangents = (jnp.ones((6, 3, 5)), jnp.ones((3, 5)))
    for i in range(EXAMPLES):
        one = jax.tree.map(lambda v, i=i: v[i], pullbacks)
        x, params, h0 = arguments
        _, expected = jax.vjp(gru_jax.gru, x[i], params, h0[i])
        assert_close(one(cotangents), expected(cotangents))


def test_no_examples():
    x, params, h0 = make_layer()
    h, h_last = jax.vmap(gru_jax.gru, (0, None, 0))(x[None][:0], params, h0[None][:0])
    assert h.shape == (0, 6, 3, 5)
    assert h_last.shape == (0, 3, 5)
