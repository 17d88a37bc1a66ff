# SPDX-License-Identifier: Apache-2.0
"""tf.distribute.MirroredStrategy on two devices."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import gru_tf
import gru_tf.keras
import oracle
from support import assert_close

X = np.random.default_rng(7).normal(size=[4, 6, 3]).astype(np.float32)


@pytest.fixture(scope="module")  # a second one would use the first one's collective keys again
def strategy():
    kind = "GPU" if len(tf.config.list_logical_devices("GPU")) > 1 else "CPU"
    devices = [device.name for device in tf.config.list_logical_devices(kind)[:2]]
    assert len(devices) == 2
    return tf.distribute.MirroredStrategy(devices)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_variables_gradients_and_masks(strategy, mode):
    with strategy.scope():
        layer = gru_tf.GRU(5, zoneout=0.5)
        layer.build([None, None, 3])
    x = tf.constant(X)

    def step(training):
        with tf.GradientTape() as tape:
            h, _ = layer(x, training=training)
            loss = tf.reduce_sum(h)
        gradient = tape.gradient(loss, layer.fw_layer.kernel)
        context = tf.distribute.get_replica_context()
        return h, context.all_reduce("sum", gradient)

    def run(training):
        return strategy.run(step, args=(training,))

    run = tf.function(run) if mode == "graph" else run
    (drawn, _), (still, gradient) = run(True), run(False)
    a, b = strategy.experimental_local_results(drawn)
    assert not np.array_equal(a, b)  # masks of its own for each replica
    a, b = strategy.experimental_local_results(still)
    np.testing.assert_array_equal(a, b)

    weights = {
        name: tf.cast(getattr(layer.fw_layer, name), tf.float64)
        for name in ("kernel", "recurrent_kernel", "bias", "recurrent_bias")
    }
    with tf.GradientTape() as tape:
        tape.watch(weights)
        h, _ = oracle.gru(tf.constant(X, tf.float64), **weights, zoneout=0.5)
        loss = tf.reduce_sum(h)
    assert_close(a, h, tf.float32, 30)
    expected = 2 * tape.gradient(loss, weights["kernel"])
    for result in strategy.experimental_local_results(gradient):
        assert_close(result, expected, tf.float32, 30)


def test_keras_fit(strategy):
    with strategy.scope():
        model = keras.Sequential(
            [keras.Input((6, 3)), gru_tf.keras.GRU(5, zoneout=0.2), keras.layers.Dense(1)]
        )
        model.compile(keras.optimizers.Adam(0.05), "mse")
    history = model.fit(X, X[:, 0, :1], batch_size=4, epochs=10, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]


def test_masks_of_the_keras_layer_differ_from_replica_to_replica(strategy):
    with strategy.scope():
        layer = gru_tf.keras.GRU(5, zoneout=0.5)
        layer.build((4, 6, 3))
    results = strategy.run(tf.function(lambda: layer(tf.constant(X), training=True)))
    a, b = strategy.experimental_local_results(results)
    assert not np.array_equal(a, b)
