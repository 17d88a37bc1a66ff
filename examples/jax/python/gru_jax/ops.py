# SPDX-License-Identifier: Apache-2.0
"""One GRU layer and direction over a batch of sequences."""

import functools
from typing import NamedTuple, Optional

import jax
import jax.numpy as jnp
from jax import export

from . import _calls

_DTYPES = ("float16", "bfloat16", "float32", "float64")


class Parameters(NamedTuple):
    """The weights of a layer; gates in the order z, r, g (update, reset, candidate)."""

    kernel: jax.Array  # [C, 3H]
    recurrent_kernel: jax.Array  # [H, 3H]
    bias: Optional[jax.Array] = None  # [3H], None for zeros
    recurrent_bias: Optional[jax.Array] = None  # [3H], None for zeros


export.register_namedtuple_serialization(Parameters, serialized_name="gru_jax.Parameters")


def gru(
    x,
    params,
    h0=None,
    *,
    lengths=None,
    episode_starts=None,
    zoneout=0.0,
    dropconnect=0.0,
    recurrent_dropout=0.0,
    key=None,
    reset_after=True,
    reverse=False,
    time_major=True,
):
    """Runs a GRU over `x`.

    Args:
      x: [T, N, C], or [N, T, C] without `time_major`; float16, bfloat16, float32 or float64.
      params: Parameters (or a tuple in their order), of x's type.
      h0: [N, H] of x's type, or None for zeros.
      lengths: [N] integers, clamped to [0, T], or None.
      episode_starts: bool, as x without its last dimension, or None: no state passes into a step
        marked True.
      zoneout, dropconnect, recurrent_dropout: rates in [0, 1), Python's own numbers.
      key: a JAX key that the masks are drawn from, or None for the formulas of inference.
      reset_after: whether the reset gate acts after the recurrent product (1406.1078v1) or before.
      reverse: whether the steps are done from each sequence's end; outputs stay in time order.
      time_major: the layout of x, h and episode_starts.

    Returns:
      (h, h_last): [T, N, H] (or [N, T, H]) with zeros beyond the lengths, and [N, H], the state at
      each sequence's true end.

    Raises ValueError for arguments that do not fit together. The first derivative in reverse mode
    exists; forward mode and second derivatives raise TypeError and ValueError of JAX's own.
    """
    options = _calls.Options(
        reset_after=bool(reset_after),
        reverse=bool(reverse),
        time_major=bool(time_major),
        zoneout=_rate("zoneout", zoneout),
        dropconnect=_rate("dropconnect", dropconnect),
        recurrent_dropout=_rate("recurrent_dropout", recurrent_dropout),
    )
    drops = any((options.zoneout, options.dropconnect, options.recurrent_dropout))
    x = jnp.asarray(x)
    if x.dtype.name not in _DTYPES:
        raise ValueError(f"x has type {x.dtype.name}, must be one of {', '.join(_DTYPES)}")
    if x.ndim != 3:
        raise ValueError(f"x has shape {list(x.shape)}, must have 3 dimensions")
    params = Parameters(*params)
    operands = _calls.Operands(
        x=x,
        kernel=_as_array("params.kernel", params.kernel, x.dtype),
        recurrent_kernel=_as_array("params.recurrent_kernel", params.recurrent_kernel, x.dtype),
        bias=_as_array("params.bias", params.bias, x.dtype),
        recurrent_bias=_as_array("params.recurrent_bias", params.recurrent_bias, x.dtype),
        h0=_as_array("h0", h0, x.dtype),
        lengths=_as_lengths(lengths),
        episode_starts=None if episode_starts is None else jnp.asarray(episode_starts) != 0,
        random=jax.random.bits(key, (4,), jnp.uint32) if key is not None and drops else None,
    )
    _check_shapes(options, operands)
    _check_shardings(operands)
    return _gru(options, _vary_alike(operands))


def _rate(name, value):
    value = float(value)
    if not 0 <= value < 1:
        raise ValueError(f"{name} is {value}, must be in [0, 1)")
    return value


def _as_array(name, value, dtype):
    if value is None:
        return None
    value = jnp.asarray(value)
    if value.dtype != dtype:
        raise ValueError(f"{name} has type {value.dtype.name}, must have x's, {dtype.name}")
    return value


def _as_lengths(lengths):
    if lengths is None:
        return None
    lengths = jnp.asarray(lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"lengths has type {lengths.dtype.name}, must be integers")
    if lengths.dtype.itemsize >= 4:  # beyond int32 a cast would wrap around
        lengths = jnp.minimum(lengths, jnp.asarray(2**31 - 1, lengths.dtype))
        if jnp.issubdtype(lengths.dtype, jnp.signedinteger):
            lengths = jnp.maximum(lengths, 0)
    return lengths.astype(jnp.int32)


def _check_shapes(options, operands):
    outer = operands.x.shape[:2]
    batch = outer[options.batch_axis]
    if operands.kernel is None or operands.recurrent_kernel is None:
        raise ValueError("params.kernel and params.recurrent_kernel are needed")
    if operands.recurrent_kernel.ndim != 2:
        shape = list(operands.recurrent_kernel.shape)
        raise ValueError(f"params.recurrent_kernel has shape {shape}, must have 2 dimensions")
    hidden = operands.recurrent_kernel.shape[0]
    if hidden == 0 or operands.x.shape[2] == 0:
        raise ValueError("the widths of x and of params.recurrent_kernel must be at least 1")
    expected = {
        "kernel": (operands.x.shape[2], 3 * hidden),
        "recurrent_kernel": (hidden, 3 * hidden),
        "bias": (3 * hidden,),
        "recurrent_bias": (3 * hidden,),
        "h0": (batch, hidden),
        "lengths": (batch,),
        "episode_starts": outer,
    }
    for name, shape in expected.items():
        value = getattr(operands, name)
        if value is not None and value.shape != shape:
            raise ValueError(f"{name} has shape {list(value.shape)}, must be {list(shape)}")


def _check_shardings(operands):
    """In a mesh of Explicit axes types name shardings, and a call has none to name."""
    for name, value in operands._asdict().items():
        if value is None:
            continue
        spec = jax.typeof(value).sharding.spec
        if any(axis is not None for axis in spec):
            raise ValueError(
                f"{name} is sharded as {spec}, on Explicit axes: call gru inside jax.shard_map "
                "over the batch, or jax.reshard the arguments first"
            )


def _vary_alike(operands):
    """Inside shard_map, all operands as each device's own if any is."""
    values = jax.tree.leaves(operands)
    axes = frozenset().union(*(_calls.varying_axes(value) for value in values))
    return jax.tree.map(functools.partial(_calls.vary_over, axes), operands)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gru(options, operands):
    h, h_last, _ = _calls.forward(options, False, operands)
    return h, h_last


@jax.tree_util.register_static
class _Wanted(frozenset):
    """The names of the operands that a gradient is wanted of, through the residuals."""


def _gru_forward(options, operands):
    perturbed = {n for n in _calls.DIFFERENTIABLE if getattr(operands, n) is not None}
    wanted = _Wanted(n for n in perturbed if getattr(operands, n).perturbed)
    operands = jax.tree.map(lambda operand: operand.value, operands)
    h, h_last, reserve = _calls.forward(options, True, operands)
    return (h, h_last), (wanted, operands, h, reserve)


def _gru_backward(options, residuals, cotangents):
    wanted, operands, h, reserve = residuals
    dh, dh_last = (None if _is_zero(cotangent) else cotangent for cotangent in cotangents)
    nothing = _calls.Operands(*[None] * len(operands))
    if not wanted or (dh is None and dh_last is None):
        return (nothing,)
    gradients = _calls.backward(options, wanted, operands, h, reserve, dh, dh_last)
    return (nothing._replace(**gradients),)


def _is_zero(cotangent):
    return isinstance(cotangent, jax.custom_derivatives.SymbolicZero)


_gru.defvjp(_gru_forward, _gru_backward, symbolic_zeros=True)
