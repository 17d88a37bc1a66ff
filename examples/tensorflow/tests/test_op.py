# SPDX-License-Identifier: Apache-2.0
"""The op against the papers' loop: values, gradients, masks, lengths, episodes, bad inputs."""

import functools

import numpy as np
import pytest
import tensorflow as tf

import oracle
from gru_tf import ops
from support import (
    DTYPES,
    assert_close,
    assert_same_function,
    make_layer,
    value_and_gradients,
)

SEED = (20261123, 77)
OPTIONS = {
    "plain": {},
    "reset_before": {"reset_after": False},
    "reverse": {"reverse": True},
    "zoneout": {"zoneout": 0.3},
    "dropconnect": {"dropconnect": 0.4},
    "recurrent_dropout": {"recurrent_dropout": 0.25},
    "reset_before_recurrent_dropout": {"recurrent_dropout": 0.25, "reset_after": False},
    "all_masks": {"zoneout": 0.1, "dropconnect": 0.2, "recurrent_dropout": 0.3},
    "lengths": {"lengths": [6, 0, 3]},
    "lengths_reverse": {"lengths": [2, 6, 5], "reverse": True},
    "episode_starts": {"episode_starts": np.arange(18).reshape(3, 6) % 4 == 1},
    "episode_starts_reverse": {
        "episode_starts": np.arange(18).reshape(3, 6) % 4 == 1,
        "lengths": [6, 4, 5],
        "reverse": True,
    },
}


def both(**options):
    """The op and the loop, with the same options and masks."""
    op_options = dict(options, seed=tf.constant(SEED, tf.int64))
    return functools.partial(ops.gru, **op_options), functools.partial(
        oracle.gru, **options, seed=SEED
    )


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("option", OPTIONS)
def test_op_is_the_papers_loop(option, training):
    exact, tensors = make_layer()
    op, loop = both(**OPTIONS[option], training=training)
    assert_same_function(op, loop, exact, tensors, tf.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("option", ["plain", "reset_before", "all_masks", "lengths"])
def test_every_dtype(option, dtype):
    exact, tensors = make_layer(dtype=dtype, batch=4, steps=9, inputs=7, units=17)
    options = dict(OPTIONS[option], training=True)
    if "lengths" in options:
        options["lengths"] = [9, 0, 4, 1]
    op, loop = both(**options)
    assert_same_function(op, loop, exact, tensors, dtype)


@pytest.mark.parametrize("left_out", ["bias", "recurrent_bias", "initial_state"])
def test_inputs_that_may_be_left_out(left_out):
    exact, tensors = make_layer()
    del exact[left_out], tensors[left_out]
    op, loop = both()
    assert_same_function(op, loop, exact, tensors, tf.float64)


def test_time_major_is_batch_major_transposed():
    _, tensors = make_layer()
    expected, expected_state = ops.gru(**tensors, lengths=[6, 2, 4])
    tensors["x"] = tf.transpose(tensors["x"], [1, 0, 2])
    h, state = ops.gru(**tensors, lengths=[6, 2, 4], time_major=True)
    np.testing.assert_array_equal(tf.transpose(h, [1, 0, 2]), expected)
    np.testing.assert_array_equal(state, expected_state)


def test_recompute_gives_the_same_numbers():
    _, tensors = make_layer()
    options = dict(OPTIONS["all_masks"], training=True, seed=tf.constant(SEED, tf.int64))
    kept = value_and_gradients(functools.partial(ops.gru, **options), tensors)
    again = value_and_gradients(functools.partial(ops.gru, **options, recompute=True), tensors)
    for a, b in zip(tf.nest.flatten(again), tf.nest.flatten(kept), strict=True):
        assert_close(a, b, tf.float64, 30)


@pytest.mark.parametrize("steps, batch", [(0, 3), (4, 0), (1, 1)])
def test_empty_and_smallest_sizes(steps, batch):
    exact, tensors = make_layer(steps=steps, batch=batch)
    (h, state), gradients = value_and_gradients(ops.gru, tensors)
    assert h.shape == (batch, steps, 5)
    expected_h, expected_state = oracle.gru(**exact)
    assert_close(h, expected_h, tf.float64, 30)
    assert_close(state, expected_state, tf.float64, 30)
    if steps == 0 or batch == 0:
        assert not np.any(gradients["kernel"])


def test_training_may_be_a_tensor():
    _, tensors = make_layer()
    options = {"zoneout": 0.5, "seed": tf.constant(SEED, tf.int64)}

    @tf.function
    def run(training):
        return ops.gru(**tensors, **options, training=training)[0]

    for training in (False, True):
        expected = ops.gru(**tensors, **options, training=training)[0]
        np.testing.assert_array_equal(run(tf.constant(training)), expected)


@pytest.mark.parametrize("lengths", [[-3, 7, 2**31 - 1], [-(2**40), 2**40, 6]])
def test_lengths_outside_are_clamped(lengths):
    _, tensors = make_layer()
    dtype = tf.int64 if max(lengths) > 2**31 else tf.int32
    clamped = np.clip(lengths, 0, 6)
    h, state = ops.gru(**tensors, lengths=tf.constant(lengths, dtype))
    expected, expected_state = ops.gru(**tensors, lengths=tf.constant(clamped, tf.int32))
    np.testing.assert_array_equal(h, expected)
    np.testing.assert_array_equal(state, expected_state)


def test_lengths_outside_raise_when_checked(monkeypatch):
    _, tensors = make_layer()
    monkeypatch.setenv("GRU_CHECK_LENGTHS", "1")
    ops.gru(**tensors, lengths=[0, 6, 3])
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"lengths\[1\] is 7, outside \[0, 6\]"
    ):
        ops.gru(**tensors, lengths=[0, 7, 3])


def _with(**changes):
    def change(tensors):
        return {**tensors, **changes}

    return change


BAD_INPUTS = {
    "wrong_rank_of_x": (_with(x=tf.zeros([3, 4], tf.float64)), "x has shape"),
    "wrong_rank_of_kernel": (_with(kernel=tf.zeros([4], tf.float64)), "kernel has shape"),
    "wrong_rank_of_recurrent_kernel": (
        _with(recurrent_kernel=tf.zeros([5], tf.float64)),
        "recurrent_kernel has shape",
    ),
    "wrong_width_of_kernel": (_with(kernel=tf.zeros([4, 14], tf.float64)), "kernel has shape"),
    "wrong_height_of_kernel": (_with(kernel=tf.zeros([3, 15], tf.float64)), "kernel has shape"),
    "wrong_bias": (_with(bias=tf.zeros([5], tf.float64)), "bias has shape"),
    "wrong_number_of_lengths": (_with(lengths=[1, 2]), "lengths has shape"),
    "no_lengths_for_a_batch": (_with(lengths=tf.zeros([0], tf.int32)), "lengths has shape"),
    "wrong_units_of_state": (
        _with(initial_state=tf.zeros([3, 6], tf.float64)),
        "initial_state has shape",
    ),
    "wrong_episode_starts": (_with(episode_starts=tf.zeros([6, 3], tf.bool)), "episode_starts has"),
    "zoneout_of_one_and_a_half": (_with(zoneout=1.5), "zoneout rate is 1.5"),
    "zoneout_of_one": (_with(zoneout=1.0), "zoneout rate is 1"),
    "dropconnect_below_zero": (_with(dropconnect=-0.1), "dropconnect rate is -0.1"),
    "recurrent_dropout_not_a_number": (
        _with(recurrent_dropout=float("nan")),
        "dropout rate is nan",
    ),
    "wrong_seed": (_with(seed=tf.zeros([3], tf.int64)), "seed has shape"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_an_error(case):
    _, tensors = make_layer()
    change, message = BAD_INPUTS[case]
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops.gru(**change(tensors))
    ops.gru(**tensors)  # the process lives on


@pytest.mark.parametrize(
    "changes",
    [
        {"x": tf.zeros([3, 4])},
        {"kernel": tf.zeros([4, 14])},
        {"kernel": tf.zeros([5, 15])},
        {"recurrent_kernel": tf.zeros([5, 12])},
        {"bias": tf.zeros([14])},
        {"lengths": tf.zeros([2], tf.int32)},
        {"initial_state": tf.zeros([3, 6])},
        {"episode_starts": tf.zeros([3, 5], tf.bool)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_graphs_find_bad_shapes_when_built(changes):
    _, tensors = make_layer(dtype=tf.float32)
    with pytest.raises(ValueError):
        tf.function(lambda: ops.gru(**{**tensors, **changes})).get_concrete_function()


def test_wrong_dtype_is_an_error():
    _, tensors = make_layer()
    with pytest.raises((ValueError, TypeError, tf.errors.InvalidArgumentError)):
        ops.gru(**{**tensors, "kernel": tf.cast(tensors["kernel"], tf.float32)})
    with pytest.raises(TypeError, match="lengths must be int32 or int64"):
        ops.gru(**tensors, lengths=tf.zeros([3], tf.float32))
    with pytest.raises((ValueError, TypeError, tf.errors.InvalidArgumentError)):
        ops.gru(
            tf.zeros([3, 6, 4], tf.int32), tf.zeros([4, 15], tf.int32), tf.zeros([5, 15], tf.int32)
        )


@pytest.mark.parametrize("known", ["all", "none", "kernels", "rank"])
def test_shapes_are_inferred(known):
    full = {"x": [3, 6, 4], "kernel": [4, 15], "recurrent_kernel": [5, 15], "initial_state": [3, 5]}
    shapes = {
        "all": full,
        "none": {name: None for name in full},
        "kernels": {**full, "x": [None, None, None], "initial_state": [None, None]},
        "rank": {name: [None] * len(shape) for name, shape in full.items()},
    }[known]
    expected = {
        "all": ([3, 6, 5], [3, 5]),
        "none": ([None, None, None], [None, None]),
        "kernels": ([None, None, 5], [None, 5]),
        "rank": ([None, None, None], [None, None]),
    }[known]

    @tf.function(input_signature=[tf.TensorSpec(shapes[name]) for name in full])
    def run(x, kernel, recurrent_kernel, initial_state):
        h, state = ops.gru(x, kernel, recurrent_kernel, initial_state=initial_state)
        return h, state, tf.gradients(h, [x, kernel, recurrent_kernel, initial_state])

    h, state, gradients = run.get_concrete_function().structured_outputs
    assert h.shape.as_list() == expected[0]
    assert state.shape.as_list() == expected[1]
    if known == "all":
        assert [g.shape.as_list() for g in gradients] == list(full.values())


def test_one_trace_serves_all_lengths_and_batches():
    _, tensors = make_layer()
    weights = {name: value for name, value in tensors.items() if name.endswith("kernel")}
    traces = []

    @tf.function(input_signature=[tf.TensorSpec([None, None, 4], tf.float64)])
    def run(x):
        traces.append(1)
        return ops.gru(x, **weights, zoneout=0.1, training=True, seed=tf.constant(SEED, tf.int64))

    for batch, steps in [(1, 1), (3, 6), (2, 9), (5, 2)]:
        x = tf.random.normal([batch, steps, 4], dtype=tf.float64)
        expected, _ = oracle.gru(x, **weights, zoneout=0.1, training=True, seed=SEED)
        assert_close(run(x)[0], expected, tf.float64, 30)
    assert len(traces) == 1


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("option", OPTIONS)
def test_compute_gradient(option, mode):
    """tf.test.compute_gradient, numerically, by every input that has a gradient."""
    _, tensors = make_layer(batch=3, steps=6, inputs=2, units=3)
    names = list(tensors)

    def run(*values):
        h, state = ops.gru(
            **dict(zip(names, values, strict=True)),
            **OPTIONS[option],
            training=True,
            seed=tf.constant(SEED, tf.int64),
        )
        return tf.concat([tf.reshape(h, [-1]), tf.reshape(state, [-1])], axis=0)

    run = tf.function(run) if mode == "graph" else run
    theoretical, numerical = tf.test.compute_gradient(run, [tensors[n] for n in names], delta=1e-5)
    for name, a, b in zip(names, theoretical, numerical, strict=True):
        # Central differences: an error of delta^2 and of eps / delta.
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-8, err_msg=name)


def test_gradient_of_one_output_alone():
    exact, tensors = make_layer()
    for which in (0, 1):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            loss = tf.reduce_sum(ops.gru(**tensors)[which] ** 2)
        gradients = tape.gradient(loss, tensors)
        with tf.GradientTape() as tape:
            tape.watch(exact)
            loss = tf.reduce_sum(oracle.gru(**exact)[which] ** 2)
        for name, expected in tape.gradient(loss, exact).items():
            assert_close(gradients[name], expected, tf.float64, 40)


def test_gradients_work_in_inference():
    exact, tensors = make_layer()
    op, loop = both(zoneout=0.3, training=False)
    assert_same_function(op, loop, exact, tensors, tf.float64)


def test_a_persistent_tape_gives_gradients_twice():
    _, tensors = make_layer()
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(tensors)
        h, state = ops.gru(**tensors)
    first = tape.gradient(h, tensors)
    tape.gradient(state, tensors)
    for name, gradient in tape.gradient(h, tensors).items():
        np.testing.assert_array_equal(gradient, first[name])


def test_second_derivatives_are_an_error():
    _, tensors = make_layer()
    x = tensors["x"]
    with pytest.raises(NotImplementedError, match="no second derivative"):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = tf.reduce_sum(ops.gru(**tensors)[0])
            dx = inner.gradient(loss, x)
        outer.gradient(dx, x)


@pytest.mark.parametrize("with_tape", [False, True])
def test_forward_mode_is_an_error(with_tape):
    _, tensors = make_layer()
    x = tensors["x"]
    with tf.GradientTape() as tape:
        if with_tape:
            tape.watch(x)
        with pytest.raises(NotImplementedError, match="gru_tf has no"):
            with tf.autodiff.ForwardAccumulator(x, x) as accumulator:
                h, _ = ops.gru(**tensors)
            accumulator.jvp(h)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_inputs_without_gradient_get_no_work(mode, monkeypatch):
    """dx of a first layer, above all: GruBackward is told what is wanted."""
    from gru_tf import _library

    wanted = []
    original = _library.library.gru_backward

    class Spy:
        def __getattr__(self, name):
            return getattr(_library.library, name)

        @staticmethod
        def gru_backward(**arguments):
            wanted.append(arguments["wanted"])
            results = original(**arguments)
            wanted.append([r.shape.num_elements() != 0 for r in results])
            return results

    monkeypatch.setattr(ops, "library", Spy())
    _, tensors = make_layer()
    kernel = tensors["kernel"]

    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            h, _ = ops.gru(**{**tensors, "x": x})
        return tape.gradient(h, kernel)

    (tf.function(run) if mode == "graph" else run)(tensors["x"])
    assert wanted == [[False, True, False, False, False, False]] * 2


def test_nothing_is_kept_where_no_gradient_is_asked_for(monkeypatch):
    from gru_tf import _library

    kept = []
    original = _library.library.gru_forward

    class Spy:
        def __getattr__(self, name):
            return getattr(_library.library, name)

        @staticmethod
        def gru_forward(**arguments):
            results = original(**arguments)
            kept.append(results[2].shape.num_elements())
            return results

    monkeypatch.setattr(ops, "library", Spy())
    _, tensors = make_layer()
    ops.gru(**tensors)
    with tf.GradientTape():
        ops.gru(**tensors)
    with tf.GradientTape() as tape:
        tape.watch(tensors["x"])
        ops.gru(**tensors)
        ops.gru(**tensors, recompute=True)
    assert kept == [0, 0, 4 * 6 * 3 * 5, 0]


PEAK = """
import resource, sys
import tensorflow as tf
from gru_tf import ops
steps, batch, units = 1024, 2048, 32
weights = [tf.random.normal([units, 3 * units], stddev=0.02) for _ in range(2)]
x = tf.random.normal([steps, batch, units])

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def train(x):
    with tf.GradientTape() as tape:
        tape.watch(weights)
        h, _ = ops.gru(x, *weights, time_major=True)
        loss = tf.reduce_sum(h)
    before = peak()
    tape.gradient(loss, weights)
    return before

@tf.function(reduce_retracing=True)
def infer(x):
    return ops.gru(x, *weights, time_major=True)

def inference(x):
    before = peak()
    infer(x)
    return before

run = {"train": train, "inference": inference}[sys.argv[1]]
run(x[:1])
run(x[:2])
before = run(x)
print((peak() - before) / (4 * 4 * steps * batch * units))
"""


def test_an_eager_backward_makes_no_zeros_for_the_reserve(run_python):
    """By what part of the reserve (1 GiB) the peak grows in backward: dh is a quarter, the
    workspace (512 MiB at most) a half; zeros for the reserve would add all of it."""
    growth = float(run_python(PEAK, "train").split()[-1])
    assert growth < 1, growth


def test_a_graph_for_inference_has_no_reserve(run_python):
    """The peak grows by the output, a quarter, and the workspace, a half at most; a reserve would
    add all."""
    growth = float(run_python(PEAK, "inference").split()[-1])
    assert growth < 1, growth
