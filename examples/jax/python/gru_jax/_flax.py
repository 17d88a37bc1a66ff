# SPDX-License-Identifier: Apache-2.0
"""What the modules for flax.linen and flax.nnx share."""

import math

import jax
import jax.numpy as jnp
from flax.linen.recurrent import flip_sequences

from .ops import gru

RATES = ("zoneout", "dropconnect", "recurrent_dropout")


def per_gate(initializer, join):
    """An initializer of [rows, 3H] that draws the three gates one by one, as flax.linen's cell.
    `join` makes one of what it gives for each."""

    def draw(key, shape, dtype):
        gate = (*shape[:-1], shape[-1] // 3)
        return join(*(initializer(own, gate, dtype) for own in jax.random.split(key, 3)))

    return draw


def join_arrays(*gates):
    return jnp.concatenate(gates, axis=-1)


def draws_masks(layer, deterministic):
    return not deterministic and any(getattr(layer, rate) > 0 for rate in RATES)


def check_inputs(inputs):
    if jnp.ndim(inputs) < 2:
        raise ValueError(f"inputs has shape {jnp.shape(inputs)}, must have 2 dimensions or more")


def run(layer, inputs, params, initial_carry, seq_lengths, episode_starts, key, **overrides):
    """`gru` with the arguments and results of flax's RNN. `layer` has the attributes that
    `overrides` replace where they are not None."""
    given = {
        name: getattr(layer, name) if value is None else value for name, value in overrides.items()
    }
    time_major, reverse = given["time_major"], given["reverse"]
    units = params.recurrent_kernel.shape[0]
    # flax has any number of batch dimensions, even none.
    batch = inputs.shape[1:-1] if time_major else inputs.shape[:-2]
    folded = math.prod(batch)
    steps = inputs.shape[0 if time_major else -2]
    outer = (steps, folded) if time_major else (folded, steps)

    def fold(name, value, shape, folded_shape):
        if value is None:
            return None
        if jnp.shape(value) != shape:
            raise ValueError(f"{name} has shape {jnp.shape(value)}, must be {shape}")
        return jnp.reshape(value, folded_shape)

    lengths = fold("seq_lengths", seq_lengths, batch, (folded,))

    h, h_last = gru(
        jnp.reshape(inputs, (*outer, inputs.shape[-1])),
        params,
        fold("initial_carry", initial_carry, (*batch, units), (folded, units)),
        lengths=lengths,
        episode_starts=fold("episode_starts", episode_starts, inputs.shape[:-1], outer),
        key=key,
        reset_after=layer.reset_after,
        reverse=reverse,
        time_major=time_major,
        **{rate: getattr(layer, rate) for rate in RATES},
    )
    if reverse and not given["keep_order"]:
        lengths = None if lengths is None else jnp.clip(lengths, 0, steps)
        h = flip_sequences(h, lengths, num_batch_dims=1, time_major=time_major)
    outputs = jnp.reshape(h, (*inputs.shape[:-1], units))
    return (jnp.reshape(h_last, (*batch, units)), outputs) if given["return_carry"] else outputs
