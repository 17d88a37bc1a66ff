# SPDX-License-Identifier: Apache-2.0
"""Checkpoints, SavedModels, and checkpoints of haste."""

import numpy as np
import pytest
import tensorflow as tf

import gru_tf
import haste_fixture
import oracle
from support import assert_close

X = np.random.default_rng(7).normal(size=[3, 6, 4]).astype(np.float32)


def test_checkpoint_round_trip(tmp_path):
    layer = gru_tf.GRU(5, "bidirectional", kernel_transform=tf.identity)
    layer.build([None, None, 4])
    path = tf.train.Checkpoint(model=layer).save(tmp_path / "checkpoint")
    again = gru_tf.GRU(5, "bidirectional")
    again.build([None, None, 4])
    tf.train.Checkpoint(model=again).restore(path).assert_consumed()
    for a, b in zip(again.variables, layer.variables, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_checkpoint_restores_into_a_layer_that_is_built_later(tmp_path):
    layer = gru_tf.GRU(5)
    layer.build([None, None, 4])
    path = tf.train.Checkpoint(model=layer).save(tmp_path / "checkpoint")
    again = gru_tf.GRU(5)
    tf.train.Checkpoint(model=again).restore(path)
    np.testing.assert_array_equal(again(X, training=False)[0], layer(X, training=False)[0])


class Model(tf.Module):
    def __init__(self, **options):
        super().__init__()
        self.gru = gru_tf.GRU(5, **options)
        self.gru.build([None, None, 4])

    @tf.function(input_signature=[tf.TensorSpec([None, None, 4]), tf.TensorSpec([None], tf.int32)])
    def run(self, x, lengths):
        return self.gru(x, training=False, sequence_length=lengths)


LOAD = """
import sys
import numpy as np
import tensorflow as tf
import gru_tf
folder = sys.argv[1]
model = tf.saved_model.load(folder + "/model")
x = tf.constant(np.load(folder + "/x.npy"))
with tf.GradientTape() as tape:
    tape.watch(x)
    h, state = model.run(x, [6, 2, 4])
np.savez(folder + "/results.npz", h=h, state=state, dx=tape.gradient(h, x))
"""


def test_saved_model_in_a_fresh_process(tmp_path, run_python):
    """Forward and gradient."""
    model = Model(zoneout=0.1)
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        h, state = model.run(x, [6, 2, 4])
    dx = tape.gradient(h, x)
    np.save(tmp_path / "x.npy", X)
    tf.saved_model.save(model, str(tmp_path / "model"))
    run_python(LOAD, tmp_path)
    results = np.load(tmp_path / "results.npz")
    np.testing.assert_array_equal(results["h"], h)
    np.testing.assert_array_equal(results["state"], state)
    np.testing.assert_array_equal(results["dx"], dx)


@pytest.fixture(params=["object_based", "name_based"])
def style(request):
    return request.param


@pytest.mark.parametrize("prefix", ["", "model/rnn"])
@pytest.mark.parametrize("direction", ["unidirectional", "bidirectional"])
def test_load_haste(direction, prefix, style, tmp_path):
    saved = haste_fixture.write(tmp_path, style, 4, 5, direction == "bidirectional", prefix)
    layer = gru_tf.GRU(5, direction)
    layer.build([None, None, 4])
    gru_tf.load_haste(layer, tmp_path, prefix)
    results = layer(X, training=False)
    outputs = results[0] if layer.bidirectional else [results[0]]
    for i, (kernel, bias) in enumerate(saved):
        weights = [
            tf.constant(w, tf.float64) for w in (kernel[:4], kernel[4:], bias[:15], bias[15:])
        ]
        expected, _ = oracle.gru(tf.constant(X, tf.float64), *weights, reverse=i == 1)
        assert_close(outputs[i], expected, tf.float32, 30)


def test_load_haste_finds_one_layer_among_others(style, tmp_path):
    haste_fixture.write(tmp_path, style, 4, 5, False, "encoder", "decoder")
    layer = gru_tf.GRU(5)
    layer.build([None, None, 4])
    with pytest.raises(ValueError, match="several kernels"):
        gru_tf.load_haste(layer, tmp_path)
    gru_tf.load_haste(layer, tmp_path, "decoder")


def test_load_haste_says_what_does_not_fit(style, tmp_path):
    haste_fixture.write(tmp_path, style, 4, 5, False)
    layer = gru_tf.GRU(6)
    with pytest.raises(ValueError, match="build the layer before"):
        gru_tf.load_haste(layer, tmp_path)
    layer.build([None, None, 4])
    before = [v.numpy() for v in layer.variables]
    with pytest.raises(ValueError, match=r"shape \[9, 15\], this layer needs \[10, 18\]"):
        gru_tf.load_haste(layer, tmp_path)
    with pytest.raises(ValueError, match="no haste kernel"):
        gru_tf.load_haste(layer, tmp_path, "elsewhere")
    for variable, value in zip(layer.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
