# SPDX-License-Identifier: Apache-2.0
"""gru_torch.GRU against torch.nn.GRU, and against the loop over steps for what torch.nn.GRU
lacks."""

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import oracle
import pytest
import torch
from support import assert_close, gradients_of
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gru_torch

STEPS, BATCH, INPUTS, UNITS = 7, 3, 4, 5
TERMS = STEPS * BATCH + 3 * UNITS
SHAPES = [
    {},
    {"bias": False},
    {"num_layers": 3},
    {"bidirectional": True},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
]


@pytest.fixture(params=SHAPES, ids=str)
def shape(request):
    return request.param


def pair(shape, **options):
    """(ours, torch.nn.GRU) in float64 with the same weights."""
    torch.manual_seed(1)
    theirs = torch.nn.GRU(INPUTS, UNITS, dtype=torch.float64, **shape)
    ours = gru_torch.GRU(INPUTS, UNITS, dtype=torch.float64, **shape, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def draw_inputs(layer):
    """(input, hx), leaves."""
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    shape = (BATCH, STEPS) if layer.batch_first else (STEPS, BATCH)
    x = torch.randn(*shape, INPUTS, dtype=torch.float64, requires_grad=True)
    hx = torch.randn(rows, BATCH, UNITS, dtype=torch.float64, requires_grad=True)
    return x, hx


def assert_equal(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, TERMS)


def assert_same_function(ours, theirs, actual, expected, leaves):
    assert_equal(actual, expected)
    assert_equal(
        gradients_of(actual, [*leaves, *ours.parameters()]),
        gradients_of(expected, [*leaves, *theirs.parameters()]),
    )


def test_parameters_are_those_of_nn_gru(shape):
    torch.manual_seed(3)
    theirs = torch.nn.GRU(INPUTS, UNITS, **shape)
    torch.manual_seed(3)
    ours = gru_torch.GRU(INPUTS, UNITS, **shape)
    mine, other = ours.state_dict(), theirs.state_dict()
    assert list(mine) == list(other)
    assert all(torch.equal(mine[name], other[name]) for name in mine)
    theirs.load_state_dict(mine)


@pytest.mark.parametrize("with_state", [True, False])
def test_values_and_gradients_are_those_of_nn_gru(shape, with_state):
    ours, theirs = pair(shape)
    x, hx = draw_inputs(ours)
    arguments = (x, hx) if with_state else (x,)
    assert_same_function(ours, theirs, ours(*arguments), theirs(*arguments), arguments)


def test_input_without_a_batch(shape):
    ours, theirs = pair(shape)
    x, hx = draw_inputs(ours)
    sample, state = x[0] if ours.batch_first else x[:, 0], hx[:, 0]
    expected = theirs(sample, state.contiguous())  # cuDNN takes no other
    assert_same_function(ours, theirs, ours(sample, state), expected, (x, hx))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_lengths_are_what_a_packed_sequence_is_to_nn_gru(shape, dtype):
    ours, theirs = pair(shape)
    x, hx = draw_inputs(ours)
    lengths = torch.tensor([4, 7, 1], dtype=dtype)
    batch_first = ours.batch_first
    packed = pack_padded_sequence(x, lengths.cpu(), batch_first, enforce_sorted=False)
    output, h_n = theirs(packed, hx)
    output, _ = pad_packed_sequence(output, batch_first=batch_first, total_length=STEPS)
    actual = ours(x, hx, lengths=lengths)
    assert_same_function(ours, theirs, actual, (output, h_n), (x, hx))


@pytest.mark.parametrize("lengths", [[7, 5, 2], [4, 7, 1]], ids=["sorted", "unsorted"])
def test_packed_sequences_are_those_of_nn_gru(shape, lengths):
    ours, theirs = pair(shape)
    x, hx = draw_inputs(ours)

    def run(layer):
        is_sorted = lengths[0] == STEPS
        packed = pack_padded_sequence(x, lengths, layer.batch_first, enforce_sorted=is_sorted)
        return layer(packed, hx)

    (actual, h_n), (expected, expected_h_n) = run(ours), run(theirs)
    for part in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        a, e = getattr(actual, part), getattr(expected, part)
        assert a is e is None or torch.equal(a, e)
    actual, expected = (actual.data, h_n), (expected.data, expected_h_n)
    assert_same_function(ours, theirs, actual, expected, (x, hx))


def test_packed_sequences_bring_their_lengths():
    packed = pack_padded_sequence(torch.zeros(7, 3, 4), [7, 5, 2])
    for options in ({"lengths": torch.ones(3)}, {"episode_starts": torch.zeros(7, 3).bool()}):
        with pytest.raises(ValueError, match="neither lengths nor episode_starts"):
            gru_torch.GRU(INPUTS, UNITS)(packed, **options)


def test_episode_starts_are_runs_of_nn_gru_from_start_to_start():
    ours, theirs = pair({"num_layers": 1})
    x, hx = draw_inputs(ours)
    starts = torch.zeros(STEPS, BATCH, dtype=torch.bool)
    starts[2], starts[5] = True, True
    first, _ = theirs(x[:2], hx)
    second, _ = theirs(x[2:5])
    third, h_n = theirs(x[5:])
    expected = (torch.cat([first, second, third]), h_n)
    actual = ours(x, hx, episode_starts=starts)
    assert_same_function(ours, theirs, actual, expected, (x, hx))


@pytest.mark.parametrize("batch_first", [False, True])
def test_steps_are_the_whole_sequence(batch_first):
    ours, _ = pair({"num_layers": 2, "batch_first": batch_first})
    x, hx = draw_inputs(ours)
    starts = torch.rand(x.shape[:2]) < 0.2
    time = 1 if batch_first else 0
    outputs, state = [], hx
    for step_x, step_starts in zip(x.unbind(time), starts.unbind(time), strict=True):
        output, state = ours.step(step_x, state, episode_starts=step_starts)
        outputs.append(output)
    actual = (torch.stack(outputs, time), state)
    assert_same_function(ours, ours, actual, ours(x, hx, episode_starts=starts), (x, hx))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_steps_of_16_bits_with_a_float32_state_are_the_whole_sequence(dtype):
    ours = gru_torch.GRU(INPUTS, UNITS, dtype=dtype)
    x = torch.randn(STEPS, BATCH, INPUTS, dtype=dtype)
    hx = torch.randn(1, BATCH, UNITS, requires_grad=True)
    outputs, state = [], hx
    for step_x in x:
        output, state = ours.step(step_x, state)
        outputs.append(output)
    expected, h_n = ours(x, hx)
    assert state.dtype == torch.float32
    assert_close(state, h_n, TERMS)
    assert_close(torch.stack(outputs), expected, 1)
    (actual,) = torch.autograd.grad(state.sum(), hx)
    (gradient,) = torch.autograd.grad(h_n.sum(), hx)
    assert_close(actual.to(dtype), gradient, TERMS)  # a sequence's backward reads h of 16 bits


def test_what_is_no_single_step_raises_value_error():
    x = torch.zeros(BATCH, INPUTS)
    with pytest.raises(ValueError, match="bidirectional"):
        gru_torch.GRU(INPUTS, UNITS, bidirectional=True).step(x)
    with pytest.raises(ValueError, match="3 dimensions"):
        gru_torch.GRU(INPUTS, UNITS).step(x[None])
    with pytest.raises(ValueError, match="episode_starts has shape"):
        gru_torch.GRU(INPUTS, UNITS).step(x, episode_starts=torch.zeros(2, dtype=torch.bool))


def seeds_drawn(layer):
    """The seeds that the layer draws next, one for each layer and direction."""
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    with torch.random.fork_rng():
        return layer._seeds(rows, torch.get_default_device(), None)


RATES = [{"zoneout": 0.3}, {"dropconnect": 0.4}, {"recurrent_dropout": 0.2}]
RATES += [{"zoneout": 0.2, "dropconnect": 0.1, "recurrent_dropout": 0.3, "reset_after": False}]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", RATES, ids=str)
def test_regularized_layers_are_the_loop_over_steps(options, training):
    ours, _ = pair({"num_layers": 2, "bidirectional": True}, **options)
    ours.train(training)
    x, hx = draw_inputs(ours)
    starts = torch.rand(STEPS, BATCH) < 0.2
    lengths = torch.tensor([7, 0, 4])
    common = {"lengths": lengths, "episode_starts": starts, **options}
    seeds = seeds_drawn(ours)
    assert (seeds is not None) == training
    layer_input, finals = x, []
    for layer in range(2):
        outputs = []
        for reverse in (False, True):
            suffix = f"_l{layer}" + "_reverse" * reverse
            names = [name + suffix for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            weights = [getattr(ours, name) for name in names]
            seed = seeds[len(finals)] if training else None
            h, final_state = oracle.gru(
                layer_input, *weights, hx[len(finals)], seed=seed, reverse=reverse, **common
            )
            outputs.append(h)
            finals.append(final_state)
        layer_input = torch.cat(outputs, dim=-1)
    expected = (layer_input, torch.stack(finals))
    actual = ours(x, hx, lengths=lengths, episode_starts=starts)
    assert_same_function(ours, ours, actual, expected, (x, hx))


def test_recompute_changes_no_gradient():
    ours, theirs = pair({"num_layers": 2}, recompute=True)
    x, hx = draw_inputs(ours)
    assert_same_function(ours, theirs, ours(x, hx), theirs(x, hx), (x, hx))


def test_dropout_between_layers_is_that_of_nn_gru_in_inference_and_drops_in_training():
    ours, theirs = pair({"num_layers": 2, "dropout": 0.5})
    x, hx = draw_inputs(ours)
    assert not torch.equal(ours(x, hx)[0], ours(x, hx)[0])
    ours.eval(), theirs.eval()
    assert_equal(ours(x, hx), theirs(x, hx))
    theirs.train().dropout = 0.0  # the same function; cuDNN gives gradients in training alone
    assert_same_function(ours, theirs, ours(x, hx), theirs(x, hx), (x, hx))


def test_masks_follow_the_seed_and_the_generator():
    ours, _ = pair({}, zoneout=0.5)
    x, _ = draw_inputs(ours)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(ours(x)[0])
    for seed in (1, 1, 2):
        generator = torch.Generator(x.device).manual_seed(seed)
        results.append(ours(x, generator=generator)[0])
    assert torch.equal(results[0], results[1]) and torch.equal(results[3], results[4])
    assert not torch.equal(results[0], results[2]) and not torch.equal(results[3], results[5])
    assert not torch.equal(ours(x)[0], ours(x)[0])


@pytest.mark.parametrize("rate", [0.4, 1.0])
def test_the_generator_draws_the_masks_of_dropout_too(rate):
    ours, _ = pair({"num_layers": 2}, zoneout=0.5)
    x, _ = draw_inputs(ours)
    ours.dropout = rate
    first, again, other = (
        ours(x, generator=torch.Generator(x.device).manual_seed(seed))[0] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    # The first layer's outputs reach the second as that much was dropped of them, and scaled.
    dropped = ours._dropout(torch.ones(1000, dtype=x.dtype), torch.Generator(x.device))
    kept = dropped != 0
    assert abs(kept.double().mean().item() - (1 - rate)) < 0.07
    assert torch.equal(dropped[kept], torch.full_like(dropped[kept], 1 / (1 - rate or 1)))


def test_lengths_and_episode_starts_may_be_lists():
    ours, _ = pair({})
    x, hx = draw_inputs(ours)
    starts = (torch.rand(STEPS, BATCH) < 0.3).tolist()
    expected = ours(x, hx, lengths=torch.tensor([4, 7, 1]), episode_starts=torch.tensor(starts))
    assert all(map(torch.equal, ours(x, hx, lengths=[4, 7, 1], episode_starts=starts), expected))


def test_checkpointing_draws_the_same_masks_again():
    ours, _ = pair({}, zoneout=0.5, dropconnect=0.3)
    x, hx = draw_inputs(ours)
    torch.manual_seed(5)
    expected = gradients_of(ours(x, hx), [x, hx, *ours.parameters()])
    torch.manual_seed(5)
    outputs = torch.utils.checkpoint.checkpoint(ours, x, hx, use_reentrant=False)
    assert_equal(gradients_of(outputs, [x, hx, *ours.parameters()]), expected)


def test_copies_and_files_keep_the_function(shape):
    ours, _ = pair(shape, zoneout=0.25)
    ours.eval()
    x, hx = draw_inputs(ours)
    expected = ours(x, hx)
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    copies = [copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))]
    copies += [torch.load(file, weights_only=False)]
    for layer in copies:
        assert_equal(layer(x, hx), expected)
        assert repr(layer) == repr(ours)
    assert "zoneout=0.25" in repr(ours)


@pytest.mark.parametrize("convert", ["half", "bfloat16", "float"])
def test_layers_run_in_every_type(shape, convert):
    ours, _ = pair(shape)
    x, hx = draw_inputs(ours)
    converted = getattr(copy.deepcopy(ours), convert)()
    dtype = converted.weight_ih_l0.dtype
    ours.load_state_dict(converted.state_dict())
    low_x, low_hx = x.to(dtype), hx.to(dtype)
    actual = converted(low_x, low_hx)
    for a, e in zip(actual, ours(low_x.double(), low_hx.double()), strict=True):
        assert a.dtype == dtype
        assert_close(a, e, TERMS)


def values_and_gradients(layer, x):
    outputs = layer(x)
    return [*outputs, *torch.autograd.grad(outputs[0].square().sum(), [x, *layer.parameters()])]


def test_threads_do_not_disturb_each_other():
    ours, _ = pair({"num_layers": 2, "bidirectional": True})
    inputs = [draw_inputs(ours)[0] for _ in range(8)]
    expected = [values_and_gradients(ours, x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        actual = list(pool.map(values_and_gradients, [ours] * len(inputs), inputs))
    for a, e in zip(actual, expected, strict=True):
        assert all(map(torch.equal, a, e))


def test_deterministic_mode_changes_nothing():
    """PyTorch fills new memory with NaN in this mode: nothing is read before it is written."""
    ours, _ = pair({"num_layers": 2, "bidirectional": True}, zoneout=0.2)
    ours.eval()
    x, _ = draw_inputs(ours)
    expected = values_and_gradients(ours, x)
    torch.use_deterministic_algorithms(True)
    try:
        actual = values_and_gradients(ours, x)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(map(torch.equal, actual, expected))


@pytest.mark.parametrize("steps, batch", [(STEPS, 0), (0, BATCH)])
def test_there_may_be_no_samples_and_no_steps(steps, batch):
    ours, _ = pair({"num_layers": 2, "bidirectional": True})
    hx = torch.randn(4, batch, UNITS, dtype=torch.float64)
    output, h_n = ours(torch.zeros(steps, batch, INPUTS, dtype=torch.float64), hx)
    assert output.shape == (steps, batch, 2 * UNITS)
    assert h_n.shape == hx.shape
    assert steps > 0 or torch.equal(h_n, hx)


def test_the_meta_device_gives_shapes(shape):
    ours, theirs = (layer.to("meta") for layer in pair(shape))
    x = torch.zeros(STEPS, BATCH, INPUTS, dtype=torch.float64, device="meta")
    assert [t.shape for t in ours(x)] == [t.shape for t in theirs(x)]


def test_the_meta_device_mixes_with_no_other(device):
    x = torch.zeros(STEPS, BATCH, INPUTS)
    layer = gru_torch.GRU(INPUTS, UNITS)
    with pytest.raises(ValueError, match=f"w_ih is on meta, but x is on {x.device}"):
        copy.deepcopy(layer).to("meta")(x)
    with pytest.raises(ValueError, match=f"w_ih is on {x.device}, but x is on meta"):
        layer(x.to("meta"))
    with pytest.raises(ValueError, match="lengths is on meta"):
        layer(x, lengths=torch.ones(BATCH, dtype=torch.int32, device="meta"))


def test_functional_call_parametrizations_and_tied_weights():
    ours, theirs = pair({})
    x, hx = draw_inputs(ours)
    doubled = {name: 2 * value.detach() for name, value in ours.named_parameters()}
    actual = torch.func.functional_call(ours, doubled, (x, hx))
    assert_equal(actual, torch.func.functional_call(theirs, doubled, (x, hx)))

    other, _ = pair({})
    with torch.no_grad():
        other.weight_hh_l0.mul_(3)
    other.weight_hh_l0 = ours.weight_hh_l0
    assert_equal(other(x, hx), ours(x, hx))

    expected = ours(x, hx)
    # One norm for all rows: for one a row, PyTorch's CUDA kernel takes float32 roots of float64.
    torch.nn.utils.parametrizations.weight_norm(ours, "weight_hh_l0", dim=None)
    assert_equal(ours(x, hx), expected)
    ours.parametrizations.weight_hh_l0.original0.data.mul_(2)
    theirs.weight_hh_l0.data.mul_(2)
    assert_equal(ours(x, hx), theirs(x, hx))


def test_frozen_parameters_get_no_gradient():
    ours, _ = pair({"num_layers": 2})
    ours.weight_hh_l0.requires_grad_(False)
    x, _ = draw_inputs(ours)
    ours(x)[0].sum().backward()
    assert ours.weight_hh_l0.grad is None
    assert all(p.grad is not None for p in ours.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((torch.zeros(7, 3, 4, 1),), {}, "4 dimensions"),
        ((torch.zeros(7, 3, 6),), {}, "w_ih has shape"),
        ((torch.zeros(7, 3, 4), torch.zeros(2, 3, 5)), {}, "hx has shape"),
        ((torch.zeros(7, 3, 4), torch.zeros(1, 2, 5)), {}, "h0 has shape"),
        ((torch.zeros(7, 4), torch.zeros(1, 3, 5)), {}, "hx has 3 dimensions"),
        ((torch.zeros(7, 4),), {"lengths": torch.tensor([2])}, "lengths are for a batch"),
        ((torch.zeros(7, 3, 4).double(),), {}, "w_ih is of type"),
    ],
)
def test_bad_inputs_raise_value_error(arguments, options, message, device):
    arguments = [argument.to(device) for argument in arguments]
    with pytest.raises(ValueError, match=message):
        gru_torch.GRU(INPUTS, UNITS)(*arguments, **options)


@pytest.mark.parametrize("name", ["zoneout", "dropconnect", "recurrent_dropout", "dropout"])
def test_bad_rates_raise_value_error(name):
    with pytest.raises(ValueError, match=name):
        gru_torch.GRU(INPUTS, UNITS, **{name: 1.5})
