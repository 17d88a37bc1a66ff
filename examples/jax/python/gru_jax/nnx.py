# SPDX-License-Identifier: Apache-2.0
"""A GRU layer as a flax.nnx module, and its weights from and to flax.nnx.GRUCell."""

import dataclasses
from typing import Any, Callable, Optional

import jax
import jax.numpy as jnp
from flax import nnx

from . import _flax
from .ops import Parameters


def _join(*gates):
    """An initializer may give metadata beside its array."""
    if not isinstance(gates[0], nnx.VariableMetadata):
        return _flax.join_arrays(*gates)
    joined = _flax.join_arrays(*(gate.raw_value for gate in gates))
    return dataclasses.replace(gates[0], raw_value=joined)


class GRU(nnx.Module):
    """Stands where `nnx.RNN(nnx.GRUCell(in_features, hidden_features))` stands, in
    nnx.Bidirectional too.

    The arguments of flax's RNN mean what they mean there. Outputs beyond `seq_lengths` are zero, and
    the carry of a sequence without steps is its initial one. Rates draw their masks from the stream
    `dropout` of `rngs`, unless `deterministic`, which `model.eval()` sets and `model.train()` clears.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        zoneout: float = 0.0,
        dropconnect: float = 0.0,
        recurrent_dropout: float = 0.0,
        deterministic: bool = False,
        reset_after: bool = True,
        use_bias: bool = True,
        use_recurrent_bias: bool = True,
        time_major: bool = False,
        return_carry: bool = False,
        reverse: bool = False,
        keep_order: bool = False,
        dtype: Any = None,  # None for the type that inputs and parameters promote to
        param_dtype: Any = jnp.float32,
        kernel_init: Callable = nnx.initializers.lecun_normal(),
        recurrent_kernel_init: Callable = nnx.initializers.orthogonal(),
        bias_init: Callable = nnx.initializers.zeros_init(),
        rngs: nnx.Rngs,
    ):
        self.zoneout = zoneout
        self.dropconnect = dropconnect
        self.recurrent_dropout = recurrent_dropout
        self.deterministic = deterministic
        self.reset_after = reset_after
        self.time_major = time_major
        self.return_carry = return_carry
        self.reverse = reverse
        self.keep_order = keep_order
        self.dtype = dtype

        def param(initializer, *shape):
            draw = _flax.per_gate(initializer, _join)
            return nnx.Param(draw(rngs.params(), shape, param_dtype))

        gates = 3 * hidden_features
        self.kernel = param(kernel_init, in_features, gates)
        self.recurrent_kernel = param(recurrent_kernel_init, hidden_features, gates)
        self.bias = param(bias_init, gates) if use_bias else nnx.data(None)
        self.recurrent_bias = param(bias_init, gates) if use_recurrent_bias else nnx.data(None)
        draws_masks = _flax.draws_masks(self, deterministic=False)
        self.rngs = rngs.dropout.fork() if draws_masks else nnx.data(None)

    @property
    def parameters(self) -> Parameters:
        """The weights as `gru` takes them."""
        variables = (getattr(self, name) for name in Parameters._fields)
        return Parameters(*(None if v is None else v[...] for v in variables))

    def set_parameters(self, params: Parameters):
        """Takes these weights; a bias that is None becomes zero. Raises ValueError, and takes none,
        for a bias that the layer was made without and for weights of other shapes than its own."""
        values = Parameters(*params)._asdict()
        variables = {name: getattr(self, name) for name in values}
        for name, value in values.items():
            if variables[name] is None:
                if value is not None:
                    raise ValueError(f"the layer has no {name}")
            elif value is not None or "bias" not in name:
                given, wanted = None if value is None else jnp.shape(value), variables[name].shape
                if given != wanted:
                    raise ValueError(f"{name} has shape {given}, must be {wanted}")
        for name, variable in variables.items():
            if variable is not None:
                value = values[name]
                variable[...] = jnp.zeros_like(variable[...]) if value is None else value

    def __call__(
        self,
        inputs: jax.Array,  # [*batch, T, C], or [T, *batch, C] where time_major
        *,
        initial_carry: Optional[jax.Array] = None,  # [*batch, H], None for zeros
        seq_lengths: Optional[jax.Array] = None,  # [*batch]
        return_carry: Optional[bool] = None,
        time_major: Optional[bool] = None,
        reverse: Optional[bool] = None,
        keep_order: Optional[bool] = None,
        rngs: Any = None,
        episode_starts: Optional[jax.Array] = None,  # as inputs without the last dimension
        deterministic: Optional[bool] = None,
    ):
        _flax.check_inputs(inputs)
        inputs, initial_carry, *params = nnx.nn.dtypes.promote_dtype(
            (inputs, initial_carry, *self.parameters), dtype=self.dtype
        )
        deterministic = self.deterministic if deterministic is None else deterministic
        key = None
        if _flax.draws_masks(self, deterministic):
            # A bare stream is the one for carries, from nnx.Bidirectional: ours are zeros.
            key = rngs.dropout() if isinstance(rngs, nnx.Rngs) else self.rngs()
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


def _swap_z_and_r(weights):
    """Between the order z, r, g and that of flax.nnx, r, z, n."""
    first, second, third = jnp.split(weights, 3, axis=-1)
    return jnp.concatenate([second, first, third], axis=-1)


def from_cell(cell: nnx.GRUCell) -> Parameters:
    """The Parameters of a cell; nothing is rounded. Their recurrent_bias is None.

    Raises ValueError for a cell with other activations than sigmoid and tanh."""
    if cell.gate_fn is not jax.nn.sigmoid or cell.activation_fn is not nnx.tanh:
        raise ValueError("the cell's gate_fn must be sigmoid, and its activation_fn tanh")
    weights = cell.dense_i.kernel, cell.dense_h.kernel, cell.dense_i.bias
    return Parameters(*(_swap_z_and_r(weight[...]) for weight in weights))


def to_cell(params: Parameters) -> nnx.GRUCell:
    """A cell that is the layer of these Parameters, with reset_after.

    The recurrent biases of z and r are added to the others. Raises ValueError where that of g is not
    zero: a cell of flax.nnx has no recurrent bias, and r multiplies that one."""
    kernel, recurrent_kernel, bias, recurrent_bias = Parameters(*params)
    bias = jnp.zeros(kernel.shape[1], kernel.dtype) if bias is None else bias
    if recurrent_bias is not None:
        units = recurrent_kernel.shape[0]
        if jnp.any(recurrent_bias[2 * units :] != 0):
            raise ValueError(
                "flax.nnx.GRUCell has no recurrent bias: that of the candidate g must be zero, and "
                "is not. flax.linen.GRUCell has it."
            )
        bias = bias + recurrent_bias
    cell = nnx.GRUCell(
        kernel.shape[0], recurrent_kernel.shape[0], param_dtype=kernel.dtype, rngs=nnx.Rngs(0)
    )
    cell.dense_i.kernel[...] = _swap_z_and_r(kernel)
    cell.dense_i.bias[...] = _swap_z_and_r(bias)
    cell.dense_h.kernel[...] = _swap_z_and_r(recurrent_kernel)
    return cell
