# SPDX-License-Identifier: Apache-2.0
"""The modules stand where flax's RNN over a GRUCell stands, with its weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gru_jax
import gru_jax.linen
import gru_jax.nnx
import oracle
from support import assert_close, loss_of, make_layer, value_and_gradients

INPUTS, UNITS = 4, 5
LENGTHS = jnp.asarray([6, 1, 3])


def linen_cell(seed=1):
    """The weights of a flax.linen.GRUCell, with random biases."""
    cell = nn.GRUCell(UNITS, param_dtype=jnp.float64, bias_init=nn.initializers.normal(0.3))
    state, x = jnp.zeros((1, UNITS)), jnp.zeros((1, INPUTS))
    return cell.init(jax.random.key(seed), state, x)["params"]


def nnx_cell(seed=1):
    return nnx.GRUCell(
        INPUTS,
        UNITS,
        param_dtype=jnp.float64,
        bias_init=nnx.initializers.normal(0.3),
        rngs=nnx.Rngs(seed),
    )


def linen_layer(**options):
    """A function of the inputs and the cell's weights, made of our module."""
    layer = gru_jax.linen.GRU(UNITS, param_dtype=jnp.float64, **options)

    def apply(inputs, cell, **arguments):
        params = gru_jax.linen.from_cell(cell)._asdict()
        return layer.apply({"params": params}, inputs, **arguments)

    return apply


def nnx_layer(cell, **options):
    """Our module with the weights of a cell."""
    options = {"use_recurrent_bias": False, "param_dtype": jnp.float64, **options}
    layer = gru_jax.nnx.GRU(INPUTS, UNITS, rngs=nnx.Rngs(0), **options)
    layer.set_parameters(gru_jax.nnx.from_cell(cell))
    return layer


ORDERS = {
    "forward": {},
    "reverse": {"reverse": True},
    "reverse, kept in order": {"reverse": True, "keep_order": True},
}


def valid(outputs, lengths, time_major):
    """Without what lies beyond the lengths, which flax leaves undefined."""
    if lengths is None:
        return outputs
    steps = jnp.arange(outputs.shape[0 if time_major else 1])
    kept = (steps < lengths[:, None])[..., None]
    return jnp.where(jnp.swapaxes(kept, 0, 1) if time_major else kept, outputs, 0)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("in_call", [False, True])
def test_linen_module_equals_rnn(order, lengths, time_major, in_call):
    inputs, _, carry = make_layer(time_major=time_major)
    options = {**order, "time_major": time_major, "return_carry": True}
    at_construction, at_call = ({}, options) if in_call else (options, {})
    theirs = nn.RNN(nn.GRUCell(UNITS, param_dtype=jnp.float64), **at_construction)
    ours = linen_layer(**at_construction)

    def rnn(inputs, cell, **arguments):
        return theirs.apply({"params": {"cell": cell}}, inputs, **arguments)

    def called(function):
        def call(inputs, cell, carry):
            carry, outputs = function(
                inputs, cell, initial_carry=carry, seq_lengths=lengths, **at_call
            )
            return carry, valid(outputs, lengths, time_major)

        return value_and_gradients(call, inputs, linen_cell(), carry)

    assert_close(called(ours), called(rnn))


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("in_call", [False, True])
def test_nnx_module_equals_rnn(order, lengths, time_major, in_call):
    inputs, _, carry = make_layer(time_major=time_major)
    options = {**order, "time_major": time_major, "return_carry": True}
    at_construction, at_call = ({}, options) if in_call else (options, {})
    cell = nnx_cell()
    ours, theirs = nnx_layer(cell, **at_construction), nnx.RNN(cell, **at_construction)

    def called(module):
        def loss(module, inputs, carry):
            carry, outputs = module(inputs, initial_carry=carry, seq_lengths=lengths, **at_call)
            results = carry, valid(outputs, lengths, time_major)
            return loss_of(results), results

        (by_module, *gradients), results = nnx.grad(loss, argnums=(0, 1, 2), has_aux=True)(
            module, inputs, carry
        )
        return nnx.to_pure_dict(by_module), gradients, results

    (own, *ours), (by_rnn, *theirs) = called(ours), called(theirs)
    assert_close(ours, theirs)
    cell.dense_i.kernel[...] = by_rnn["cell"]["dense_i"]["kernel"]
    cell.dense_i.bias[...] = by_rnn["cell"]["dense_i"]["bias"]
    cell.dense_h.kernel[...] = by_rnn["cell"]["dense_h"]["kernel"]
    expected = gru_jax.nnx.from_cell(cell)._asdict()
    assert_close(own, {name: value for name, value in expected.items() if value is not None})


@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
@pytest.mark.parametrize("time_major", [False, True])
def test_any_number_of_batch_dimensions(batch, time_major):
    shape = (6, *batch, INPUTS) if time_major else (*batch, 6, INPUTS)
    inputs = jax.random.normal(jax.random.key(2), shape)
    options = {"time_major": time_major, "return_carry": True}
    theirs = nn.RNN(nn.GRUCell(UNITS, param_dtype=jnp.float64), **options)
    expected = theirs.apply({"params": {"cell": linen_cell()}}, inputs)
    assert_close(linen_layer(**options)(inputs, linen_cell()), expected)
    cell = nnx_cell()
    assert_close(nnx_layer(cell, **options)(inputs), nnx.RNN(cell, **options)(inputs))


def test_both_directions_by_flax_s_bidirectional():
    inputs, _, _ = make_layer(time_major=False)
    cells = linen_cell(1), linen_cell(2)

    def linen(layer, names, params):
        module = nn.Bidirectional(layer(), layer())
        return module.apply({"params": dict(zip(names, params, strict=True))}, inputs)

    theirs = linen(
        lambda: nn.RNN(nn.GRUCell(UNITS, param_dtype=jnp.float64)),
        ("forward_rnn", "backward_rnn"),
        [{"cell": cell} for cell in cells],
    )
    ours = linen(
        lambda: gru_jax.linen.GRU(UNITS, param_dtype=jnp.float64),
        ("forward_rnn", "backward_rnn"),
        [gru_jax.linen.from_cell(cell)._asdict() for cell in cells],
    )
    assert_close(ours, theirs)

    cells = nnx_cell(1), nnx_cell(2)
    theirs = nnx.Bidirectional(*(nnx.RNN(cell) for cell in cells))
    ours = nnx.Bidirectional(*(nnx_layer(cell) for cell in cells))
    assert_close(ours(inputs), theirs(inputs))


def test_linen_module_draws_from_the_stream_dropout():
    x, params, carry = make_layer(time_major=False)
    rates = {"zoneout": 0.3, "dropconnect": 0.2, "recurrent_dropout": 0.4}
    layer = gru_jax.linen.GRU(UNITS, return_carry=True, param_dtype=jnp.float64, **rates)
    variables = {"params": params._asdict()}
    inference = layer.apply(variables, x, initial_carry=carry, deterministic=True)
    h, h_last = oracle.gru(x, params, carry, time_major=False, **rates)
    assert_close(inference, (h_last, h))

    drawn = [
        layer.apply(variables, x, deterministic=False, rngs={"dropout": jax.random.key(seed)})[1]
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    with pytest.raises(ValueError, match="deterministic"):
        layer.apply(variables, x)


def test_nnx_module_draws_from_the_stream_dropout():
    x, params, _ = make_layer(time_major=False)
    layer = gru_jax.nnx.GRU(
        INPUTS, UNITS, zoneout=0.3, param_dtype=jnp.float64, rngs=nnx.Rngs(0, dropout=1)
    )
    layer.set_parameters(params)
    call = nnx.jit(lambda layer, x: layer(x))
    layer.train()
    one, two = call(layer, x), call(layer, x)
    assert not np.array_equal(one, two)
    again = layer(x, rngs=nnx.Rngs(dropout=5))
    np.testing.assert_array_equal(again, layer(x, rngs=nnx.Rngs(dropout=5)))
    layer.eval()
    assert_close(call(layer, x), oracle.gru(x, params, time_major=False, zoneout=0.3)[0])
    both = nnx.Bidirectional(layer, layer)
    both.train()
    assert not np.array_equal(both(x), both(x))


def test_modules_start_as_flax_s_cells_do():
    x = make_layer(time_major=False, dtype="float32")[0]
    layer = gru_jax.linen.GRU(UNITS)
    params = layer.init(jax.random.key(1), x)["params"]
    other = gru_jax.nnx.GRU(INPUTS, UNITS, rngs=nnx.Rngs(1)).parameters._asdict()
    for weights in (params, other):
        assert {name: (v.shape, v.dtype.name) for name, v in weights.items()} == {
            "kernel": ((INPUTS, 3 * UNITS), "float32"),
            "recurrent_kernel": ((UNITS, 3 * UNITS), "float32"),
            "bias": ((3 * UNITS,), "float32"),
            "recurrent_bias": ((3 * UNITS,), "float32"),
        }
        for gate in np.split(np.asarray(weights["recurrent_kernel"], np.float64), 3, axis=1):
            assert_close(gate @ gate.T, jnp.eye(UNITS), "float32")
        assert not np.any(weights["bias"]) and not np.any(weights["recurrent_bias"])
    without = gru_jax.linen.GRU(UNITS, use_bias=False, use_recurrent_bias=False)
    assert without.init(jax.random.key(1), x)["params"].keys() == {"kernel", "recurrent_kernel"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_modules_compute_in_dtype(dtype):
    x, params, carry = make_layer(time_major=False, dtype="float32")
    expected = gru_jax.gru(
        *jax.tree.map(lambda v: v.astype(dtype), (x, params, carry)), time_major=False
    )[0]
    layer = gru_jax.linen.GRU(UNITS, dtype=dtype)
    outputs = layer.apply({"params": params._asdict()}, x, initial_carry=carry)
    np.testing.assert_array_equal(outputs, expected)
    layer = gru_jax.nnx.GRU(INPUTS, UNITS, dtype=dtype, rngs=nnx.Rngs(0))
    layer.set_parameters(params)
    np.testing.assert_array_equal(layer(x, initial_carry=carry), expected)


def test_an_nnx_layer_takes_the_parameters_that_it_has():
    params = gru_jax.nnx.from_cell(nnx_cell())
    full = nnx_layer(nnx_cell(), use_recurrent_bias=True)
    assert not np.any(full.parameters.recurrent_bias)
    jax.tree.map(np.testing.assert_array_equal, full.parameters[:3], params[:3])
    with pytest.raises(ValueError, match="no recurrent_bias"):
        nnx_layer(nnx_cell()).set_parameters(full.parameters)


def test_parameters_of_other_shapes_are_refused_and_none_is_taken():
    layer = gru_jax.nnx.GRU(INPUTS, UNITS, rngs=nnx.Rngs(0))
    before = layer.parameters
    for change, message in (
        ({"kernel": jnp.ones((1, 3 * UNITS))}, r"kernel has shape \(1, 15\), must be \(4, 15\)"),
        ({"kernel": None}, "kernel has shape None"),
        ({"recurrent_bias": jnp.ones(())}, r"recurrent_bias has shape \(\)"),
    ):
        changed = jax.tree.map(lambda value: value + 1, before)._replace(**change)
        with pytest.raises(ValueError, match=message):
            layer.set_parameters(changed)
        jax.tree.map(np.testing.assert_array_equal, layer.parameters, before)


def test_initializers_may_bring_metadata():
    x = make_layer(time_major=False, dtype="float32")[0]
    by_nnx = nnx.with_metadata(nnx.initializers.lecun_normal(), note="ours")
    layer = gru_jax.nnx.GRU(INPUTS, UNITS, kernel_init=by_nnx, rngs=nnx.Rngs(1))
    assert layer.kernel.shape == (INPUTS, 3 * UNITS) and layer.kernel.note == "ours"
    plain = gru_jax.nnx.GRU(INPUTS, UNITS, rngs=nnx.Rngs(1))
    np.testing.assert_array_equal(layer(x), plain(x))
    by_linen = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
    layer = gru_jax.linen.GRU(UNITS, kernel_init=by_linen)
    variables = layer.init(jax.random.key(1), x)
    assert nn.get_partition_spec(variables)["params"]["kernel"] == jax.P(None, "model")
    np.testing.assert_array_equal(
        layer.apply(nn.unbox(variables), x),
        gru_jax.linen.GRU(UNITS).init_with_output(jax.random.key(1), x)[0],
    )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"inputs": jnp.zeros(INPUTS)}, "inputs has shape"),
        ({"inputs": jnp.zeros(())}, "inputs has shape"),
        ({"initial_carry": jnp.zeros((UNITS, 6))}, "initial_carry has shape"),
        ({"initial_carry": jnp.zeros((2, 3, UNITS + 1))}, "initial_carry has shape"),
        ({"seq_lengths": jnp.ones((3, 2), int)}, "seq_lengths has shape"),
        ({"episode_starts": jnp.zeros((6, 2, 3), bool)}, "episode_starts has shape"),
    ],
)
def test_arguments_of_other_shapes_are_refused(change, message):
    arguments = {"inputs": jnp.zeros((2, 3, 6, INPUTS)), **change}
    layer = gru_jax.linen.GRU(UNITS)
    variables = layer.init(jax.random.key(1), jnp.zeros((6, INPUTS)))
    with pytest.raises(ValueError, match=message):
        layer.apply(variables, arguments.pop("inputs"), **arguments)
    arguments = {"inputs": jnp.zeros((2, 3, 6, INPUTS)), **change}
    with pytest.raises(ValueError, match=message):
        gru_jax.nnx.GRU(INPUTS, UNITS, rngs=nnx.Rngs(0))(arguments.pop("inputs"), **arguments)


def test_weights_of_cells_come_back_unchanged():
    cell = linen_cell()
    there_and_back = gru_jax.linen.to_cell(gru_jax.linen.from_cell(cell))
    jax.tree.map(np.testing.assert_array_equal, there_and_back, cell)
    cell = nnx_cell()
    there_and_back = gru_jax.nnx.to_cell(gru_jax.nnx.from_cell(cell))
    states = (nnx.state(c, nnx.Param) for c in (there_and_back, cell))
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_both_biases_fold_into_a_cell():
    inputs, params, carry = make_layer()
    expected = gru_jax.gru(inputs, params, carry)[0]
    theirs = nn.RNN(nn.GRUCell(UNITS, param_dtype=jnp.float64), time_major=True)
    cell = {"cell": gru_jax.linen.to_cell(params)}
    assert_close(theirs.apply({"params": cell}, inputs, initial_carry=carry), expected)

    with pytest.raises(ValueError, match="no recurrent bias"):
        gru_jax.nnx.to_cell(params)
    params = params._replace(recurrent_bias=params.recurrent_bias.at[2 * UNITS :].set(0))
    expected = gru_jax.gru(inputs, params, carry)[0]
    theirs = nnx.RNN(gru_jax.nnx.to_cell(params), time_major=True)
    assert_close(theirs(inputs, initial_carry=carry), expected)


def test_a_cell_with_other_activations_is_refused():
    cell = nnx.GRUCell(INPUTS, UNITS, activation_fn=jax.nn.relu, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="activation_fn tanh"):
        gru_jax.nnx.from_cell(cell)


def test_resets_equal_the_scanned_rnn_of_reinforcement_learning():
    inputs, _, carry = make_layer()
    dones = jax.random.bernoulli(jax.random.key(3), 0.4, inputs.shape[:2])

    def scanned(inputs, cell, carry):
        def step(state, at):
            x, done = at
            state = jnp.where(done[:, None], jnp.zeros_like(state), state)
            return nn.GRUCell(UNITS, param_dtype=jnp.float64).apply({"params": cell}, state, x)

        return jax.lax.scan(step, carry, (inputs, dones))

    def ours(inputs, cell, carry):
        layer = linen_layer(time_major=True, return_carry=True)
        return layer(inputs, cell, initial_carry=carry, episode_starts=dones)

    arguments = inputs, linen_cell(), carry
    assert_close(value_and_gradients(ours, *arguments), value_and_gradients(scanned, *arguments))
