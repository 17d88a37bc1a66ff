# SPDX-License-Identifier: Apache-2.0
"""The op: one GRU layer and direction over a batch of sequences, and its gradient."""

import tensorflow as tf
from tensorflow.python.eager import record

from ._library import library

# The inputs that may be left out, in the op's order, with the attribute that counts each.
_OPTIONAL = (
    ("bias", "biases"),
    ("recurrent_bias", "recurrent_biases"),
    ("initial_state", "initial_states"),
    ("lengths", "length_vectors"),
    ("episode_starts", "episode_start_masks"),
)
_REQUIRED = ("x", "kernel", "recurrent_kernel", "training", "rates", "seed")
# What GruBackward gives, in its order.
_GRADIENTS = ("x", "kernel", "recurrent_kernel", "bias", "recurrent_bias", "initial_state")
_ATTRIBUTES = ("reset_after", "reverse", "time_major", "recompute")


def gru(
    x,
    kernel,
    recurrent_kernel,
    bias=None,
    recurrent_bias=None,
    initial_state=None,
    lengths=None,
    episode_starts=None,
    *,
    training=False,
    zoneout=0.0,
    dropconnect=0.0,
    recurrent_dropout=0.0,
    seed=None,
    reset_after=True,
    reverse=False,
    time_major=False,
    recompute=False,
):
    """Runs a GRU over `x`.

    Args:
      x: [N, T, C], or [T, N, C] where `time_major`; float16, bfloat16, float32 or float64.
      kernel: [C, 3H], gates in the order z, r, g, of x's type as all that follow.
      recurrent_kernel: [H, 3H].
      bias, recurrent_bias: [3H], or None for zeros.
      initial_state: [N, H], or None for zeros.
      lengths: [N] integers, clamped to [0, T], or None. They stay on the device.
      episode_starts: [N, T] (or [T, N]) bool or None: no state passes into a step marked True.
      training: bool, Python's or a tensor: whether the masks are drawn.
      zoneout, dropconnect, recurrent_dropout: rates in [0, 1).
      seed: int64 [2], or None to draw one as tf.random.set_seed determines.
      reset_after: whether the reset gate acts after the recurrent product (1406.1078v1) or before.
      reverse: whether the steps are done from each sequence's end; outputs stay in time order.
      recompute: whether the backward pass computes the gates again, to save memory.

    Returns:
      (h, final_state): [N, T, H] (or [T, N, H]) with zeros beyond the lengths, and [N, H].
    """
    x = tf.convert_to_tensor(x)
    rates = (zoneout, dropconnect, recurrent_dropout)
    is_random = training is not False and any(_may_drop(rate) for rate in rates)
    if seed is None:
        seed = random_seed() if is_random else tf.zeros([2], tf.int64)
    # The op reads these two on the host, also where it runs on a GPU.
    with tf.device("CPU:0"):
        training = tf.convert_to_tensor(training, tf.bool)
        rates = tf.convert_to_tensor(rates, tf.float64)
    inputs = {
        "x": x,
        "kernel": kernel,
        "recurrent_kernel": recurrent_kernel,
        "training": training,
        "rates": rates,
        "seed": seed,
        "bias": bias,
        "recurrent_bias": recurrent_bias,
        "initial_state": initial_state,
        "lengths": None if lengths is None else _as_int32(lengths),
        "episode_starts": None if episode_starts is None else tf.cast(episode_starts, tf.bool),
    }
    for name in _GRADIENTS:
        if inputs[name] is not None:
            inputs[name] = tf.convert_to_tensor(inputs[name], x.dtype)
    attributes = {
        "reset_after": reset_after,
        "reverse": reverse,
        "time_major": time_major,
        "recompute": recompute,
    }
    if tf.executing_eagerly():
        return _eager(inputs, attributes)
    h, final_state, _ = library.gru_forward(**_as_lists(inputs), **attributes)
    return h, final_state


def random_seed():
    """What masks are drawn from: int64 [2], another at each call, as tf.random.set_seed determines,
    and another in each replica of a tf.distribute strategy."""
    return in_replica(tf.random.uniform([2], tf.int64.min, tf.int64.max, tf.int64))


def in_replica(seed):
    """The seed for this replica of a tf.distribute strategy, where there are several."""
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return seed
    return seed + tf.stack([tf.cast(replica.replica_id_in_sync_group, tf.int64), 0])


def _may_drop(rate):
    return tf.is_tensor(rate) or rate > 0


def _as_int32(lengths):
    lengths = tf.convert_to_tensor(lengths)
    if lengths.dtype == tf.int64:  # beyond int32 a cast would wrap around
        lengths = tf.clip_by_value(lengths, tf.int32.min, tf.int32.max)
    elif lengths.dtype != tf.int32:
        raise TypeError(f"lengths must be int32 or int64, not {lengths.dtype.name}")
    return tf.cast(lengths, tf.int32)


def _as_lists(inputs):
    """The op's arguments: an input that may be left out is a list of no or one tensor."""
    arguments = dict(inputs)
    for name, _ in _OPTIONAL:
        arguments[name] = [] if inputs[name] is None else [inputs[name]]
    return arguments


def _gradients(inputs, attributes, h, reserve, dh, dfinal_state, wanted):
    """The gradient of each input in `wanted`, by name."""
    results = library.gru_backward(
        **_as_lists(inputs),
        **attributes,
        h=h,
        reserve=reserve,
        dh=dh,
        dfinal_state=dfinal_state,
        wanted=[name in wanted for name in _GRADIENTS],
    )
    return {
        name: result for name, result in zip(_GRADIENTS, results, strict=True) if name in wanted
    }


def _eager(inputs, attributes):
    """Runs the op and records its gradient by hand. An op recorded by TensorFlow would get a tensor
    of zeros as the gradient of each output that is not used, the reserve among them."""
    names = [name for name in _GRADIENTS if inputs[name] is not None]
    wanted = {name for name in names if record.should_record_backprop([inputs[name]])}
    with record.stop_recording():
        h, final_state, reserve = library.gru_forward(
            **_as_lists(inputs), **attributes, keep_for_backward=bool(wanted)
        )

    def backward(dh, dfinal_state):
        if not wanted:  # no tape: a ForwardAccumulator asks
            raise NotImplementedError(
                "gru_tf has no forward mode. Where it is needed, keras.layers.GRU(use_cudnn=False) "
                "computes the same function."
            )
        gradients = _gradients(inputs, attributes, h, reserve, dh, dfinal_state, wanted)
        return [gradients.get(name) for name in names]

    record.record_operation(
        "GruForward", [h, final_state], [inputs[name] for name in names], backward
    )
    return h, final_state


@tf.RegisterGradient("GruForward")
def _graph_gradient(op, dh, dfinal_state, _):
    # The op's inputs are a flat list, in which those that were left out are missing.
    names = list(_REQUIRED)
    names += [name for name, count in _OPTIONAL if op.get_attr(count) > 0]
    inputs = dict.fromkeys([name for name, _ in _OPTIONAL])
    inputs.update(zip(names, op.inputs, strict=True))
    skipped = getattr(op, "skip_input_indices", None) or ()
    wanted = {name for i, name in enumerate(names) if name in _GRADIENTS and i not in skipped}
    h, _, reserve = op.outputs
    attributes = {name: op.get_attr(name) for name in _ATTRIBUTES}
    gradients = _gradients(inputs, attributes, h, reserve, dh, dfinal_state, wanted)
    return [gradients.get(name) for name in names]


@tf.RegisterGradient("GruBackward")
def _no_second_gradient(op, *_):
    raise NotImplementedError(
        "gru_tf has no second derivative: GruBackward cannot be differentiated. Where one is "
        "needed, keras.layers.GRU(use_cudnn=False) computes the same function."
    )
