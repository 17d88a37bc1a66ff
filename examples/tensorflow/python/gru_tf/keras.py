# SPDX-License-Identifier: Apache-2.0
"""`gru_tf.keras.GRU`: a Keras layer with the arguments of keras.layers.GRU, over gru_tf's op."""

import os

import tensorflow as tf

from . import ops


def _expect_tensorflow(backend):
    if backend != "tensorflow":
        raise ImportError(
            f"gru_tf.keras needs Keras on TensorFlow, but its backend is {backend!r}. Set "
            "KERAS_BACKEND=tensorflow before Keras is imported."
        )


_expect_tensorflow(os.environ.get("KERAS_BACKEND") or "tensorflow")  # it need not be installed
import keras

_expect_tensorflow(keras.backend.backend())  # a configuration file may name it too


@keras.saving.register_keras_serializable(package="gru_tf")
class GRU(keras.layers.Layer):
    """keras.layers.GRU's function, arguments, weights and masks, with zoneout and DropConnect.

    Args that keras.layers.GRU does not have:
      zoneout: the rate of zoneout (1606.01305), in [0, 1).
      dropconnect: the rate of DropConnect on the recurrent kernel, in [0, 1).
      recompute: whether backward computes the gates again instead of keeping them.
      zero_output_for_mask: whether outputs at masked steps are zero; otherwise they repeat the
        output before, as in Keras.

    What differs from keras.layers.GRU: the activations are tanh and sigmoid, there is no `unroll`,
    and `recurrent_dropout` leaves the state that is carried over as it is (1512.05287).
    """

    def __init__(
        self,
        units,
        activation="tanh",
        recurrent_activation="sigmoid",
        use_bias=True,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        bias_initializer="zeros",
        kernel_regularizer=None,
        recurrent_regularizer=None,
        bias_regularizer=None,
        activity_regularizer=None,
        kernel_constraint=None,
        recurrent_constraint=None,
        bias_constraint=None,
        dropout=0.0,
        recurrent_dropout=0.0,
        seed=None,
        return_sequences=False,
        return_state=False,
        go_backwards=False,
        stateful=False,
        unroll=False,
        reset_after=True,
        zoneout=0.0,
        dropconnect=0.0,
        recompute=False,
        zero_output_for_mask=False,
        **kwargs,
    ):
        kwargs.pop("use_cudnn", None)  # of keras.layers.GRU: which kernel to take, of which one is
        kwargs.pop("implementation", None)
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        _expect_activation("activation", activation, "tanh")
        _expect_activation("recurrent_activation", recurrent_activation, "sigmoid")
        if unroll:
            raise ValueError(
                "gru_tf.keras.GRU has no loop to unroll; use keras.layers.GRU(unroll=True) for one"
            )
        if units < 1:
            raise ValueError(f"units is {units}, must be at least 1")
        for what, rate in (
            ("dropout", dropout),
            ("recurrent_dropout", recurrent_dropout),
            ("zoneout", zoneout),
            ("dropconnect", dropconnect),
        ):
            if not 0 <= rate < 1:
                raise ValueError(f"{what} is {rate}, outside [0, 1)")
        self.units = units
        self.use_bias = use_bias
        self.dropout = dropout
        self.recurrent_dropout = recurrent_dropout
        self.seed = seed
        self.return_sequences = return_sequences
        self.return_state = return_state
        self.go_backwards = go_backwards
        self.stateful = stateful
        self.reset_after = reset_after
        self.zoneout = zoneout
        self.dropconnect = dropconnect
        self.recompute = recompute
        self.zero_output_for_mask = zero_output_for_mask
        self.cell = _Cell(
            units,
            use_bias,
            reset_after,
            kernel=(kernel_initializer, kernel_regularizer, kernel_constraint),
            recurrent=(recurrent_initializer, recurrent_regularizer, recurrent_constraint),
            bias=(bias_initializer, bias_regularizer, bias_constraint),
            seed=seed,
            dtype=self.dtype_policy,
            trainable=self.trainable,
            name="gru_cell",
        )
        self._carried = _Carried()
        self.state_size = [units]
        self.supports_masking = True
        self.supports_jit = False  # XLA cannot compile a custom op
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def build(self, sequences_shape, initial_state_shape=None):
        if not self.cell.built:
            self.cell.build((sequences_shape[0], sequences_shape[2]))
        if self.stateful and self.states is None:
            batch_size = sequences_shape[0]
            if batch_size is None:
                raise ValueError(
                    "stateful=True needs a known batch size, but the inputs have shape "
                    f"{tuple(sequences_shape)}; give one by keras.Input(batch_shape=...)"
                )
            self._carried.state = keras.Variable(
                tf.zeros((batch_size, self.units)),
                trainable=False,
                dtype=self.variable_dtype,
                name="rnn_state",
            )

    @property
    def states(self):
        """The state that a stateful layer carries from batch to batch, [variable]; else None."""
        return None if self._carried.state is None else [self._carried.state]

    def call(self, sequences, initial_state=None, mask=None, training=False):
        sequences = tf.cast(sequences, self.compute_dtype)
        training = False if training is None else training
        state = self._initial_state(initial_state)
        if training and self.dropout > 0:
            sequences = self._drop_inputs(sequences)
        if mask is None:
            outputs, last_output, state = self._run(sequences, state, training)
        else:
            mask = tf.cast(tf.squeeze(mask, -1) if len(mask.shape) == 3 else mask, tf.bool)
            outputs, last_output, state = self._run_masked(sequences, state, mask, training)
        if self.stateful:
            self.states[0].assign(tf.cast(state, self.variable_dtype))
        result = outputs if self.return_sequences else last_output
        return (result, state) if self.return_state else result

    def get_initial_state(self, batch_size):
        return [tf.zeros((batch_size, self.units), self.compute_dtype)]

    def reset_state(self):
        """Sets the state that a stateful layer carries to zero."""
        if self.states is not None:
            self.states[0].assign(tf.zeros(self.states[0].shape))

    reset_states = reset_state

    def compute_output_shape(self, sequences_shape, initial_state_shape=None):
        batch_size, steps = sequences_shape[0], sequences_shape[1]
        state = (batch_size, self.units)
        output = (batch_size, steps, self.units) if self.return_sequences else state
        return (output, state) if self.return_state else output

    def compute_mask(self, _, mask):
        mask = mask[0] if isinstance(mask, (list, tuple)) else mask
        mask = mask if self.return_sequences else None
        return [mask, None] if self.return_state else mask

    def get_config(self):
        return {
            **super().get_config(),
            **self.cell.options(),
            "activation": "tanh",
            "recurrent_activation": "sigmoid",
            "activity_regularizer": keras.regularizers.serialize(self.activity_regularizer),
            "dropout": self.dropout,
            "recurrent_dropout": self.recurrent_dropout,
            "seed": self.seed,
            "return_sequences": self.return_sequences,
            "return_state": self.return_state,
            "go_backwards": self.go_backwards,
            "stateful": self.stateful,
            "unroll": False,
            "zoneout": self.zoneout,
            "dropconnect": self.dropconnect,
            "recompute": self.recompute,
            "zero_output_for_mask": self.zero_output_for_mask,
        }

    def _initial_state(self, initial_state):
        if initial_state is None:
            initial_state = self.states
        if isinstance(initial_state, (list, tuple)):
            initial_state = initial_state[0]
        if initial_state is None:
            return None
        return tf.cast(tf.convert_to_tensor(initial_state), self.compute_dtype)

    def _drop_inputs(self, sequences):
        """One mask a sequence, the same at every step."""
        shape = tf.shape(sequences)
        ones = tf.ones([shape[0], 1, shape[2]], sequences.dtype)
        return sequences * tf.nn.experimental.stateless_dropout(
            ones, self.dropout, self.cell.draw_seed()
        )

    def _op(self, sequences, state, training, **options):
        draws = self.zoneout > 0 or self.dropconnect > 0 or self.recurrent_dropout > 0
        return ops.gru(
            sequences,
            **self.cell.op_weights(),
            initial_state=state,
            training=training,
            zoneout=self.zoneout,
            dropconnect=self.dropconnect,
            recurrent_dropout=self.recurrent_dropout,
            seed=self.cell.draw_seed() if training and draws else None,
            reset_after=self.reset_after,
            recompute=self.recompute,
            **options,
        )

    def _run(self, sequences, state, training):
        h, final_state = self._op(sequences, state, training, reverse=self.go_backwards)
        if self.go_backwards and self.return_sequences:
            h = tf.reverse(h, axis=[1])  # Keras gives the outputs in the order they were made
        return h, final_state, final_state

    def _run_masked(self, sequences, state, mask, training):
        """Moves the steps that the mask leaves to the front of each sequence, in the order in which
        they are done, runs them with lengths, and puts their outputs where they belong."""
        if self.go_backwards:
            mask = tf.reverse(mask, axis=[1])
        order = tf.argsort(tf.cast(tf.logical_not(mask), tf.int32), axis=1, stable=True)
        places = order
        if self.go_backwards:
            places = tf.shape(mask)[1] - 1 - order
        packed = tf.gather(sequences, places, axis=1, batch_dims=1)
        done = tf.cumsum(tf.cast(mask, tf.int32), axis=1)  # steps done after each step
        lengths = tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)
        h, final_state = self._op(packed, state, training, lengths=lengths)

        # What a masked step shows: the output before it, if there is one; or zero.
        shown = mask if self.zero_output_for_mask else done > 0
        zero = tf.zeros([], h.dtype)
        outputs = None
        if self.return_sequences:
            outputs = tf.gather(h, tf.maximum(done - 1, 0), axis=1, batch_dims=1)
            outputs = tf.where(shown[..., tf.newaxis], outputs, zero)
        shows_last = tf.reduce_any(shown[:, -1:], axis=1, keepdims=True)  # there may be no steps
        last_output = tf.where(shows_last, final_state, zero)
        return outputs, last_output, final_state


class _Cell(keras.layers.Layer):
    """The variables, where keras.layers.GRU has them: its weight files hold them under `cell`."""

    def __init__(self, units, use_bias, reset_after, kernel, recurrent, bias, seed, **kwargs):
        super().__init__(**kwargs)
        self._units = units
        self._use_bias = use_bias
        self._reset_after = reset_after
        self._kernel_options = _Options(*kernel)
        self._recurrent_options = _Options(*recurrent)
        self._bias_options = _Options(*bias)
        self.seed_generator = keras.random.SeedGenerator(seed=seed)
        self.kernel = None
        self.recurrent_kernel = None
        self.bias = None

    def build(self, input_shape):
        gates = 3 * self._units
        self.kernel = self.add_weight(
            shape=(input_shape[-1], gates), name="kernel", **self._kernel_options.of_weight()
        )
        self.recurrent_kernel = self.add_weight(
            shape=(self._units, gates),
            name="recurrent_kernel",
            **self._recurrent_options.of_weight(),
        )
        if self._use_bias:
            self.bias = self.add_weight(
                shape=(2, gates) if self._reset_after else (gates,),
                name="bias",
                **self._bias_options.of_weight(),
            )
        self.built = True

    def op_weights(self):
        dtype = self.compute_dtype
        weights = {
            "kernel": tf.cast(self.kernel, dtype),
            "recurrent_kernel": tf.cast(self.recurrent_kernel, dtype),
        }
        if self._use_bias:
            bias = tf.cast(self.bias, dtype)
            if self._reset_after:
                weights["bias"], weights["recurrent_bias"] = tf.unstack(bias)
            else:
                weights["bias"] = bias
        return weights

    def draw_seed(self):
        """A seed of the layer's own generator, another in each replica."""
        return ops.in_replica(tf.cast(self.seed_generator.next(), tf.int64))

    def options(self):
        """The part of the configuration that is kept here."""
        config = {
            "units": self._units,
            "use_bias": self._use_bias,
            "reset_after": self._reset_after,
        }
        for name in ("kernel", "recurrent", "bias"):
            config.update(getattr(self, f"_{name}_options").serialized(name))
        return config


class _Carried:
    """Keeps a variable out of the layer's weights, where keras.layers.GRU has it not either."""

    state = None


class _Options:
    """How one variable starts and is kept."""

    def __init__(self, initializer, regularizer, constraint):
        self.initializer = keras.initializers.get(initializer)
        self.regularizer = keras.regularizers.get(regularizer)
        self.constraint = keras.constraints.get(constraint)

    def of_weight(self):
        return {**vars(self), "initializer": self._initial_value}

    def _initial_value(self, shape, dtype):
        if dtype == "bfloat16":  # some initializers do not know it
            return tf.cast(self.initializer(shape, dtype="float32"), dtype)
        return self.initializer(shape, dtype=dtype)

    def serialized(self, name):
        return {
            f"{name}_initializer": keras.initializers.serialize(self.initializer),
            f"{name}_regularizer": keras.regularizers.serialize(self.regularizer),
            f"{name}_constraint": keras.constraints.serialize(self.constraint),
        }


def _expect_activation(what, given, only):
    given = keras.activations.get(given)
    if given is not keras.activations.get(only):
        raise ValueError(
            f"{what} is {getattr(given, '__name__', given)}, but gru_tf.keras.GRU computes {only} "
            "alone; use keras.layers.GRU for other activations"
        )
