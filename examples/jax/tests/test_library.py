# SPDX-License-Identifier: Apache-2.0
"""The handlers themselves: what they refuse, and that several threads can call them."""

import concurrent.futures

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from gru_jax import _calls, _library
from support import make_layer

SIZES = {"steps": 6, "batch": 3, "input_size": 4, "hidden_size": 5}
OPTIONS = {
    "zoneout": 0.0,
    "dropconnect": 0.0,
    "recurrent_dropout": 0.0,
    "reset_after": True,
    "reverse": False,
    "time_major": True,
}
INPUTS = {"lengths": False, "episode_starts": False, "stochastic": False}


def test_scratch_grows_with_the_problem():
    ask = lambda **sizes: _library.scratch_bytes(
        False, "float32", **{**SIZES, **OPTIONS, **INPUTS, "keep_for_backward": False, **sizes}
    )
    assert ask() < ask(hidden_size=500)


def test_scratch_of_an_impossible_problem_is_an_error():
    fields = {**SIZES, **OPTIONS, **INPUTS, "keep_for_backward": True}
    with pytest.raises(ValueError, match="zoneout rate is 2"):
        _library.scratch_bytes(False, "float32", **{**fields, "zoneout": 2.0})
    with pytest.raises(ValueError, match="hidden_size"):
        _library.scratch_bytes(True, "float32", **{**fields, "hidden_size": 0})


def _call(scratch=None, h0_shape=(3, 5)):
    x, params, _ = make_layer(dtype="float32")
    operands = _calls.Operands(x, *params, jnp.zeros(h0_shape, x.dtype), None, None, None)
    fields = {**SIZES, **OPTIONS, **INPUTS, "keep_for_backward": False}
    scratch = scratch or _library.scratch_bytes(False, "float32", **fields)
    shapes = [((6, 3, 5), x.dtype), ((3, 5), x.dtype), ((0,), x.dtype), ((scratch,), jnp.uint8)]
    call = jax.ffi.ffi_call(_library.FORWARD, [jax.ShapeDtypeStruct(*s) for s in shapes])
    attributes = {k: np.float64(v) if isinstance(v, float) else v for k, v in OPTIONS.items()}
    attributes = {k: np.bool_(v) if isinstance(v, bool) else v for k, v in attributes.items()}
    flat = _calls._flat(operands)
    return jax.block_until_ready(call(*flat, **attributes, keep_for_backward=np.bool_(False)))


def test_handlers_check_what_they_are_given():
    _call()
    with pytest.raises(jax.errors.JaxRuntimeError, match="scratch result has 8 bytes"):
        _call(scratch=8)
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"h0 has shape \[2, 5\]"):
        _call(h0_shape=(2, 5))


def test_threads_call_at_once():
    x, params, h0 = make_layer(steps=30, batch=40, units=64)
    function = jax.jit(gru_jax.gru)
    expected = jax.block_until_ready(function(x, params, h0))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        call = lambda: jax.block_until_ready(function(x, params, h0))
        jobs = [pool.submit(call) for _ in range(40)]
        for job in jobs:
            jax.tree.map(np.testing.assert_array_equal, job.result(), expected)
