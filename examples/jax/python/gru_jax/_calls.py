# SPDX-License-Identifier: Apache-2.0
"""The two passes as JAX functions without derivatives, and what vmap does with them."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import _library


class Operands(NamedTuple):
    """What both passes read; None where there is none."""

    x: Any  # [T, N, C] or [N, T, C]
    kernel: Any  # [C, 3H]
    recurrent_kernel: Any  # [H, 3H]
    bias: Any  # [3H]
    recurrent_bias: Any  # [3H]
    h0: Any  # [N, H]
    lengths: Any  # int32 [N]
    episode_starts: Any  # bool, as x without its last dimension
    random: Any  # uint32 [4], None for the formulas of inference


# What has a gradient, in the order of the backward pass's results.
DIFFERENTIABLE = ("x", "kernel", "recurrent_kernel", "bias", "recurrent_bias", "h0")
_WEIGHTS = ("kernel", "recurrent_kernel", "bias", "recurrent_bias")


@dataclasses.dataclass(frozen=True)
class Options:
    """What is known when a function is traced."""

    reset_after: bool
    reverse: bool
    time_major: bool
    zoneout: float
    dropconnect: float
    recurrent_dropout: float

    @property
    def batch_axis(self):
        return 1 if self.time_major else 0

    def batch_axes(self):
        """Where N lies in each operand that has it."""
        sequence = self.batch_axis
        return {"x": sequence, "h0": 0, "lengths": 0, "episode_starts": sequence}


def _sizes(options, operands):
    """T, N, C, H"""
    outer = operands.x.shape[:2]
    steps, batch = outer if options.time_major else reversed(outer)
    return steps, batch, operands.x.shape[2], operands.recurrent_kernel.shape[0]


def varying_axes(value):
    """The mesh axes of an enclosing shard_map that `value` differs over."""
    return jax.typeof(value).manual_axis_type.varying


def vary_over(axes, value):
    """Makes a value that is the same on all devices of `axes` one of each device's own: then its
    gradient is the sum of theirs."""
    return jax.lax.pcast(value, tuple(axes - varying_axes(value)), to="varying")


def _result(operands, shape, dtype):
    """A call's result, of each device's own where the operands are."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.ShapeDtypeStruct(
        shape,
        dtype,
        sharding=jax.NamedSharding(mesh, jax.P(*[None] * len(shape))),
        manual_axis_type=jax.sharding.ManualAxisType(varying=varying_axes(operands.x)),
    )


def _scratch(options, operands, keep, is_backward):
    steps, batch, input_size, hidden_size = _sizes(options, operands)
    size = _library.scratch_bytes(
        is_backward,
        operands.x.dtype.name,
        steps=steps,
        batch=batch,
        input_size=input_size,
        hidden_size=hidden_size,
        # A layout without N has no lengths to read.
        lengths=operands.lengths is not None and batch > 0,
        episode_starts=operands.episode_starts is not None,
        stochastic=operands.random is not None,
        keep_for_backward=keep,
        **dataclasses.asdict(options),
    )
    return _result(operands, (size,), jnp.uint8)


def _attributes(options, keep):
    return {
        name: np.float64(value) if isinstance(value, float) else np.bool_(value)
        for name, value in {**dataclasses.asdict(options), "keep_for_backward": keep}.items()
    }


def _or_empty(operands, value, dtype=None):
    """A handler takes shape [0] for an operand that is left out."""
    if value is not None:
        return value
    return vary_over(varying_axes(operands.x), jnp.zeros((0,), dtype or operands.x.dtype))


def _flat(operands):
    types = {"lengths": jnp.int32, "episode_starts": jnp.bool_, "random": jnp.uint32}
    return [
        _or_empty(operands, value, types.get(name)) for name, value in operands._asdict().items()
    ]


def _call_forward(options, keep, operands):
    steps, batch, _, hidden_size = _sizes(options, operands)
    dtype = operands.x.dtype
    results = (
        _result(operands, (*operands.x.shape[:2], hidden_size), dtype),
        _result(operands, (batch, hidden_size), dtype),
        _result(operands, (steps, batch, 4 * hidden_size) if keep else (0,), dtype),
        _scratch(options, operands, keep, is_backward=False),
    )
    call = jax.ffi.ffi_call(_library.FORWARD, results)
    h, h_last, reserve, _ = call(*_flat(operands), **_attributes(options, keep))
    return h, h_last, reserve if keep else None


def _call_backward(options, wanted, operands, h, reserve, dh, dh_last):
    results = [
        _result(
            operands, getattr(operands, name).shape if name in wanted else (0,), operands.x.dtype
        )
        for name in DIFFERENTIABLE
    ]
    results.append(_scratch(options, operands, True, is_backward=True))
    call = jax.ffi.ffi_call(_library.BACKWARD, results)
    more = [h, reserve, _or_empty(operands, dh), _or_empty(operands, dh_last)]
    *gradients, _ = call(*_flat(operands), *more, **_attributes(options, True))
    return {name: g for name, g in zip(DIFFERENTIABLE, gradients, strict=True) if name in wanted}


# ---- vmap ----


def _fold(size, mapped, value, axis):
    """Makes the mapped axis 0 of `value` a part of N, which is axis `axis` of one example."""
    if value is None:
        return None
    if not mapped:
        value = jnp.broadcast_to(value[None], (size, *value.shape))
    value = jnp.moveaxis(value, 0, axis)
    before, batch, after = value.shape[:axis], value.shape[axis + 1], value.shape[axis + 2 :]
    return value.reshape(*before, size * batch, *after)


def _unfold(size, value, axis):
    """The reverse of _fold."""
    if value is None:
        return None
    shape = (*value.shape[:axis], size, value.shape[axis] // size, *value.shape[axis + 1 :])
    return jnp.moveaxis(value.reshape(shape), axis, 0)


def _fold_operands(options, size, mapped, operands):
    folded = {
        name: _fold(size, getattr(mapped, name), getattr(operands, name), axis)
        for name, axis in options.batch_axes().items()
    }
    return operands._replace(**folded)


def _one_by_one(call, mapped, arguments):
    """Maps example by example, with what is not mapped left alone."""
    values, tree = jax.tree.flatten(arguments)
    flags = jax.tree.leaves(mapped)
    some = [value for value, flag in zip(values, flags, strict=True) if flag]

    def one(example):
        rest = iter(example)
        chosen = [next(rest) if flag else v for v, flag in zip(values, flags, strict=True)]
        return call(*jax.tree.unflatten(tree, chosen))

    return jax.lax.map(one, some)


def _shares_weights_and_masks(mapped, operands):
    """Whether N samples more are the same as another example: then examples fold into N."""
    return operands.random is None and not any(getattr(mapped, name) for name in _WEIGHTS)


def _all_mapped(results):
    return jax.tree.map(lambda _: True, results)


@functools.lru_cache(maxsize=None)
def _batched_forward(options, keep):
    @jax.custom_batching.custom_vmap
    def call(operands):
        return _call_forward(options, keep, operands)

    @call.def_vmap
    def rule(size, mapped, operands):
        if size > 0 and _shares_weights_and_masks(mapped[0], operands):
            h, h_last, reserve = call(_fold_operands(options, size, mapped[0], operands))
            results = (
                _unfold(size, h, options.batch_axis),
                _unfold(size, h_last, 0),
                _unfold(size, reserve, 1),
            )
        else:
            results = _one_by_one(call, mapped, (operands,))
        return results, _all_mapped(results)

    return call


@functools.lru_cache(maxsize=None)
def _batched_backward(options, wanted):
    @jax.custom_batching.custom_vmap
    def call(operands, h, reserve, dh, dh_last):
        return _call_backward(options, wanted, operands, h, reserve, dh, dh_last)

    @call.def_vmap
    def rule(size, mapped, operands, *states):
        shared = size > 0 and _shares_weights_and_masks(mapped[0], operands)
        # A folded pass would add up the weights' gradients of all examples.
        if shared and not any(name in wanted for name in _WEIGHTS):
            axes = (options.batch_axis, 1, options.batch_axis, 0)
            folded = [
                _fold(size, flag, value, axis)
                for flag, value, axis in zip(mapped[1:], states, axes, strict=True)
            ]
            gradients = call(_fold_operands(options, size, mapped[0], operands), *folded)
            at = options.batch_axes()
            results = {name: _unfold(size, g, at[name]) for name, g in gradients.items()}
        else:
            results = _one_by_one(call, mapped, (operands, *states))
        return results, _all_mapped(results)

    return call


def forward(options, keep, operands):
    """(h, h_last, reserve); the reserve, [T, N, 4H], is None unless kept."""
    return _batched_forward(options, keep)(operands)


def backward(options, wanted, operands, h, reserve, dh, dh_last):
    """The gradient of each operand in `wanted`, by name."""
    return _batched_backward(options, wanted)(operands, h, reserve, dh, dh_last)
