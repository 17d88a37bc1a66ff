# SPDX-License-Identifier: Apache-2.0
"""One layer against a scan over steps, in every option."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
import oracle
from support import assert_close, loss_of, make_layer, value_and_gradients

LENGTHS = jnp.asarray([6, 0, 3], jnp.int32)
STARTS = jnp.asarray(np.random.default_rng(5).random((6, 3)) < 0.4)
RATES = {"zoneout": 0.3, "dropconnect": 0.2, "recurrent_dropout": 0.4}

OPTIONS = {
    "plain": {},
    "reset before": {"reset_after": False},
    "reverse": {"reverse": True},
    "lengths": {"lengths": LENGTHS},
    "episode starts": {"episode_starts": STARTS},
    "all in reverse": {"reverse": True, "lengths": LENGTHS, "episode_starts": STARTS},
    "inference with rates": RATES,
    "zoneout": {"zoneout": 0.3, "key": jax.random.key(7)},
    "dropconnect": {"dropconnect": 0.2, "key": jax.random.key(8)},
    "recurrent dropout": {"recurrent_dropout": 0.4, "key": jax.random.PRNGKey(9)},
    "all": {
        **RATES,
        "key": jax.random.key(10),
        "lengths": LENGTHS,
        "episode_starts": STARTS,
        "reset_after": False,
    },
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("time_major", [True, False])
def test_equals_a_scan_over_steps(options, time_major):
    layer = make_layer(time_major=time_major)
    options = {**options, "time_major": time_major}
    if not time_major and "episode_starts" in options:
        options["episode_starts"] = options["episode_starts"].T
    ours = value_and_gradients(functools.partial(gru_jax.gru, **options), *layer)
    theirs = value_and_gradients(functools.partial(oracle.gru, **options), *layer)
    assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_narrow_types_are_near_float64(dtype):
    layer = make_layer(dtype=dtype)
    exact = jax.tree.map(lambda v: v.astype(jnp.float64), layer)
    ours = value_and_gradients(gru_jax.gru, *layer)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(ours))
    assert_close(ours, value_and_gradients(oracle.gru, *exact), dtype)


@pytest.mark.parametrize("name", ["bias", "recurrent_bias"])
def test_biases_may_be_left_out(name):
    x, params, h0 = make_layer()
    params = params._replace(**{name: None})
    ours = value_and_gradients(gru_jax.gru, x, params, h0)
    assert_close(ours, value_and_gradients(oracle.gru, x, params, h0))


def test_without_an_initial_state():
    x, params, _ = make_layer()
    ours = value_and_gradients(gru_jax.gru, x, params)
    assert_close(ours, value_and_gradients(oracle.gru, x, params))


@pytest.mark.parametrize("shape", [(0, 3), (6, 0), (1, 1), (40, 33)], ids=str)
def test_batches_of_any_size(shape):
    steps, batch = shape
    layer = make_layer(steps=steps, batch=batch, units=17)
    ours = value_and_gradients(gru_jax.gru, *layer)
    assert_close(ours, value_and_gradients(oracle.gru, *layer), terms=steps * batch + 64)


def test_an_empty_batch_with_lengths_and_starts():
    x, params, h0 = make_layer(batch=0)
    options = {"lengths": jnp.zeros(0, jnp.int32), "episode_starts": jnp.zeros((6, 0), bool)}
    h, h_last = gru_jax.gru(x, params, h0, **options)
    assert h.shape == (6, 0, 5)
    assert h_last.shape == (0, 5)


def test_lengths_are_clamped():
    x, params, h0 = make_layer()
    for wild in (jnp.asarray([2**40, -1, 3]), jnp.asarray([100, -5, 3], jnp.int8)):
        expected = oracle.gru(x, params, h0, lengths=LENGTHS)
        assert_close(gru_jax.gru(x, params, h0, lengths=wild), expected)


@pytest.mark.parametrize("options", [{}, {**RATES, "key": jax.random.key(3)}])
def test_jit_checkpoint_and_scan_change_nothing(options):
    layer = make_layer()
    plain = functools.partial(gru_jax.gru, **options)
    expected = value_and_gradients(plain, *layer)
    assert_close(value_and_gradients(jax.jit(plain), *layer), expected)
    assert_close(value_and_gradients(jax.checkpoint(plain), *layer), expected)

    def scanned(x, params, h0):
        """The sequence in two halves, the state carried over."""

        def half(state, part):
            h, state = gru_jax.gru(part, params, state)
            return state, h

        h_last, h = jax.lax.scan(half, h0, x.reshape(2, 3, *x.shape[1:]))
        return h.reshape(x.shape[0], *h.shape[2:]), h_last

    if not options:
        assert_close(value_and_gradients(scanned, *layer), expected)
        assert_close(value_and_gradients(jax.jit(jax.checkpoint(scanned)), *layer), expected)


def test_keys_draw_new_masks_under_jit():
    layer = make_layer()
    drawn = jax.jit(lambda key: gru_jax.gru(*layer, zoneout=0.5, key=key)[0])
    one, two = (drawn(jax.random.key(i)) for i in (1, 2))
    assert not np.array_equal(one, two)
    np.testing.assert_array_equal(one, drawn(jax.random.key(1)))


def test_works_without_x64():
    with jax.enable_x64(False):
        x, params, h0 = make_layer(dtype="float32")
        function = functools.partial(gru_jax.gru, zoneout=0.3, key=jax.random.key(1))
        loss = lambda *a: sum(jnp.sum(v) for v in function(*a))
        gradients = jax.grad(loss, (0, 1, 2))(x, params, h0)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradients))


def _calls_in(function, *arguments):
    """The text of what function computes, without what nobody uses."""
    return jax.jit(function).lower(*arguments).as_text()


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["", "jit", "remat"])
def test_gradients_that_nobody_wants_cost_nothing(wrap):
    x, params, h0 = make_layer(steps=7)
    layer = wrap(gru_jax.gru)
    inference = _calls_in(layer, x, params, h0)
    assert "gru_jax_forward" in inference
    assert "7x3x20xf64" not in inference  # the reserve, [T, N, 4H]
    only_x = _calls_in(jax.grad(lambda x: loss_of(layer(x, params, h0))), x)
    backward = next(l for l in only_x.splitlines() if "@gru_jax_backward" in l)
    results = backward.split("->")[-1]
    assert "7x3x4xf64" in results
    assert "4x15xf64" not in results and "5x15xf64" not in results
    of_last = _calls_in(jax.grad(lambda x: loss_of(layer(x, params, h0)[1])), x)
    backward = next(l for l in of_last.splitlines() if "@gru_jax_backward" in l)
    operands = backward.split(" : (")[-1].split("->")[0]
    assert operands.count("7x3x5xf64") == 1  # h, and no zeros for its gradient


@pytest.mark.parametrize("serialized", [False, True])
def test_exported_functions_run_and_have_gradients(serialized):
    layer = make_layer()
    options = {"zoneout": 0.3, "key": jax.random.key(3), "lengths": LENGTHS}
    function = functools.partial(gru_jax.gru, **options)
    calls = ("gru_jax_forward", "gru_jax_backward")
    checks = [jax.export.DisabledSafetyCheck.custom_call(name) for name in calls]
    exported = jax.export.export(jax.jit(function), disabled_checks=checks)(*layer)
    if serialized:
        exported = jax.export.deserialize(exported.serialize(vjp_order=1))
    ours = value_and_gradients(exported.call, *layer)
    assert_close(ours, value_and_gradients(function, *layer))


def test_second_derivatives_and_forward_mode_raise():
    x, params, h0 = make_layer()
    loss = lambda x: loss_of(gru_jax.gru(x, params, h0))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(loss, (x,), (x,))
    with pytest.raises(ValueError, match="cannot be differentiated"):
        jax.grad(lambda x: jnp.sum(jax.grad(loss)(x) ** 2))(x)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"x": jnp.zeros((6, 4))}, "3 dimensions"),
        ({"x": jnp.zeros((6, 3, 4), int)}, "x has type"),
        ({"x": jnp.zeros((6, 3, 9))}, "kernel has shape"),
        ({"h0": jnp.zeros((4, 5))}, "h0 has shape"),
        ({"h0": jnp.zeros((3, 5), jnp.float32)}, "h0 has type"),
        ({"lengths": jnp.zeros(2, int)}, "lengths has shape"),
        ({"lengths": jnp.zeros(3)}, "integers"),
        ({"episode_starts": jnp.zeros((3, 6), bool)}, "episode_starts has shape"),
        ({"zoneout": 1.0}, "zoneout is"),
        ({"dropconnect": -0.1}, "dropconnect is"),
    ],
)
def test_bad_arguments_are_value_errors(change, match):
    x, params, h0 = make_layer()
    arguments = {"x": x, "params": params, "h0": h0, **change}
    with pytest.raises(ValueError, match=match):
        gru_jax.gru(**arguments)
