# SPDX-License-Identifier: Apache-2.0
"""Golden vectors of keras.layers.GRU in float64 (reset before and after): outputs and gradients.

Run with tensorflow-cpu 2.21 and NumPy: python3 make_keras.py. Writes keras.json.

Keras masks instead of taking lengths; with zero_output_for_mask its padded outputs are zero. A
layer that goes backwards returns its outputs in the order it made them; they are turned round here.
Recurrent dropout: the masks that Keras would draw for its three gates are replaced by one given
mask, scaled by 1 / (1 - rate), as in 1512.05287.
"""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf

import golden

T, N, C, H = 5, 3, 4, 5


def run(name, seed, *, reset_after, reverse=False, bias=True, h0=True, lengths=None,
        dropout_rate=None):
    inputs = golden.Inputs(seed)
    layer = keras.layers.GRU(
        H, reset_after=reset_after, use_bias=bias, return_sequences=True, return_state=True,
        go_backwards=reverse, zero_output_for_mask=True, implementation=1,
        recurrent_dropout=dropout_rate or 0.0, dtype="float64")
    layer.build((N, T, C))
    layer.set_weights([inputs(*w.shape) for w in layer.weights])
    x = tf.Variable(inputs(N, T, C))
    state = tf.Variable(inputs(N, H)) if h0 else None
    dh, dfinal = inputs(N, T, H), inputs(N, H)
    mask = None
    if lengths is not None:
        mask = tf.constant(np.arange(T)[None, :] < np.asarray(lengths)[:, None])
    dropout_mask = None
    if dropout_rate is not None:
        dropout_mask = inputs.mask(N, H)
        scaled = tf.constant(dropout_mask / (1 - dropout_rate))
        layer.cell.get_recurrent_dropout_mask = lambda step_input: [scaled] * 3

    with tf.GradientTape() as tape:
        h, final = layer(x, mask=mask, initial_state=state, training=dropout_rate is not None)
        if reverse:
            h = tf.reverse(h, [1])
        loss = tf.reduce_sum(h * dh) + tf.reduce_sum(final * dfinal)
    weights = [w.value for w in layer.trainable_weights]
    names = ["kernel", "recurrent_kernel"] + (["bias"] if bias else [])
    gradients = tape.gradient(loss, weights + [x] + ([state] if h0 else []))

    direction = {"direction": "reverse" if reverse else "forward"}
    for key, value, gradient in zip(names, weights, gradients):
        value, gradient = value.numpy(), gradient.numpy()
        if key == "bias" and reset_after:  # [2, 3H]
            direction["recurrent_bias"] = golden.flat(value[1])
            direction["drecurrent_bias"] = golden.flat(gradient[1])
            value, gradient = value[0], gradient[0]
        direction[key] = golden.flat(value)
        direction["d" + key] = golden.flat(gradient)
    direction["final_state"] = golden.flat(final)
    direction["dfinal_state"] = golden.flat(dfinal)
    if h0:
        direction["h0"] = golden.flat(state)
        direction["dh0"] = golden.flat(gradients[-1])
    case = {
        "name": name, "format": "keras",
        "variant": "reset_after" if reset_after else "reset_before",
        "layout": "batch_major", "T": T, "N": N, "C": C, "H": H,
        "x": golden.flat(x), "h": golden.flat(h), "dh": golden.flat(dh),
        "dx": golden.flat(gradients[len(weights)]), "directions": [direction],
    }
    if lengths is not None:
        case["lengths"] = lengths
    if dropout_rate is not None:
        case["recurrent_dropout_rate"] = dropout_rate
        case["recurrent_dropout_mask"] = golden.flat(dropout_mask)
    return case


def main():
    lengths = [5, 0, 3]
    cases = []
    for reset_after in (False, True):
        seed = 100 + 20 * reset_after
        variant = "reset after" if reset_after else "reset before"

        def add(name, offset, **options):
            cases.append(run(f"{variant}, {name}", seed + offset, reset_after=reset_after,
                             **options))

        add("forward", 1)
        add("forward, without biases", 2, bias=False)
        add("forward, without initial state", 3, h0=False)
        add("forward, lengths", 4, lengths=lengths)
        add("reverse", 5, reverse=True)
        add("reverse, lengths", 6, reverse=True, lengths=lengths)
        add("forward, recurrent dropout", 7, dropout_rate=0.25)
        add("reverse, lengths, recurrent dropout", 8, reverse=True, lengths=lengths,
            dropout_rate=0.5)
    golden.write("keras.json", "make_keras.py",
                 {"keras": keras.__version__, "tensorflow": tf.__version__}, cases)


main()
