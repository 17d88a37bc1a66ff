# SPDX-License-Identifier: Apache-2.0
"""A batch over several devices gives what one device gives: GPUs where there are two or more, else
the four that conftest.py makes of the CPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
import oracle
from support import assert_close, loss_of, make_layer, value_and_gradients

DEVICES = jax.devices() if len(jax.devices()) > 1 else jax.devices("cpu")
P = jax.P
X, STATE = P(None, "batch", None), P("batch", None)
SPECS = (X, P(), STATE)


@pytest.fixture(params=[jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit], ids=str)
def mesh(request):
    mesh = jax.make_mesh((len(DEVICES),), ("batch",), axis_types=(request.param,), devices=DEVICES)
    with jax.set_mesh(mesh):
        yield mesh


def place(specs, values):
    """On the devices of the mesh in force."""
    return [jax.device_put(value, spec) for value, spec in zip(values, specs, strict=True)]


def batch_of_shards(count=3):
    return len(DEVICES) * count


def total(outputs):
    """A loss that does not depend on which sample is which device's."""
    return sum(jnp.sum(jnp.sin(v)) for v in outputs)


def gradient(function):
    return jax.grad(lambda *a: total(function(*a)), (0, 1, 2))


def assert_nothing_is_gathered(function, *arguments):
    text = function.lower(*arguments).compile().as_text()
    assert "gru_jax_backward" in text
    assert "all-gather" not in text


def test_shard_map_with_the_gradient_outside(mesh):
    layer = make_layer(batch=batch_of_shards())
    sharded = jax.shard_map(gru_jax.gru, in_specs=SPECS, out_specs=(X, STATE))
    placed = place(SPECS, layer)
    assert_close(jax.jit(sharded)(*placed), gru_jax.gru(*layer))
    function = jax.jit(gradient(sharded))
    assert_close(function(*placed), gradient(gru_jax.gru)(*layer))
    assert_nothing_is_gathered(function, *placed)


def test_shard_map_with_the_gradient_inside(mesh):
    layer = make_layer(batch=batch_of_shards())
    placed = place(SPECS, layer)
    sharded = jax.jit(jax.shard_map(gradient(gru_jax.gru), in_specs=SPECS, out_specs=SPECS))
    assert_close(sharded(*placed), gradient(gru_jax.gru)(*layer))
    assert_nothing_is_gathered(sharded, *placed)


def test_shard_map_with_lengths_and_starts_and_no_state(mesh):
    batch = batch_of_shards()
    x, params, _ = make_layer(batch=batch)
    params = params._replace(recurrent_bias=None)
    lengths = jnp.arange(batch, dtype=jnp.int32) % 7
    starts = jax.random.bernoulli(jax.random.key(1), 0.4, x.shape[:2])

    def function(x, params, lengths, starts):
        return gru_jax.gru(x, params, lengths=lengths, episode_starts=starts)

    by_parameters = lambda function: jax.grad(lambda *a: total(function(*a)), (0, 1))
    specs = (X, P(), P("batch"), P(None, "batch"))
    arguments = (x, params, lengths, starts)
    inside = jax.shard_map(by_parameters(function), in_specs=specs, out_specs=specs[:2])
    outside = by_parameters(jax.shard_map(function, in_specs=specs, out_specs=(X, STATE)))
    for sharded in (inside, outside):
        expected = by_parameters(function)(*arguments)
        assert_close(jax.jit(sharded)(*place(specs, arguments)), expected)


def test_a_replicated_input_with_states_of_each_device(mesh):
    x, params, h0 = make_layer(batch=batch_of_shards(1))
    x = x[:, :1]
    specs = (P(), P(), STATE)
    inside = jax.shard_map(gradient(gru_jax.gru), in_specs=specs, out_specs=specs)
    own = lambda x, params, h0: gru_jax.gru(jnp.repeat(x, len(DEVICES), axis=1), params, h0)
    expected = gradient(own)(x, params, h0)
    assert_close(jax.jit(inside)(*place(specs, (x, params, h0))), expected)


def test_vmap_checkpoint_and_scan_inside_shard_map(mesh):
    x, params, h0 = make_layer(batch=batch_of_shards())

    @jax.checkpoint
    def function(x, params, h0):
        def half(state, part):
            h, state = jax.vmap(gru_jax.gru, (1, None, 0), (1, 0))(part, params, state)
            return state, h

        halves = x.reshape(2, 3, 1, *x.shape[1:])
        h_last, h = jax.lax.scan(half, h0[None], halves)
        return h.reshape(*x.shape[:2], -1), h_last[0]

    inside = jax.shard_map(gradient(function), in_specs=SPECS, out_specs=SPECS)
    placed = place(SPECS, (x, params, h0))
    assert_close(jax.jit(inside)(*placed), gradient(gru_jax.gru)(x, params, h0))


def test_masks_are_those_of_each_device_s_key(mesh):
    layer = make_layer(batch=batch_of_shards())

    def function(x, params, h0, index):
        own = jax.random.fold_in(jax.random.key(3), index)
        return gru_jax.gru(x, params, h0, zoneout=0.3, dropconnect=0.2, key=own)

    def on_device(*layer):
        return function(*layer, jax.lax.axis_index("batch"))

    def one_after_another(x, params, h0):
        parts = zip(jnp.split(x, len(DEVICES), 1), jnp.split(h0, len(DEVICES)), strict=True)
        h, h_last = zip(*(function(x, params, h, i) for i, (x, h) in enumerate(parts)))
        return jnp.concatenate(h, 1), jnp.concatenate(h_last)

    inside = jax.shard_map(gradient(on_device), in_specs=SPECS, out_specs=SPECS)
    expected = gradient(one_after_another)(*layer)
    assert_close(jax.jit(inside)(*place(SPECS, layer)), expected)


@pytest.mark.parametrize("inside", [False, True])
def test_without_check_vma_it_does_what_jax_s_own_operations_do(mesh, inside):
    layer = make_layer(batch=batch_of_shards())
    shard_map = functools.partial(jax.shard_map, in_specs=SPECS, check_vma=False)
    specs = (X, P("batch"), STATE)  # inside, each device has weights' gradients of its own

    def sharded(function):
        if inside:
            return shard_map(gradient(function), out_specs=specs)
        return gradient(shard_map(function, out_specs=(X, STATE)))

    ours, theirs = (jax.jit(sharded(f))(*place(SPECS, layer)) for f in (gru_jax.gru, oracle.gru))
    assert_close(ours, theirs)


def test_sharded_arguments_without_shard_map(mesh):
    layer = make_layer(batch=batch_of_shards())
    compiled = jax.jit(gradient(gru_jax.gru))
    if mesh.are_all_axes_explicit:
        with pytest.raises(ValueError, match="x is sharded as .*jax.shard_map"):
            compiled(*place(SPECS, layer))
    else:
        assert_close(compiled(*place(SPECS, layer)), gradient(gru_jax.gru)(*layer))


def test_pmap():
    count = len(DEVICES)
    layers = [make_layer(seed=i) for i in range(count)]
    stacked = jax.tree.map(lambda *v: jnp.stack(v), *layers)
    function = functools.partial(value_and_gradients, gru_jax.gru)
    parallel = jax.pmap(function, devices=DEVICES)(*stacked)
    expected = [function(*layer) for layer in layers]
    assert_close(parallel, jax.tree.map(lambda *v: jnp.stack(v), *expected))
