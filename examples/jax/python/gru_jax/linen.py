# SPDX-License-Identifier: Apache-2.0
"""A GRU layer as a flax.linen module, and its weights from and to flax.linen.GRUCell."""

from typing import Any, Callable, Optional

import flax.linen as nn
import jax
import jax.numpy as jnp

from . import _flax
from .ops import Parameters


def _join(*gates):
    """Through the tree, since an initializer may wrap its array in flax's metadata."""
    return jax.tree.map(_flax.join_arrays, *gates)


class GRU(nn.Module):
    """Stands where `flax.linen.RNN(flax.linen.GRUCell(features))` stands, in nn.Bidirectional too.

    The arguments of flax's RNN mean what they mean there. Outputs beyond `seq_lengths` are zero, and
    the carry of a sequence without steps is its initial one. Rates draw their masks from the stream
    "dropout" unless `deterministic`, which must be given, here or in the call, where a rate is not
    zero.
    """

    features: int
    zoneout: float = 0.0
    dropconnect: float = 0.0
    recurrent_dropout: float = 0.0
    deterministic: Optional[bool] = None
    reset_after: bool = True
    use_bias: bool = True
    use_recurrent_bias: bool = True
    time_major: bool = False
    return_carry: bool = False
    reverse: bool = False
    keep_order: bool = False
    dtype: Any = None  # None for the type that inputs and parameters promote to
    param_dtype: Any = jnp.float32
    kernel_init: Callable = nn.initializers.lecun_normal()
    recurrent_kernel_init: Callable = nn.initializers.orthogonal()
    bias_init: Callable = nn.initializers.zeros_init()

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,  # [*batch, T, C], or [T, *batch, C] where time_major
        *,
        initial_carry: Optional[jax.Array] = None,  # [*batch, H], None for zeros
        init_key: Optional[jax.Array] = None,  # nn.Bidirectional gives it; nothing is drawn
        seq_lengths: Optional[jax.Array] = None,  # [*batch]
        return_carry: Optional[bool] = None,
        time_major: Optional[bool] = None,
        reverse: Optional[bool] = None,
        keep_order: Optional[bool] = None,
        episode_starts: Optional[jax.Array] = None,  # as inputs without the last dimension
        deterministic: Optional[bool] = None,
    ):
        del init_key
        _flax.check_inputs(inputs)

        def param(name, initializer, *shape):
            draw = _flax.per_gate(initializer, _join)
            return self.param(name, draw, shape, self.param_dtype)

        gates = 3 * self.features
        params = Parameters(
            param("kernel", self.kernel_init, inputs.shape[-1], gates),
            param("recurrent_kernel", self.recurrent_kernel_init, self.features, gates),
            param("bias", self.bias_init, gates) if self.use_bias else None,
            param("recurrent_bias", self.bias_init, gates) if self.use_recurrent_bias else None,
        )
        inputs, initial_carry, *params = nn.dtypes.promote_dtype(
            inputs, initial_carry, *params, dtype=self.dtype
        )
        key = None
        if _flax.draws_masks(self, deterministic=False):
            if not nn.merge_param("deterministic", self.deterministic, deterministic):
                key = self.make_rng("dropout")
        return _flax.run(
            self,
            inputs,
            Parameters(*params),
            initial_carry,
            seq_lengths,
            episode_starts,
            key,
            return_carry=return_carry,
            time_major=time_major,
            reverse=reverse,
            keep_order=keep_order,
        )


def from_cell(cell):
    """The Parameters of a flax.linen.GRUCell, given its "params"; nothing is rounded."""

    def joined(side, leaf):
        return jnp.concatenate([cell[side + gate][leaf] for gate in "zrn"], axis=-1)

    recurrent_bias = cell["hn"]["bias"]
    return Parameters(
        joined("i", "kernel"),
        joined("h", "kernel"),
        joined("i", "bias"),
        jnp.pad(recurrent_bias, (2 * recurrent_bias.shape[0], 0)),
    )


def to_cell(params):
    """The "params" of a flax.linen.GRUCell that is the layer of these Parameters, with reset_after.

    The cell has one bias where this layer has two for z and for r: theirs is the sum."""
    kernel, recurrent_kernel, bias, recurrent_bias = Parameters(*params)
    zeros = jnp.zeros(kernel.shape[1], kernel.dtype)
    inner = jnp.split(zeros if bias is None else bias, 3)
    outer = jnp.split(zeros if recurrent_bias is None else recurrent_bias, 3)
    biases = [inner[0] + outer[0], inner[1] + outer[1], inner[2]]
    cell = {}
    for i, gate in enumerate("zrn"):
        cell["i" + gate] = {"kernel": jnp.split(kernel, 3, axis=1)[i], "bias": biases[i]}
        cell["h" + gate] = {"kernel": jnp.split(recurrent_kernel, 3, axis=1)[i]}
    cell["hn"]["bias"] = outer[2]
    return cell
