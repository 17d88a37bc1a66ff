# SPDX-License-Identifier: Apache-2.0
"""`gru_tf.GRU`: the layer of haste_tf, as a tf.Module with plain variables."""

import tensorflow as tf

from . import ops

_MERGES = {
    None: lambda outputs: outputs,
    "concat": lambda outputs: tf.concat(outputs, axis=-1),
    "sum": lambda outputs: outputs[0] + outputs[1],
    "mul": lambda outputs: outputs[0] * outputs[1],
    "ave": lambda outputs: (outputs[0] + outputs[1]) / 2,
}


class GRU(tf.Module):
    """Gated Recurrent Unit layer.

    The reset gate acts after the recurrent product (1406.1078v1, as in cuDNN), or before it
    (1406.1078v3) with `reset_after=False`.
    """

    def __init__(
        self,
        num_units,
        direction="unidirectional",
        *,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        recurrent_bias_initializer="zeros",
        kernel_transform=None,
        recurrent_transform=None,
        bias_transform=None,
        recurrent_bias_transform=None,
        dropout=0.0,
        zoneout=0.0,
        recurrent_dropout=0.0,
        reset_after=True,
        recompute=False,
        merge=None,
        dtype=tf.float32,
        name=None,
    ):
        """Describes the layer; the variables are made by `build`, or by the first call.

        Args:
          num_units: int, the number of units.
          direction: 'unidirectional' or 'bidirectional'.
          kernel_initializer, recurrent_initializer, bias_initializer, recurrent_bias_initializer:
            a name, a callable, or an initializer of tf.initializers or tf.compat.v1. Each is called
            once a gate, with the gate's shape ([C, H], [H, H] or [H]) and float32.
          kernel_transform, recurrent_transform, bias_transform, recurrent_bias_transform: functions
            from tensor to tensor, applied to [C, 3H], [H, 3H], [3H] before use.
          dropout: the rate of DropConnect on the recurrent kernel, in training.
          zoneout: the rate of zoneout.
          recurrent_dropout: the rate of variational dropout on the state that enters the recurrent
            product, in training.
          reset_after: whether the reset gate acts after the recurrent product.
          recompute: whether backward computes the gates again instead of keeping them.
          merge: how the outputs of two directions are joined: None (a list), 'concat', 'sum',
            'mul' or 'ave'.
          dtype: float16, bfloat16, float32 or float64.
          name: a name for the layer, a Python identifier.
        """
        super().__init__(name=name)
        if direction not in ("unidirectional", "bidirectional"):
            raise ValueError(
                f"direction is {direction!r}, must be 'unidirectional' or 'bidirectional'"
            )
        if merge not in _MERGES:
            raise ValueError(f"merge is {merge!r}, must be one of {list(_MERGES)}")
        if num_units < 1:
            raise ValueError(f"num_units is {num_units}, must be at least 1")
        for what, rate in (
            ("dropout", dropout),
            ("zoneout", zoneout),
            ("recurrent_dropout", recurrent_dropout),
        ):
            if not 0 <= rate < 1:
                raise ValueError(f"{what} is {rate}, outside [0, 1)")
        self.num_units = num_units
        self.direction = direction
        self.dropout = dropout
        self.zoneout = zoneout
        self.recurrent_dropout = recurrent_dropout
        self.reset_after = reset_after
        self.recompute = recompute
        self.merge = merge
        self.dtype = tf.as_dtype(dtype)
        initializers = (
            kernel_initializer,
            recurrent_initializer,
            bias_initializer,
            recurrent_bias_initializer,
        )
        transforms = (
            kernel_transform,
            recurrent_transform,
            bias_transform,
            recurrent_bias_transform,
        )
        self.bw_layer = None
        with self.name_scope:
            self.fw_layer = _Direction(num_units, initializers, transforms, self.dtype, "fw")
            if direction == "bidirectional":
                self.bw_layer = _Direction(num_units, initializers, transforms, self.dtype, "bw")

    @property
    def bidirectional(self):
        """`True` if this is a bidirectional RNN, `False` otherwise."""
        return self.bw_layer is not None

    @property
    def output_size(self):
        """num_units, a pair of it where bidirectional."""
        return (self.num_units, self.num_units) if self.bidirectional else self.num_units

    @property
    def state_size(self):
        """num_units, a pair of it where bidirectional."""
        return self.output_size

    def build(self, shape):
        """Creates the variables for inputs of that shape, once. The first call does it too."""
        for layer in self._directions:
            layer.build(shape)

    def __call__(
        self,
        inputs,
        training,
        sequence_length=None,
        time_major=False,
        initial_state=None,
        episode_starts=None,
    ):
        """Runs the layer.

        Args:
          inputs: [N, T, C], or [T, N, C] where `time_major`.
          training: bool, Python's or a tensor: whether dropout and zoneout draw their masks.
          sequence_length: [N] int32 or int64, the true lengths; clamped to [0, T].
          time_major: whether the first dimension of inputs and outputs is time.
          initial_state: [N, num_units], a pair of it where bidirectional.
          episode_starts: as `inputs` without the last dimension, bool: True clears the state that
            enters this step (in the backward direction: the step before this one).

        Returns:
          (output, state): output as `inputs` with num_units in the last dimension, zero beyond the
          lengths; state [N, num_units] at each sequence's true end. Where bidirectional both are
          lists of two, the output being merged if the layer was told to.
        """
        inputs = tf.convert_to_tensor(inputs, self.dtype)
        if inputs.shape.rank not in (None, 3):
            raise ValueError(f"inputs have shape {inputs.shape}, must have 3 dimensions")
        self.build(inputs.shape)
        states = self._states(initial_state)
        results = []
        for layer, state in zip(self._directions, states, strict=True):
            results.append(
                ops.gru(
                    inputs,
                    **layer.weights(),
                    initial_state=state,
                    lengths=sequence_length,
                    episode_starts=episode_starts,
                    training=training,
                    zoneout=self.zoneout,
                    dropconnect=self.dropout,
                    recurrent_dropout=self.recurrent_dropout,
                    reset_after=self.reset_after,
                    reverse=layer is self.bw_layer,
                    time_major=time_major,
                    recompute=self.recompute,
                )
            )
        if not self.bidirectional:
            return results[0]
        outputs, states = (list(column) for column in zip(*results, strict=True))
        return _MERGES[self.merge](outputs), states

    def _states(self, initial_state):
        """The initial state of each direction."""
        if initial_state is None:
            return [None] * len(self._directions)
        if not self.bidirectional:
            return [initial_state]
        if not isinstance(initial_state, (list, tuple)) or len(initial_state) != 2:
            raise ValueError("initial_state of a bidirectional layer must be a pair, [fw, bw]")
        return initial_state

    @property
    def _directions(self):
        return [self.fw_layer, self.bw_layer] if self.bidirectional else [self.fw_layer]


class _Direction(tf.Module):
    """The variables of one direction."""

    def __init__(self, num_units, initializers, transforms, dtype, name):
        super().__init__(name=name)
        self._num_units = num_units
        self._initializers = [tf.keras.initializers.get(i) for i in initializers]
        self._transforms = transforms
        self._dtype = dtype
        self.kernel = None
        self.recurrent_kernel = None
        self.bias = None
        self.recurrent_bias = None

    def build(self, shape):
        if self.kernel is not None:
            return
        units = self._num_units
        input_size = tf.TensorShape(shape)[-1]
        if input_size is None:
            raise ValueError(f"the last dimension of the inputs must be known, not {shape}")
        kernel, recurrent, bias, recurrent_bias = self._initializers
        with self.name_scope:
            # One at a time: a second call in a graph must find all or nothing.
            self.recurrent_kernel = self._variable(recurrent, [units, units], "recurrent_kernel")
            self.bias = self._variable(bias, [units], "bias")
            self.recurrent_bias = self._variable(recurrent_bias, [units], "recurrent_bias")
            self.kernel = self._variable(kernel, [input_size, units], "kernel")

    def weights(self):
        """The op's weights, transformed."""
        variables = {
            "kernel": self.kernel,
            "recurrent_kernel": self.recurrent_kernel,
            "bias": self.bias,
            "recurrent_bias": self.recurrent_bias,
        }
        weights = {}
        for (name, variable), transform in zip(variables.items(), self._transforms, strict=True):
            weight = tf.convert_to_tensor(variable)
            weights[name] = weight if transform is None else transform(weight)
        return weights

    def _variable(self, initializer, gate_shape, name):
        """The three gates side by side, each drawn by itself: one draw for all three would have
        another scale. Drawn in float32, since some initializers know no 16-bit type."""
        with tf.init_scope():
            gates = []
            for gate in range(3):
                draw = _fresh(initializer, gate)
                gates.append(tf.convert_to_tensor(draw(gate_shape, dtype=tf.float32)))
            return tf.Variable(tf.cast(tf.concat(gates, axis=-1), self._dtype), name=name)


def _fresh(initializer, gate):
    """The initializer that draws this gate. Those of Keras give the same values at every call, so
    each gate gets a copy with a seed of its own: the given one plus the gate's number or, where
    none was given, one that tf.random.set_seed determines."""
    if not isinstance(initializer, tf.keras.initializers.Initializer):
        return initializer
    config = initializer.get_config()
    seed = config.get("seed", "none is used")
    if seed is None:
        config["seed"] = int(tf.random.uniform([], maxval=2**31 - 1, dtype=tf.int32))
    elif isinstance(seed, int):
        config["seed"] = seed + gate
    else:
        return initializer
    return type(initializer).from_config(config)
