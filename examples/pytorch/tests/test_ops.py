# SPDX-License-Identifier: Apache-2.0
"""The op against a plain loop over steps, PyTorch's own checks of ops, and its errors."""

import oracle
import pytest
import torch
from support import DTYPES, as_leaves, assert_close, gradients_of, make_layer, on_device, terms_of

from gru_torch import ops

SEED = torch.tensor([-5, 2**40 + 3])
STARTS = torch.tensor([[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1], [0, 0, 1], [1, 0, 0]]).bool()
OPTIONS = {
    "plain": {},
    "reverse": {"reverse": True},
    "reset before": {"reset_after": False},
    "lengths": {"lengths": torch.tensor([6, 0, 3], dtype=torch.int32)},
    "lengths beyond int32": {"lengths": torch.tensor([2**40, -(2**40), 3])},
    "episode starts": {"episode_starts": STARTS},
    "zoneout in inference": {"zoneout": 0.3},
    "zoneout": {"zoneout": 0.3, "seed": SEED},
    "dropconnect": {"dropconnect": 0.4, "seed": SEED},
    "recurrent dropout": {"recurrent_dropout": 0.4, "seed": SEED},
    "all": {
        "lengths": torch.tensor([5, 6, 3], dtype=torch.int32),
        "episode_starts": STARTS,
        "seed": SEED,
        "zoneout": 0.2,
        "dropconnect": 0.3,
        "recurrent_dropout": 0.1,
        "reset_after": False,
        "reverse": True,
    },
}


@pytest.fixture(params=OPTIONS.values(), ids=OPTIONS.keys())
def options(request):
    return on_device(request.param)


def batch_major(tensors, options):
    tensors = {**tensors, "x": tensors["x"].transpose(0, 1)}
    options = {**options, "batch_first": True}
    if "episode_starts" in options:
        options["episode_starts"] = options["episode_starts"].T
    return tensors, options


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients_are_those_of_a_loop_over_steps(options, dtype):
    expected_in = make_layer(dtype=dtype)
    actual_in = as_leaves(expected_in, dtype)
    expected = oracle.gru(**expected_in, **options)
    actual = ops.gru(**actual_in, **options)
    terms = terms_of(expected_in)
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, terms)
    expected_gradients = gradients_of(expected, expected_in.values())
    for a, e in zip(gradients_of(actual, actual_in.values()), expected_gradients, strict=True):
        assert_close(a, e, terms)


def test_batch_major_is_time_major_transposed(options):
    leaves = make_layer()
    expected = ops.gru(**leaves, **options)
    transposed, batch_options = batch_major(leaves, options)
    h, final_state = ops.gru(**transposed, **batch_options)
    actual = (h.transpose(0, 1), final_state)
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, 1)
    gradients = gradients_of(actual, leaves.values())
    for a, e in zip(gradients, gradients_of(expected, leaves.values()), strict=True):
        assert_close(a, e, terms_of(leaves))


def test_recompute_gives_the_same_gradients(options):
    leaves = make_layer()
    kept = gradients_of(ops.gru(**leaves, **options), leaves.values())
    computed_again = gradients_of(ops.gru(**leaves, **options, recompute=True), leaves.values())
    for a, e in zip(computed_again, kept, strict=True):
        assert_close(a, e, terms_of(leaves))


def test_optional_inputs_may_be_left_out():
    leaves = make_layer()
    few = {name: leaves[name] for name in ("x", "w_ih", "w_hh")}
    actual, expected = ops.gru(**few), oracle.gru(**few)
    gradients = gradients_of(expected, few.values())
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, terms_of(leaves))
    for a, e in zip(gradients_of(actual, few.values()), gradients, strict=True):
        assert_close(a, e, terms_of(leaves))


def test_gradients_are_given_for_the_inputs_that_want_one_alone():
    leaves = make_layer()
    frozen = {k: v if k == "w_hh" else v.detach() for k, v in leaves.items()}
    all_gradients = gradients_of(ops.gru(**leaves), leaves.values())
    (alone,) = gradients_of(ops.gru(**frozen), [frozen["w_hh"]])
    torch.testing.assert_close(alone, all_gradients[2])


def test_one_output_is_enough_for_gradients():
    leaves = make_layer()
    for index in range(2):
        actual = gradients_of([ops.gru(**leaves)[index]], leaves.values())
        expected = gradients_of([oracle.gru(**leaves)[index]], leaves.values())
        for a, e in zip(actual, expected, strict=True):
            assert_close(a, e, terms_of(leaves))


def test_inputs_need_not_be_contiguous():
    leaves = make_layer()
    strided = {k: v.T.contiguous().T if v.dim() == 2 else v for k, v in leaves.items()}
    strided["x"] = torch.cat([leaves["x"], leaves["x"]], dim=-1)[..., :4]
    for a, e in zip(ops.gru(**strided), ops.gru(**leaves), strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=0)


@pytest.mark.parametrize("steps, batch", [(0, 3), (6, 0), (0, 0)])
def test_there_may_be_no_steps_and_no_samples(steps, batch):
    leaves = make_layer(steps, batch)
    options = {
        "lengths": torch.zeros(batch, dtype=torch.int32),
        "episode_starts": torch.zeros(steps, batch, dtype=torch.bool),
        "seed": torch.tensor([1, 2]),
        "zoneout": 0.5,
    }
    h, final_state = ops.gru(**leaves, **options)
    assert h.shape == (steps, batch, 5)
    torch.testing.assert_close(final_state, leaves["h0"])
    gradients = torch.autograd.grad(h.sum() + final_state.sum(), leaves.values())
    for gradient, leaf in zip(gradients[:5], leaves.values(), strict=False):
        torch.testing.assert_close(gradient, torch.zeros_like(leaf))
    torch.testing.assert_close(gradients[5], torch.ones_like(leaves["h0"]))


def test_gradcheck(options):
    leaves = make_layer(units=3)

    def function(*tensors):
        return ops.gru(*tensors, **options)

    assert torch.autograd.gradcheck(function, tuple(leaves.values()))


def op_arguments(options, keep_reserve, dtype=torch.float32):
    """The positional arguments of torch.ops.gru_torch.forward, with inputs that need no gradient:
    it is gru_torch.ops.gru that has one."""
    tensors = [t.detach().to(dtype) for t in make_layer().values()]
    lengths = options.get("lengths")
    tensors += [lengths if lengths is None else lengths.int()]
    tensors += [options.get("episode_starts"), options.get("seed")]
    rates = [options.get(k, 0.0) for k in ("zoneout", "dropconnect", "recurrent_dropout")]
    reset_after, reverse = options.get("reset_after", True), options.get("reverse", False)
    return (*tensors, *rates, reset_after, reverse, False, keep_reserve)


def without_padding(arguments):
    """`arguments` with every sequence as long as x. At padded steps nothing is written to the
    reserve, and opcheck compares all of every output."""
    x, lengths = arguments[0], arguments[6]
    if lengths is None:
        return arguments
    return (*arguments[:6], torch.full_like(lengths, len(x)), *arguments[7:])


def check_ops(arguments, reserve_values):
    comparable = without_padding(arguments) if reserve_values else arguments
    torch.library.opcheck(torch.ops.gru_torch.forward, comparable)
    h, final_state, reserve = torch.ops.gru_torch.forward(*arguments)
    assert reserve.numel() == reserve_values
    ones = torch.ones_like(final_state)
    for dh, wanted in ((torch.ones_like(h), [True] * 6), (None, [False, True] * 3)):
        incoming = (h, reserve, dh, ones, wanted)
        torch.library.opcheck(torch.ops.gru_torch.backward, (*arguments, *incoming))


@pytest.mark.parametrize("keep_reserve", [True, False])
def test_opcheck(options, keep_reserve):
    check_ops(op_arguments(options, keep_reserve), 6 * 3 * 4 * 5 if keep_reserve else 0)


def test_opcheck_with_a_float32_state_of_16_bits():
    arguments = list(op_arguments({}, True, torch.bfloat16))
    arguments[5] = arguments[5].float()  # h0
    check_ops(tuple(arguments), 6 * 3 * 4 * 5)


def test_second_derivatives_raise():
    leaves = make_layer()
    h, _ = ops.gru(**leaves)
    (gradient,) = torch.autograd.grad(h.square().sum(), leaves["x"], create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        gradient.sum().backward()


def test_forward_mode_raises():
    leaves = {k: v.detach() for k, v in make_layer().items()}

    def function(x):
        return ops.gru(**{**leaves, "x": x})

    with pytest.raises((NotImplementedError, RuntimeError), match="jvp|forward mode"):
        torch.func.jvp(function, (leaves["x"],), (leaves["x"],))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(leaves["x"], leaves["x"])
        with pytest.raises((NotImplementedError, RuntimeError), match="jvp|forward mode"):
            function(dual)


def loss_of(options):
    def loss(*tensors):
        h, final_state = ops.gru(*tensors, **options)
        return h.square().sum() + final_state.sum()

    return loss


def test_torch_func_grad(options):
    leaves = tuple(v.detach() for v in make_layer().values())
    actual = torch.func.grad(loss_of(options), argnums=tuple(range(6)))(*leaves)
    tracked = [v.clone().requires_grad_() for v in leaves]
    expected = torch.autograd.grad(loss_of(options)(*tracked), tracked)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_torch_vmap_and_gradients_of_each_sample():
    layers = [tuple(v.detach() for v in make_layer(seed=seed).values()) for seed in (1, 2, 3)]
    stacked = tuple(torch.stack(tensors) for tensors in zip(*layers, strict=True))
    loss = loss_of(on_device({**OPTIONS["lengths"], **OPTIONS["zoneout"]}))
    torch.testing.assert_close(
        torch.vmap(loss)(*stacked), torch.stack([loss(*layer) for layer in layers])
    )
    gradient = torch.func.grad(loss, argnums=(0, 1, 2))
    actual = torch.vmap(gradient)(*stacked)
    expected = [torch.stack(g) for g in zip(*[gradient(*v) for v in layers], strict=True)]
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)

    def total(*tensors):
        return torch.vmap(loss)(*tensors).sum()

    for a, e in zip(torch.func.grad(total, argnums=(0, 1, 2))(*stacked), expected, strict=True):
        torch.testing.assert_close(a, e)


def test_the_same_seed_draws_the_same_masks_and_another_seed_others():
    leaves = make_layer()
    first, again, other = (
        ops.gru(**leaves, zoneout=0.5, seed=torch.tensor(seed))[0]
        for seed in ([1, 2], [1, 2], [1, 3])
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_number_of_threads_changes_no_bit():
    leaves = make_layer(steps=9, batch=17, inputs=33, units=65, dtype=torch.float32)
    tensors = as_leaves(leaves, torch.float32)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 4):
        torch.set_num_threads(count)
        outputs = ops.gru(**tensors)
        results.append([*outputs, *gradients_of(outputs, tensors.values())])
    torch.set_num_threads(threads)
    for a, e in zip(*results, strict=True):
        assert torch.equal(a, e)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(6, 4)}, "x has shape"),
        ({"w_ih": torch.zeros(15, 3)}, "w_ih has shape"),
        ({"w_hh": torch.zeros(15)}, "w_hh has shape"),
        ({"b_hh": torch.zeros(14)}, "b_hh has shape"),
        ({"h0": torch.zeros(2, 5)}, "h0 has shape"),
        ({"h0": torch.zeros(3, 5, dtype=torch.float64)}, "h0 is of type"),
        ({"lengths": torch.zeros(2, dtype=torch.int32)}, "lengths has shape"),
        ({"lengths": torch.zeros(3)}, "lengths is of type"),
        ({"episode_starts": torch.zeros(3, 6, dtype=torch.bool)}, "episode_starts has shape"),
        ({"seed": torch.zeros(2)}, "seed is of type"),
        ({"zoneout": 1.0}, "zoneout rate"),
        ({"dropconnect": -0.1}, "dropconnect rate"),
    ],
)
def test_bad_inputs_raise_value_error(change, message):
    tensors = as_leaves(make_layer(), torch.float32)
    with pytest.raises(ValueError, match=message):
        ops.gru(**{**tensors, **on_device(change)})


def test_types_that_there_are_not_raise_type_error():
    tensors = {k: v.detach().to(torch.int32) for k, v in make_layer().items()}
    with pytest.raises(TypeError, match="float16, bfloat16, float32 or float64"):
        ops.gru(**tensors)
