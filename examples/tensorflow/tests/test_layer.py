# SPDX-License-Identifier: Apache-2.0
"""gru_tf.GRU: each parameter, property and method of haste_tf.GRU, and what was added."""

import numpy as np
import pytest
import tensorflow as tf

import gru_tf
import oracle
from support import DTYPES, assert_close

X = np.random.default_rng(7).normal(size=[3, 6, 4])


def inputs(dtype=tf.float32):
    return tf.constant(X, dtype)


def exact(layer, direction="fw_layer"):
    """The variables of a direction as the oracle's arguments."""
    weights = getattr(layer, direction)
    return {
        name: tf.cast(getattr(weights, name), tf.float64)
        for name in ("kernel", "recurrent_kernel", "bias", "recurrent_bias")
    }


def randomize(layer):
    """Biases are zero at first: a test with those would not see them."""
    layer.build([None, None, 4])
    for i, variable in enumerate(layer.trainable_variables):
        noise = np.random.default_rng(i).normal(0, 0.3, variable.shape)
        variable.assign(tf.cast(variable, tf.float64).numpy() + noise)
    return layer


def assert_is_oracle(layer, dtype=tf.float32, **options):
    h, state = layer(inputs(dtype), training=False)
    expected, expected_state = oracle.gru(
        tf.cast(inputs(dtype), tf.float64), **exact(layer), **options
    )
    assert h.dtype == state.dtype == dtype
    assert_close(h, expected, dtype, 18)
    assert_close(state, expected_state, dtype, 18)


# ---- Parameters of the constructor ----


def test_num_units():
    layer = randomize(gru_tf.GRU(5))
    assert layer.num_units == 5
    h, state = layer(inputs(), training=False)
    assert h.shape == (3, 6, 5) and state.shape == (3, 5)
    assert_is_oracle(layer)
    with pytest.raises(ValueError, match="num_units is 0"):
        gru_tf.GRU(0)


def test_direction():
    layer = randomize(gru_tf.GRU(5, "bidirectional"))
    outputs, states = layer(inputs(), training=False)
    assert isinstance(outputs, list) and isinstance(states, list)
    x = tf.constant(X)
    for i, (direction, reverse) in enumerate([("fw_layer", False), ("bw_layer", True)]):
        expected, state = oracle.gru(x, **exact(layer, direction), reverse=reverse)
        assert_close(outputs[i], expected, tf.float32, 18)
        assert_close(states[i], state, tf.float32, 18)
    with pytest.raises(ValueError, match="direction is 'backward'"):
        gru_tf.GRU(5, "backward")


class Recorder:
    """An initializer that remembers its calls and numbers the gates."""

    def __init__(self):
        self.calls = []

    def __call__(self, shape, dtype=None):
        self.calls.append((list(shape), dtype))
        return tf.fill(shape, tf.cast(len(self.calls), dtype))


@pytest.mark.parametrize(
    "parameter, variable, shape",
    [
        ("kernel_initializer", "kernel", [4, 5]),
        ("recurrent_initializer", "recurrent_kernel", [5, 5]),
        ("bias_initializer", "bias", [5]),
        ("recurrent_bias_initializer", "recurrent_bias", [5]),
    ],
)
class TestInitializer:
    def test_is_called_once_a_gate_in_float32(self, parameter, variable, shape):
        recorder = Recorder()
        layer = gru_tf.GRU(5, dtype=tf.float16, **{parameter: recorder})
        layer.build([None, None, 4])
        assert recorder.calls == [(shape, tf.float32)] * 3
        value = getattr(layer.fw_layer, variable)
        assert value.dtype == tf.float16
        for gate, part in enumerate(tf.split(value, 3, axis=-1)):
            np.testing.assert_array_equal(part, np.full(shape, gate + 1))

    @pytest.mark.parametrize(
        "initializer",
        [
            "ones",
            lambda: tf.initializers.Constant(1.0),
            lambda: tf.compat.v1.initializers.constant(1.0),
            lambda: lambda shape, dtype: tf.ones(shape, dtype),
        ],
        ids=["name", "tf.initializers", "tf.compat.v1", "callable"],
    )
    def test_kinds(self, parameter, variable, shape, initializer):
        given = initializer if isinstance(initializer, str) else initializer()
        layer = gru_tf.GRU(5, **{parameter: given})
        layer.build([None, None, 4])
        np.testing.assert_array_equal(getattr(layer.fw_layer, variable), np.ones(shape[:-1] + [15]))


def test_kernel_initializer():
    """The default, glorot_uniform, of each gate [C, H] by itself."""
    layer = gru_tf.GRU(100)
    layer.build([None, None, 50])
    gates = [g.numpy() for g in tf.split(layer.fw_layer.kernel, 3, axis=-1)]
    limit = np.sqrt(6 / (50 + 100))
    for gate in gates:
        assert 0.98 * limit < np.abs(gate).max() <= limit
    assert not np.array_equal(gates[0], gates[1])


def test_recurrent_initializer():
    """The default, orthogonal, of each gate [H, H] by itself."""
    layer = gru_tf.GRU(16, "bidirectional")
    layer.build([None, None, 4])
    gates = tf.split(layer.fw_layer.recurrent_kernel, 3, axis=-1)
    gates += tf.split(layer.bw_layer.recurrent_kernel, 3, axis=-1)
    for gate in gates:
        np.testing.assert_allclose(tf.transpose(gate) @ gate, np.eye(16), atol=1e-5)
    assert len({gate.numpy().tobytes() for gate in gates}) == 6


def test_bias_initializer():
    layer = gru_tf.GRU(5)
    layer.build([None, None, 4])
    np.testing.assert_array_equal(layer.fw_layer.bias, np.zeros(15))


def test_recurrent_bias_initializer():
    layer = gru_tf.GRU(5)
    layer.build([None, None, 4])
    np.testing.assert_array_equal(layer.fw_layer.recurrent_bias, np.zeros(15))


@pytest.mark.parametrize(
    "parameter, variable",
    [
        ("kernel_transform", "kernel"),
        ("recurrent_transform", "recurrent_kernel"),
        ("bias_transform", "bias"),
        ("recurrent_bias_transform", "recurrent_bias"),
    ],
)
def test_transform(parameter, variable):
    layer = randomize(gru_tf.GRU(5, **{parameter: lambda w: 0.5 * w}))
    weights = exact(layer)
    weights[variable] *= 0.5
    with tf.GradientTape() as tape:
        h, _ = layer(inputs(), training=False)
    assert_close(h, oracle.gru(tf.constant(X), **weights)[0], tf.float32, 18)
    assert np.any(tape.gradient(h, getattr(layer.fw_layer, variable)))


def _drawn(monkeypatch, layer, **kwargs):
    """The layer's output with a seed that the oracle can have too."""
    seed = (5, 6)
    monkeypatch.setattr(gru_tf.ops, "random_seed", lambda: tf.constant(seed, tf.int64))
    h, _ = layer(inputs(), training=True)
    return h, oracle.gru(tf.constant(X), **exact(layer), training=True, seed=seed, **kwargs)[0]


def test_dropout(monkeypatch):
    layer = randomize(gru_tf.GRU(5, dropout=0.4))
    h, expected = _drawn(monkeypatch, layer, dropconnect=0.4)
    assert_close(h, expected, tf.float32, 18)
    assert_is_oracle(layer)  # in inference R is as it is
    with pytest.raises(ValueError, match="dropout is 1.0"):
        gru_tf.GRU(5, dropout=1.0)


def test_zoneout(monkeypatch):
    layer = randomize(gru_tf.GRU(5, zoneout=0.3))
    h, expected = _drawn(monkeypatch, layer, zoneout=0.3)
    assert_close(h, expected, tf.float32, 18)
    assert_is_oracle(layer, zoneout=0.3)  # in inference the mean of both
    with pytest.raises(ValueError, match="zoneout is 1.5"):
        gru_tf.GRU(5, zoneout=1.5)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_dtype(dtype):
    layer = randomize(gru_tf.GRU(5, dtype=dtype))
    assert {v.dtype for v in layer.variables} == {dtype}
    assert_is_oracle(layer, dtype)


def test_dtype_is_float32_by_default():
    assert gru_tf.GRU(5).dtype == tf.float32


def test_name():
    assert gru_tf.GRU(5).name == "gru"
    assert gru_tf.GRU(5, name="encoder").name == "encoder"


def test_unknown_keywords_raise():
    with pytest.raises(TypeError, match="forget_bias"):
        gru_tf.GRU(5, forget_bias=1.0)
    with pytest.raises(TypeError):
        gru_tf.GRU(5)(inputs(), training=False, batch_major=True)


# ---- Properties ----


def test_bidirectional():
    assert not gru_tf.GRU(5).bidirectional
    assert gru_tf.GRU(5, "bidirectional").bidirectional


def test_name_scope():
    layer = gru_tf.GRU(5, name="encoder")
    assert layer.name_scope.name == "encoder/"
    layer.build([None, None, 4])
    assert layer.fw_layer.kernel.name == "encoder/fw/kernel:0"


def test_output_size():
    assert gru_tf.GRU(5).output_size == 5
    assert gru_tf.GRU(5, "bidirectional").output_size == (5, 5)


def test_state_size():
    assert gru_tf.GRU(5).state_size == 5
    assert gru_tf.GRU(5, "bidirectional").state_size == (5, 5)


def test_submodules():
    layer = gru_tf.GRU(5, "bidirectional")
    assert list(layer.submodules) == [layer.bw_layer, layer.fw_layer]
    assert list(gru_tf.GRU(5).submodules) != []


def test_trainable_variables():
    layer = gru_tf.GRU(5, "bidirectional")
    assert layer.trainable_variables == ()
    layer.build([None, None, 4])
    assert len(layer.trainable_variables) == 8
    with tf.GradientTape() as tape:
        outputs, states = layer(inputs(), training=False)
        loss = sum(tf.reduce_sum(v**2) for v in outputs + states)
    assert all(np.any(g) for g in tape.gradient(loss, layer.trainable_variables))


def test_variables():
    layer = gru_tf.GRU(5)
    layer.build([None, None, 4])
    shapes = {v.name: v.shape.as_list() for v in layer.variables}
    assert shapes == {
        "gru/fw/kernel:0": [4, 15],
        "gru/fw/recurrent_kernel:0": [5, 15],
        "gru/fw/bias:0": [15],
        "gru/fw/recurrent_bias:0": [15],
    }


# ---- Methods ----


def test_build():
    layer = gru_tf.GRU(5)
    layer.build(tf.TensorShape([None, None, 4]))
    variables = [v.ref() for v in layer.variables]
    layer.build([1, 2, 4])  # a second time is nothing
    layer(inputs(), training=False)
    assert [v.ref() for v in layer.variables] == variables
    with pytest.raises(ValueError, match="last dimension"):
        gru_tf.GRU(5).build([None, None, None])


def test_call_inputs():
    layer = gru_tf.GRU(5)
    with pytest.raises(ValueError, match="must have 3 dimensions"):
        layer(tf.zeros([3, 4]), training=False)
    with pytest.raises(ValueError):
        layer(tf.zeros([3, 6, 4], tf.float64), training=False)


def test_call_training():
    layer = randomize(gru_tf.GRU(5, zoneout=0.5, dropout=0.5))
    with pytest.raises(TypeError):
        layer(inputs())  # it has no default, as in haste
    still, _ = layer(inputs(), training=False)
    np.testing.assert_array_equal(layer(inputs(), training=False)[0], still)
    first, _ = layer(inputs(), training=True)
    second, _ = layer(inputs(), training=True)
    assert not np.array_equal(first, still) and not np.array_equal(first, second)
    np.testing.assert_array_equal(layer(inputs(), training=tf.constant(False))[0], still)


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64], ids=lambda d: d.name)
@pytest.mark.parametrize("direction", ["unidirectional", "bidirectional"])
def test_call_sequence_length(direction, dtype):
    layer = randomize(gru_tf.GRU(5, direction))
    lengths = [6, 2, 0]
    results = layer(inputs(), training=False, sequence_length=tf.constant(lengths, dtype))
    outputs, states = results if layer.bidirectional else ([results[0]], [results[1]])
    for i, name in enumerate(["fw_layer", "bw_layer"][: len(outputs)]):
        expected, state = oracle.gru(
            tf.constant(X), **exact(layer, name), lengths=lengths, reverse=name == "bw_layer"
        )
        assert_close(outputs[i], expected, tf.float32, 18)
        assert_close(states[i], state, tf.float32, 18)


def test_call_sequence_length_of_wrong_size():
    with pytest.raises(tf.errors.InvalidArgumentError, match="lengths has shape"):
        gru_tf.GRU(5)(inputs(), training=False, sequence_length=[1, 2])


@pytest.mark.parametrize("direction", ["unidirectional", "bidirectional"])
def test_call_time_major(direction):
    layer = randomize(gru_tf.GRU(5, direction))
    expected, expected_state = layer(inputs(), training=False)
    swapped = tf.transpose(inputs(), [1, 0, 2])
    h, state = layer(swapped, training=False, time_major=True)
    h = tf.nest.map_structure(lambda v: tf.transpose(v, [1, 0, 2]), h)
    for a, b in zip(
        tf.nest.flatten([h, state]), tf.nest.flatten([expected, expected_state]), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_with_name_scope():
    class Model(tf.Module):
        @gru_tf.GRU.with_name_scope
        def __call__(self, x):
            if not hasattr(self, "w"):
                self.w = tf.Variable(x, name="w")
            return self.w

    model = Model(name="model")
    model(1.0)
    assert model.w.name == "model/w:0"


# ---- Additions ----


def test_reset_after():
    layer = randomize(gru_tf.GRU(5, reset_after=False))
    assert_is_oracle(layer, reset_after=False)


@pytest.mark.parametrize("direction", ["unidirectional", "bidirectional"])
def test_initial_state(direction):
    layer = randomize(gru_tf.GRU(5, direction))
    random = np.random.default_rng(3)
    states = [tf.constant(random.normal(size=[3, 5]), tf.float32) for _ in range(2)]
    given = states if layer.bidirectional else states[0]
    results = layer(inputs(), training=False, initial_state=given)
    outputs = results[0] if layer.bidirectional else [results[0]]
    for i, name in enumerate(["fw_layer", "bw_layer"][: len(outputs)]):
        expected, _ = oracle.gru(
            tf.constant(X),
            **exact(layer, name),
            initial_state=tf.cast(states[i], tf.float64),
            reverse=i == 1,
        )
        assert_close(outputs[i], expected, tf.float32, 18)


def test_initial_state_of_one_direction_is_not_enough():
    with pytest.raises(ValueError, match="must be a pair"):
        gru_tf.GRU(5, "bidirectional")(inputs(), training=False, initial_state=tf.zeros([3, 5]))


def test_initial_state_of_wrong_size():
    with pytest.raises(tf.errors.InvalidArgumentError, match="initial_state has shape"):
        gru_tf.GRU(5)(inputs(), training=False, initial_state=tf.zeros([3, 6]))


@pytest.mark.parametrize("time_major", [False, True])
def test_episode_starts(time_major):
    layer = randomize(gru_tf.GRU(5))
    starts = np.random.default_rng(5).random([3, 6]) < 0.4
    expected, _ = oracle.gru(tf.constant(X), **exact(layer), episode_starts=starts)
    x = inputs()
    if time_major:
        x, starts = tf.transpose(x, [1, 0, 2]), starts.T
    h, _ = layer(x, training=False, time_major=time_major, episode_starts=starts)
    assert_close(tf.transpose(h, [1, 0, 2]) if time_major else h, expected, tf.float32, 18)


def test_recurrent_dropout(monkeypatch):
    layer = randomize(gru_tf.GRU(5, recurrent_dropout=0.4))
    h, expected = _drawn(monkeypatch, layer, recurrent_dropout=0.4)
    assert_close(h, expected, tf.float32, 18)
    assert_is_oracle(layer)


def test_recompute():
    kept = randomize(gru_tf.GRU(5, zoneout=0.2))
    again = randomize(gru_tf.GRU(5, zoneout=0.2, recompute=True))
    for variable, value in zip(again.variables, kept.variables, strict=True):
        variable.assign(value)
    gradients = []
    for layer in (kept, again):
        tf.random.set_seed(4)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(inputs(), training=True)[0] ** 2)
        gradients.append(tape.gradient(loss, layer.trainable_variables))
    for a, b in zip(*gradients, strict=True):
        assert np.any(a)
        assert_close(b, a, tf.float32, 18)


@pytest.mark.parametrize("merge", [None, "concat", "sum", "mul", "ave"])
def test_merge(merge):
    layer = randomize(gru_tf.GRU(5, "bidirectional", merge=merge))
    output, states = layer(inputs(), training=False)
    layer.merge = None
    (a, b), _ = layer(inputs(), training=False)
    expected = {
        None: [a, b],
        "concat": np.concatenate([a, b], axis=-1),
        "sum": a + b,
        "mul": a * b,
        "ave": (a + b) / 2,
    }[merge]
    for value, reference in zip(tf.nest.flatten(output), tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(value, reference)
    assert len(states) == 2
    with pytest.raises(ValueError, match="merge is 'max'"):
        gru_tf.GRU(5, "bidirectional", merge="max")


def test_set_seed_repeats_a_run():
    def run():
        tf.random.set_seed(11)
        layer = gru_tf.GRU(5, zoneout=0.3, dropout=0.3, recurrent_dropout=0.3)
        eager = layer(inputs(), training=True)[0]
        graph = tf.function(lambda x: layer(x, training=True)[0])
        return [eager, graph(inputs()), graph(inputs())]

    first, second = run(), run()
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[1], first[2])  # each call draws anew


def test_ragged_lengths_of_tf_data():
    sequences = [np.full([n, 4], n, np.float32) for n in (3, 1, 5, 2)]
    data = tf.data.Dataset.from_generator(
        lambda: ((s, len(s)) for s in sequences),
        output_signature=(tf.TensorSpec([None, 4]), tf.TensorSpec([], tf.int32)),
    ).padded_batch(2)
    layer = randomize(gru_tf.GRU(5))

    @tf.function(reduce_retracing=True)
    def run(x, lengths):
        return layer(x, training=False, sequence_length=lengths)[1]

    states = tf.concat([run(x, lengths) for x, lengths in data], axis=0)
    for sequence, state in zip(sequences, states, strict=True):
        _, expected = oracle.gru(tf.constant(sequence[None], tf.float64), **exact(layer))
        assert_close(state, expected[0], tf.float32, 18)


def test_jit_compile_is_a_clear_error():
    layer = randomize(gru_tf.GRU(5))
    run = tf.function(lambda x: layer(x, training=False)[0], jit_compile=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="GruForward"):
        run(inputs())
    # The way out: compile what is around the layer.
    around = tf.function(lambda h: tf.reduce_sum(h**2), jit_compile=True)
    assert around(layer(inputs(), training=False)[0]) > 0
