# SPDX-License-Identifier: Apache-2.0
"""Reads checkpoints of haste_tf.GRU."""

import tensorflow as tf

_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def load_haste(layer, checkpoint, prefix=""):
    """Sets the variables of a built `gru_tf.GRU` to those of a haste_tf.GRU.

    haste keeps two variables a direction: a kernel [C+H, 3H], W over R, and a bias [6H], bx then
    br. Their keys are those of tf.train.Checkpoint (object-based: `fw_layer/_kernel`) or of
    tf.compat.v1.train.Saver (name-based: `gru_cell/kernel`, `gru_cell/fw/kernel`).

    Args:
      layer: a gru_tf.GRU that is built, with the sizes and direction of the saved one.
      checkpoint: a checkpoint's path or directory.
      prefix: where the layer is in the checkpoint, for example 'model/rnn'. Needed only where the
        checkpoint has more than one GRU.

    Raises:
      ValueError where a variable is missing, there are several, or its shape does not fit.
    """
    path = tf.train.latest_checkpoint(checkpoint) if tf.io.gfile.isdir(checkpoint) else checkpoint
    if path is None:
        raise ValueError(f"there is no checkpoint in {checkpoint}")
    reader = tf.train.load_checkpoint(path)
    if layer.fw_layer.kernel is None:
        raise ValueError("build the layer before loading: layer.build([None, None, input_size])")
    directions = [(layer.fw_layer, "fw", layer.bidirectional)]
    if layer.bidirectional:
        directions.append((layer.bw_layer, "bw", True))
    # All are found and checked before one is set.
    found = [_read(reader, direction, name, two, prefix) for direction, name, two in directions]
    for (direction, _, _), (kernel, bias) in zip(directions, found, strict=True):
        input_size, gates = direction.kernel.shape
        direction.kernel.assign(kernel[:input_size])
        direction.recurrent_kernel.assign(kernel[input_size:])
        direction.bias.assign(bias[:gates])
        direction.recurrent_bias.assign(bias[gates:])


def _read(reader, direction, name, bidirectional, prefix):
    input_size, gates = direction.kernel.shape
    shapes = {"kernel": [input_size + gates // 3, gates], "bias": [2 * gates]}
    values = []
    for variable, shape in shapes.items():
        key = _find(reader, variable, name, bidirectional, prefix)
        value = reader.get_tensor(key)
        if list(value.shape) != shape:
            raise ValueError(f"{key} has shape {list(value.shape)}, this layer needs {shape}")
        values.append(tf.cast(value, direction.kernel.dtype))
    return values


def _find(reader, variable, direction, bidirectional, prefix):
    """The one key of that variable of that direction under the prefix."""
    prefix = prefix.strip("/")

    def fits(key):
        if prefix and not key.startswith(prefix + "/"):
            return False
        if key.endswith(_SUFFIX):
            if ".OPTIMIZER_SLOT" in key:
                return False
            parts = key[: -len(_SUFFIX)].split("/")
            return parts[-2:] == [f"{direction}_layer", f"_{variable}"]
        # Name-based: <scope>/kernel, or <scope>/fw/kernel where there are two directions. A Saver
        # has an optimizer's slots behind the variable's own name.
        parts = key.split("/")
        if parts[-1] != variable:
            return False
        return (
            parts[-2:-1] == [direction] if bidirectional else parts[-2:-1] not in (["fw"], ["bw"])
        )

    keys = [key for key in reader.get_variable_to_shape_map() if fits(key)]
    if len(keys) == 1:
        return keys[0]
    where = f" under {prefix!r}" if prefix else ""
    if not keys:
        everything = ", ".join(sorted(reader.get_variable_to_shape_map()))
        raise ValueError(
            f"the checkpoint has no haste {variable} ({direction}){where}; it has: {everything}"
        )
    raise ValueError(
        f"the checkpoint has several {variable}s{where}, choose one by its prefix: "
        + ", ".join(sorted(keys))
    )
