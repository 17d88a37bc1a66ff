# SPDX-License-Identifier: Apache-2.0
"""Random layers, and how near two results must be."""

import numpy as np
import tensorflow as tf

DTYPES = [tf.float16, tf.bfloat16, tf.float32, tf.float64]
EPSILON = {tf.float16: 2.0**-10, tf.bfloat16: 2.0**-7, tf.float32: 2.0**-23, tf.float64: 2.0**-52}


def assert_close(actual, expected, dtype, terms):
    """`actual`, computed in dtype, against `expected` of a higher precision. `terms` is the length
    of the longest chain of sums: rounding errors grow with its root, and are relative to the
    largest value."""
    actual, expected = (np.asarray(tf.cast(v, tf.float64)) for v in (actual, expected))
    assert actual.shape == expected.shape
    scale = max(1.0, np.max(np.abs(expected), initial=0.0))
    allowed = 2 * EPSILON[tf.as_dtype(dtype)] * np.sqrt(terms) * scale
    np.testing.assert_allclose(actual, expected, rtol=0, atol=allowed)


def make_layer(batch=3, steps=6, inputs=4, units=5, dtype=tf.float64, seed=1):
    """The op's tensors with random values that dtype can hold, as float64 and as dtype."""
    random = np.random.default_rng(seed)

    def draw(*shape, scale=1.0):
        return tf.cast(tf.constant(random.normal(0, scale, shape)), dtype)

    tensors = {
        "x": draw(batch, steps, inputs),
        "kernel": draw(inputs, 3 * units, scale=0.5),
        "recurrent_kernel": draw(units, 3 * units, scale=0.5),
        "bias": draw(3 * units, scale=0.3),
        "recurrent_bias": draw(3 * units, scale=0.3),
        "initial_state": draw(batch, units, scale=0.5),
    }
    return {k: tf.cast(v, tf.float64) for k, v in tensors.items()}, tensors


def terms_of(tensors):
    """The length of the longest sum of a layer: of the weights' gradients, or of the products."""
    batch, steps, inputs = tensors["x"].shape
    return batch * steps + inputs + tensors["recurrent_kernel"].shape[0]


def value_and_gradients(function, tensors):
    """(h, state) of function(**tensors), and the gradient of a sum of both by each tensor."""
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        h, state = function(**tensors)
        # Weights that differ from output to output, so that no error can hide in a sum.
        loss = tf.reduce_sum(tf.cast(h, tf.float64) * _ramp(h))
        loss += tf.reduce_sum(tf.cast(state, tf.float64) * _ramp(state))
    return (h, state), tape.gradient(loss, tensors)


def _ramp(tensor):
    size = int(np.prod(tensor.shape))
    return tf.reshape(tf.linspace(tf.constant(-1.0, tf.float64), 1.0, size), tensor.shape)


def assert_same_function(actual, expected, exact_tensors, tensors, dtype):
    """Two ways of computing a layer agree in both outputs and in every gradient."""
    outputs, gradients = value_and_gradients(actual, tensors)
    expected_outputs, expected_gradients = value_and_gradients(expected, exact_tensors)
    terms = terms_of(tensors)
    for value, reference in zip(outputs, expected_outputs, strict=True):
        assert value.dtype == dtype
        assert_close(value, reference, dtype, terms)
    for name, gradient in gradients.items():
        assert gradient.dtype == dtype
        assert_close(gradient, expected_gradients[name], dtype, terms)
