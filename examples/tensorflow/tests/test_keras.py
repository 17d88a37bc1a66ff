# SPDX-License-Identifier: Apache-2.0
"""gru_tf.keras.GRU against keras.layers.GRU."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import gru_tf.keras
import oracle
from support import DTYPES, assert_close

N, T, C, H = 4, 7, 3, 5
X = np.random.default_rng(7).normal(size=[N, T, C])
MASKS = {
    "none": None,
    "right_padded": np.arange(T) < np.array([7, 4, 1, 5])[:, None],
    "left_padded": np.arange(T) >= np.array([0, 3, 6, 1])[:, None],
    "broken": np.random.default_rng(3).random([N, T]) < 0.5,
    "one_sequence_empty": np.arange(T) < np.array([7, 0, 2, 7])[:, None],
}


def make(cls, dtype="float64", **options):
    layer = cls(H, dtype=dtype, **options)
    layer.build((N, T, C))
    return layer


def pair(dtype="float64", **options):
    """Our layer in dtype and Keras's in float64, with the same weights, all of them random."""
    ours, theirs = make(gru_tf.keras.GRU, dtype, **options), make(keras.layers.GRU, **options)
    random = np.random.default_rng(1)
    weights = [tf.cast(tf.constant(random.normal(0, 0.5, w.shape)), dtype) for w in theirs.weights]
    ours.set_weights([w.numpy() for w in weights])
    theirs.set_weights([tf.cast(w, tf.float64).numpy() for w in weights])
    return ours, theirs


def assert_same(ours, theirs, dtype, mask=None, initial_state=None):
    """Both layers agree in all outputs and in the gradients of x, the state and the weights."""
    x = tf.cast(tf.constant(X), dtype)
    results = []
    for layer, kind in ((ours, dtype), (theirs, tf.float64)):
        inputs = [tf.cast(x, kind)]
        if initial_state is not None:
            inputs.append(tf.cast(tf.constant(initial_state), kind))
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(
                inputs[0],
                mask=None if mask is None else tf.constant(mask),
                initial_state=None if initial_state is None else [inputs[1]],
            )
            outputs = tf.nest.flatten(outputs)
            loss = sum(
                tf.reduce_sum(
                    tf.cast(o, tf.float64) * tf.cast(tf.range(1, o.shape[-1] + 1), tf.float64)
                )
                for o in outputs
            )
        variables = [v.value for v in layer.trainable_variables]
        results.append(outputs + tape.gradient(loss, inputs + variables))
    assert len(results[0]) == len(results[1])
    for value, expected in zip(*results, strict=True):
        assert value.dtype == dtype
        assert_close(value, expected, dtype, N * T + C + H)


@pytest.mark.parametrize("go_backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("reset_after", [True, False], ids=["reset_after", "reset_before"])
@pytest.mark.parametrize("return_sequences", [True, False], ids=["sequences", "last"])
@pytest.mark.parametrize("mask", MASKS)
def test_function(mask, return_sequences, reset_after, go_backwards):
    ours, theirs = pair(
        return_sequences=return_sequences,
        return_state=True,
        reset_after=reset_after,
        go_backwards=go_backwards,
    )
    state = np.random.default_rng(9).normal(size=[N, H])
    assert_same(ours, theirs, tf.float64, MASKS[mask], state)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("reset_after", [True, False], ids=["reset_after", "reset_before"])
def test_dtypes(reset_after, dtype):
    ours, theirs = pair(dtype.name, return_sequences=True, reset_after=reset_after)
    assert_same(ours, theirs, dtype)
    assert_same(ours, theirs, dtype, MASKS["broken"])


@pytest.mark.parametrize("mask", ["right_padded", "left_padded", "broken", "one_sequence_empty"])
@pytest.mark.parametrize("return_sequences", [True, False], ids=["sequences", "last"])
def test_zero_output_for_mask(mask, return_sequences):
    ours, theirs = pair(return_sequences=return_sequences)
    ours.zero_output_for_mask = theirs.zero_output_for_mask = True
    theirs.use_cudnn = False
    assert_same(ours, theirs, tf.float64, MASKS[mask])


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("reset_after", [True, False])
def test_use_bias(use_bias, reset_after):
    ours, theirs = pair(use_bias=use_bias, reset_after=reset_after, return_sequences=True)
    assert_same(ours, theirs, tf.float64)


def test_a_mask_may_have_a_last_dimension():
    ours, _ = pair()
    mask = tf.constant(MASKS["broken"])
    np.testing.assert_array_equal(ours(X, mask=mask[..., None]), ours(X, mask=mask))


@pytest.mark.parametrize("zero_output_for_mask", [False, True])
def test_a_mask_without_steps_shows_nothing(zero_output_for_mask):
    ours, _ = pair(zero_output_for_mask=zero_output_for_mask, return_state=True)
    state = tf.ones((N, H), tf.float64)
    outputs, final_state = ours(X[:, :0], mask=np.ones((N, 0), bool), initial_state=[state])
    np.testing.assert_array_equal(outputs, np.zeros((N, H)))
    np.testing.assert_array_equal(final_state, state)


@pytest.mark.parametrize("mask", ["none", "right_padded", "broken"])
@pytest.mark.parametrize("merge_mode", ["concat", "sum", "mul", "ave", None])
def test_bidirectional(merge_mode, mask):
    layers = []
    for cls in (gru_tf.keras.GRU, keras.layers.GRU):
        inner = cls(H, return_sequences=True, dtype="float64")
        layers.append(keras.layers.Bidirectional(inner, merge_mode, dtype="float64"))
    layers[0].build((N, T, C))
    layers[1].build((N, T, C))
    random = np.random.default_rng(1)
    weights = [random.normal(0, 0.5, w.shape) for w in layers[1].weights]
    for layer in layers:
        layer.set_weights(weights)
    mask = None if MASKS[mask] is None else tf.constant(MASKS[mask])
    outputs = [tf.nest.flatten(layer(tf.constant(X), mask=mask)) for layer in layers]
    assert len(outputs[0]) == len(outputs[1])
    for a, b in zip(*outputs, strict=True):
        assert_close(a, b, tf.float64, N * T)


def test_stateful():
    ours, theirs = pair(stateful=True)
    x = tf.constant(X)
    for _ in range(3):
        assert_close(ours(x), theirs(x), tf.float64, N * T)
    assert_close(ours.states[0], theirs.states[0], tf.float64, N * T)
    ours.reset_state()
    theirs.reset_state()
    assert not np.any(ours.states[0])
    assert_close(ours(x), theirs(x), tf.float64, N * T)
    assert len(ours.weights) == len(theirs.weights) == 3
    with pytest.raises(ValueError, match="known batch size"):
        gru_tf.keras.GRU(H, stateful=True).build((None, T, C))


def functional(cls, **options):
    x = keras.Input((None, C))
    state = keras.Input((H,))
    outputs = cls(H, return_sequences=True, return_state=True, name="rnn", **options)(
        x, initial_state=state
    )
    return keras.Model([x, state], outputs)


def test_initial_state_in_the_functional_api():
    models = [functional(gru_tf.keras.GRU), functional(keras.layers.GRU)]
    models[0].set_weights(models[1].get_weights())
    state = np.random.default_rng(9).normal(size=[N, H])
    for a, b in zip(
        *(m([X.astype("float32"), state.astype("float32")]) for m in models), strict=True
    ):
        assert_close(a, b, tf.float32, N * T)
    assert models[0].output_shape == models[1].output_shape


def sequential(cls, **options):
    return keras.Sequential(
        [
            keras.Input((T,), dtype="int32"),
            keras.layers.Embedding(10, C, mask_zero=True),
            keras.layers.Bidirectional(cls(H, return_sequences=True, **options)),
            cls(H, **options),
            keras.layers.Dense(2),
        ]
    )


def test_weight_files_of_keras_load_and_ours_load_there(tmp_path):
    ours, theirs = sequential(gru_tf.keras.GRU), sequential(keras.layers.GRU)
    tokens = np.array([[1, 2, 3, 4, 5, 6, 7], [3, 9, 2, 0, 0, 0, 0]])
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    ours.load_weights(tmp_path / "theirs.weights.h5")
    assert_close(ours(tokens), theirs(tokens), tf.float32, N * T)
    fresh = sequential(keras.layers.GRU)
    ours.save_weights(tmp_path / "ours.weights.h5")
    fresh.load_weights(tmp_path / "ours.weights.h5")
    np.testing.assert_array_equal(fresh(tokens), theirs(tokens))


def test_set_weights_takes_those_of_keras():
    theirs = make(keras.layers.GRU, "float32")
    ours = make(gru_tf.keras.GRU, "float32")
    ours.set_weights(theirs.get_weights())
    assert [w.path.split("/")[-2:] for w in ours.weights] == [
        w.path.split("/")[-2:] for w in theirs.weights
    ]
    assert_close(ours(X), theirs(X), tf.float32, N * T)


def test_initial_weights_are_those_of_keras():
    weights = []
    for cls in (gru_tf.keras.GRU, keras.layers.GRU):
        layer = cls(
            H,
            kernel_initializer=keras.initializers.GlorotUniform(seed=1),
            recurrent_initializer=keras.initializers.Orthogonal(seed=2),
        )
        layer.build((N, T, C))
        weights.append(layer.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("option", ["masked", "plain"])
def test_fit(option):
    """`fit`, whose graph Keras compiles with XLA unless a layer says that it cannot be."""
    model = sequential(gru_tf.keras.GRU, zoneout=0.1, dropconnect=0.1, dropout=0.1)
    model.compile("adam", "mse", jit_compile="auto")
    assert not model.jit_compile
    tokens = np.random.default_rng(1).integers(0 if option == "masked" else 1, 10, [32, T])
    history = model.fit(tokens, np.eye(2)[tokens[:, 0] % 2], epochs=8, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]


def test_fit_where_a_gpu_is_visible(monkeypatch):
    """There `compile` turns XLA on, unless a layer says supports_jit = False."""
    devices = tf.config.list_physical_devices() + [
        tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    ]
    with monkeypatch.context() as patch:
        patch.setattr(tf.config, "list_physical_devices", lambda *_: devices)
        other = keras.Sequential([keras.Input((C,)), keras.layers.Dense(1)])
        other.compile("adam", "mse")
        model = keras.Sequential([keras.Input((T, C)), gru_tf.keras.GRU(H)])
        model.compile("adam", "mse")
    assert other.jit_compile and not model.jit_compile
    model.fit(X, np.zeros([N, H]), verbose=0)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_dtype_policies(policy):
    layer = gru_tf.keras.GRU(H, dtype=policy, return_sequences=True)
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        y = layer(x)
        loss = tf.reduce_sum(tf.cast(y, tf.float32) ** 2)
    assert y.dtype == keras.DTypePolicy(policy).compute_dtype
    for variable, gradient in zip(
        layer.trainable_variables,
        tape.gradient(loss, [v.value for v in layer.trainable_variables]),
        strict=True,
    ):
        assert gradient.dtype == variable.dtype == keras.DTypePolicy(policy).variable_dtype


def test_fit_in_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Sequential([keras.Input((T, C)), gru_tf.keras.GRU(H), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        history = model.fit(X, X[:, 0, :1], epochs=3, verbose=0)
        assert np.all(np.isfinite(history.history["loss"]))
    finally:
        keras.config.set_dtype_policy("float32")


def test_regularizers():
    ours, theirs = (
        make(
            cls,
            kernel_regularizer="l2",
            recurrent_regularizer="l1",
            bias_regularizer=keras.regularizers.L2(0.3),
            activity_regularizer="l2",
        )
        for cls in (gru_tf.keras.GRU, keras.layers.GRU)
    )
    ours.set_weights([w + 0.5 for w in theirs.get_weights()])
    theirs.set_weights(ours.get_weights())
    ours(X), theirs(X)
    assert_close(sum(ours.losses), sum(theirs.losses), tf.float64, 100)
    assert len(ours.losses) == len(theirs.losses) == 4


def test_constraints():
    options = {
        "kernel_constraint": "non_neg",
        "recurrent_constraint": keras.constraints.MaxNorm(0.5),
        "bias_constraint": "non_neg",
    }
    layer = make(gru_tf.keras.GRU, **options)
    assert isinstance(layer.cell.kernel.constraint, keras.constraints.NonNeg)
    assert isinstance(layer.cell.recurrent_kernel.constraint, keras.constraints.MaxNorm)
    assert isinstance(layer.cell.bias.constraint, keras.constraints.NonNeg)
    model = keras.Sequential([keras.Input((T, C)), layer])
    model.compile("sgd", "mse")
    model.fit(X, np.zeros([N, H]), verbose=0)
    assert np.all(layer.cell.kernel.numpy() >= 0)


def test_get_config():
    options = {
        "return_sequences": True,
        "return_state": True,
        "go_backwards": True,
        "reset_after": False,
        "use_bias": False,
        "dropout": 0.1,
        "recurrent_dropout": 0.2,
        "zoneout": 0.3,
        "dropconnect": 0.4,
        "recompute": True,
        "zero_output_for_mask": True,
        "seed": 5,
        "kernel_regularizer": "l2",
        "recurrent_constraint": "non_neg",
    }
    layer = gru_tf.keras.GRU(H, name="rnn", **options)
    config = layer.get_config()
    again = gru_tf.keras.GRU.from_config(config)
    assert again.get_config() == config
    for name, value in options.items():
        assert config[name] == value or isinstance(value, str), name
    assert config["units"] == H and config["name"] == "rnn"


def test_from_config_of_keras():
    theirs = make(keras.layers.GRU, "float32", return_sequences=True)
    ours = gru_tf.keras.GRU.from_config(theirs.get_config())
    ours.build((N, T, C))
    ours.set_weights(theirs.get_weights())
    assert_close(ours(X), theirs(X), tf.float32, N * T)


@pytest.mark.parametrize("return_sequences", [True, False])
@pytest.mark.parametrize("return_state", [True, False])
def test_compute_output_shape_and_mask(return_sequences, return_state):
    options = {"return_sequences": return_sequences, "return_state": return_state}
    ours, theirs = make(gru_tf.keras.GRU, **options), make(keras.layers.GRU, **options)
    assert ours.compute_output_shape((None, T, C)) == theirs.compute_output_shape((None, T, C))
    mask = tf.constant(MASKS["broken"])
    a, b = ours.compute_mask(None, mask), theirs.compute_mask(None, mask)
    assert tf.nest.map_structure(lambda m: m is mask, a) == tf.nest.map_structure(
        lambda m: m is mask, b
    )


def test_keras_files_round_trip(tmp_path):
    model = sequential(gru_tf.keras.GRU, zoneout=0.1)
    tokens = np.array([[1, 2, 3, 4, 5, 6, 7], [3, 9, 2, 0, 0, 0, 0]])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(tokens), model(tokens))


def test_dropout():
    """On the inputs, one mask a sequence; none in inference."""
    layer = make(gru_tf.keras.GRU, dropout=0.5, return_sequences=True)
    layer.cell.recurrent_kernel.assign(tf.zeros([H, 3 * H]))
    x = tf.ones([N, T, C], tf.float64)
    y = layer(x, training=True).numpy()
    still = layer(x, training=False).numpy()
    plain = make(gru_tf.keras.GRU, return_sequences=True)
    plain.set_weights(layer.get_weights())
    np.testing.assert_array_equal(plain(x), still)
    # Every sequence is that of some mask of the C inputs.
    possible = []
    for mask in np.ndindex(*[2] * C):
        possible.append(plain(x[:1] * (2.0 * np.array(mask)))[0].numpy())
    for sequence in y:
        assert any(np.allclose(sequence, p, rtol=0, atol=1e-12) for p in possible)
    assert len({sequence.tobytes() for sequence in y}) > 1


@pytest.mark.parametrize(
    "options, oracle_options",
    [
        ({"zoneout": 0.3}, {"zoneout": 0.3}),
        ({"dropconnect": 0.3}, {"dropconnect": 0.3}),
        ({"recurrent_dropout": 0.3}, {"recurrent_dropout": 0.3}),
    ],
    ids=["zoneout", "dropconnect", "recurrent_dropout"],
)
def test_masks_are_those_of_the_papers(options, oracle_options):
    ours = make(gru_tf.keras.GRU, return_sequences=True, seed=3, **options)
    seed = [int(s) for s in ours.cell.seed_generator.state.numpy()]
    y = ours(X, training=True)
    weights = [w.value for w in ours.weights]
    expected, _ = oracle.gru(
        tf.constant(X),
        *weights[:2],
        *tf.unstack(weights[2]),
        training=True,
        seed=seed,
        **oracle_options,
    )
    assert_close(y, expected, tf.float64, N * T)


def test_seed_repeats_a_run():
    runs = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        layer = gru_tf.keras.GRU(H, zoneout=0.5, dropout=0.5, seed=9)
        runs.append([layer(X, training=True), layer(X, training=True)])
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    assert not np.array_equal(runs[0][0], runs[0][1])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"unroll": True}, r"keras.layers.GRU\(unroll=True\)"),
        ({"activation": "relu"}, "activation is relu.*keras.layers.GRU"),
        ({"activation": None}, "activation is linear.*keras.layers.GRU"),
        ({"recurrent_activation": "hard_sigmoid"}, "hard_sigmoid.*keras.layers.GRU"),
        ({"zoneout": 1.5}, "zoneout is 1.5"),
        ({"units": 0}, "units is 0"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_is_not_supported_names_the_alternative(options, message):
    with pytest.raises(ValueError, match=message):
        gru_tf.keras.GRU(**{"units": H, **options})


OTHER_BACKEND = """
import sys
if sys.argv[1] == "configured":
    import keras
    keras.backend.backend = lambda: "jax"
try:
    import gru_tf.keras
except ImportError as error:
    assert "'jax'" in str(error) and "KERAS_BACKEND=tensorflow" in str(error), error
    print("refused")
"""


def test_another_keras_backend_is_a_clear_error(run_python):
    assert "refused" in run_python(OTHER_BACKEND, "by environment", KERAS_BACKEND="jax")
    assert "refused" in run_python(OTHER_BACKEND, "configured")
