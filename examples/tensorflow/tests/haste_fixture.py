# SPDX-License-Identifier: Apache-2.0
"""Writes checkpoints with the variables, names and shapes of haste_tf.GRU (version 0.4.0), by the
same two ways in which its users save: tf.train.Checkpoint and tf.compat.v1.train.Saver.

    python haste_fixture.py FOLDER   writes one of each, to look at
"""

import pathlib
import sys

import numpy as np
import tensorflow as tf


def _weights(seed, input_size, units):
    random = np.random.default_rng(seed)
    kernel = random.normal(0, 0.5, [input_size + units, 3 * units]).astype(np.float32)
    return kernel, random.normal(0, 0.5, [6 * units]).astype(np.float32)


def write(folder, style, input_size, units, bidirectional, *prefixes):
    """Writes a checkpoint with one layer under each prefix, and an optimizer's slots as they would
    lie beside it. Returns the (kernel, bias) of each direction of the last layer."""
    prefixes = prefixes or ("",)
    layers = {}
    for i, prefix in enumerate(prefixes):
        directions = ("fw", "bw") if bidirectional else ("fw",)
        layers[prefix] = {
            d: _weights(10 * i + j, input_size, units) for j, d in enumerate(directions)
        }
    path = str(pathlib.Path(folder) / "haste")
    if style == "object_based":
        _write_objects(path, layers)
    else:
        _write_names(path, layers, bidirectional)
    return list(layers[prefixes[-1]].values())


def _write_objects(path, layers):
    """haste's layer is a tf.Module with fw_layer and bw_layer, each with _kernel and _bias."""
    root = tf.train.Checkpoint()
    for prefix, directions in layers.items():
        node = root
        for part in filter(None, prefix.split("/")):
            if not hasattr(node, part):
                setattr(node, part, tf.train.Checkpoint())
            node = getattr(node, part)
        for direction, (kernel, bias) in directions.items():
            layer = tf.Module()
            layer._kernel = tf.Variable(kernel)
            layer._bias = tf.Variable(bias)
            setattr(node, f"{direction}_layer", layer)
    root.write(path)
    _point_to(path)


def _write_names(path, layers, bidirectional):
    """haste calls get_variable('kernel') in the scope 'gru_cell', and in 'fw' and 'bw' within it
    where there are two directions."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for prefix, directions in layers.items():
            for direction, values in directions.items():
                scope = [prefix, "gru_cell"] + ([direction] if bidirectional else [])
                with tf.compat.v1.variable_scope("/".join(filter(None, scope))):
                    for name, value in zip(("kernel", "bias"), values, strict=True):
                        tf.compat.v1.get_variable(name, initializer=value)
                        tf.compat.v1.get_variable(f"{name}/Adam", initializer=value)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, path)


def _point_to(path):
    tf.compat.v1.train.update_checkpoint_state(str(pathlib.Path(path).parent), path)


if __name__ == "__main__":
    for kind in ("object_based", "name_based"):
        target = pathlib.Path(sys.argv[1]) / kind
        target.mkdir(parents=True, exist_ok=True)
        write(target, kind, 4, 5, True)
        reader = tf.train.load_checkpoint(str(target))
        for key, shape in sorted(reader.get_variable_to_shape_map().items()):
            print(kind, key, shape)
