# SPDX-License-Identifier: Apache-2.0
"""What only a GPU shows: streams, graphs, autocast, devices."""

import copy

import pytest
import torch
from support import assert_close

import gru_torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

STEPS, BATCH, INPUTS, UNITS = 20, 33, 40, 256
TERMS = STEPS * BATCH + 3 * UNITS


@pytest.fixture(autouse=True, params=["cuda"])
def device(request):
    torch.manual_seed(20261123)
    with torch.device(request.param) as device:
        yield device


def run(layer, x, **options):
    """Outputs and gradients."""
    outputs = layer(x, **options)
    return [*outputs, *torch.autograd.grad(outputs[0].float().square().sum(), layer.parameters())]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_gpu_gives_the_numbers_of_the_cpu(dtype):
    """On a shape that the persistent engines run, where there is one for the type."""
    layer = gru_torch.GRU(INPUTS, UNITS, 2, zoneout=0.1).to(dtype).eval()
    x = torch.randn(STEPS, BATCH, INPUTS).to(dtype)
    options = {
        "lengths": torch.randint(0, STEPS + 1, (BATCH,)),
        "episode_starts": torch.rand(STEPS, BATCH) < 0.1,
    }
    actual = run(layer, x, **options)
    wide = copy.deepcopy(layer).double().cpu()
    expected = run(wide, x.double().cpu(), **{k: v.cpu() for k, v in options.items()})
    for a, e in zip(actual, expected, strict=True):
        assert_close(a.cpu(), e, TERMS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_on_the_cpu_give_what_lengths_on_the_gpu_do(dtype, reverse):
    """With as many rows as engines sort, so that they spare the product with x what is past them."""
    steps, batch = 64, 300
    tensors = [
        torch.randn(shape, dtype=dtype) / 8
        for shape in [(steps, batch, 24), (3 * UNITS, 24), (3 * UNITS, UNITS)]
    ]
    tensors = [tensor.requires_grad_() for tensor in tensors]
    lengths = torch.randint(0, steps + 1, (batch,))
    results = []
    for given in (lengths, lengths.cpu(), lengths.tolist(), lengths.int().cpu()):
        h, final_state = gru_torch.ops.gru(*tensors, lengths=given, reverse=reverse)
        gradients = torch.autograd.grad(h.float().square().sum(), tensors)
        results.append([h, final_state, *gradients])
    for other in results[1:]:
        for a, e in zip(other, results[0], strict=True):
            assert_close(a, e, 1000)


def test_masks_are_those_of_the_cpu():
    tensors = [torch.randn(s, dtype=torch.float64) for s in [(6, 3, 4), (15, 4), (15, 5)]]
    options = {"zoneout": 0.3, "dropconnect": 0.2, "recurrent_dropout": 0.1}
    seed = torch.tensor([3, 4])
    actual, _ = gru_torch.ops.gru(*tensors, seed=seed, **options)
    expected, _ = gru_torch.ops.gru(*(t.cpu() for t in tensors), seed=seed.cpu(), **options)
    assert_close(actual.cpu(), expected, 100)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_gives_the_numbers_of_the_type_in_force(dtype):
    layer = gru_torch.GRU(INPUTS, UNITS)
    x = torch.randn(STEPS, BATCH, INPUTS)
    low = copy.deepcopy(layer).to(dtype)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    with torch.autocast("cuda", dtype):
        actual, in_a_graph = run(layer, x), compiled(x)
    for a, e in zip(actual, run(low, x.to(dtype)), strict=True):
        assert torch.equal(a, e.to(a.dtype))
    assert in_a_graph[0].dtype == actual[0].dtype == dtype
    assert torch.equal(in_a_graph[0], actual[0])


def test_work_is_enqueued_on_the_current_stream():
    layer, stream = gru_torch.GRU(INPUTS, UNITS).eval(), torch.cuda.Stream()
    x = torch.zeros(STEPS, BATCH, INPUTS)
    values = torch.randn_like(x)
    with torch.cuda.stream(stream):
        expected, _ = layer(values)  # allocates what the stream needs
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10**9)
        x.copy_(values)
        output, _ = layer(x)
    assert not stream.query()
    stream.synchronize()
    assert torch.equal(output, expected)


def warmed_up(function):
    """Calls it on a stream aside, as PyTorch asks for before a capture."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream().wait_stream(stream)


@torch.no_grad()
def test_a_captured_step_acts_as_the_whole_sequence():
    layer = gru_torch.GRU(INPUTS, UNITS, 2).eval()
    x, starts = torch.randn(STEPS, BATCH, INPUTS), torch.rand(STEPS, BATCH) < 0.2
    expected, h_n = layer(x, episode_starts=starts)

    state = torch.zeros(2, BATCH, UNITS)
    step_x, step_starts = x[0].clone(), starts[0].clone()

    def act():
        output, new_state = layer.step(step_x, state, episode_starts=step_starts)
        state.copy_(new_state)
        return output

    warmed_up(act)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = act()
    state.zero_()
    for t in range(STEPS):
        step_x.copy_(x[t])
        step_starts.copy_(starts[t])
        graph.replay()
        assert_close(output, expected[t].double(), TERMS)
    assert_close(state, h_n.double(), TERMS)


def test_a_captured_training_step_draws_new_masks():
    layer = gru_torch.GRU(INPUTS, UNITS, zoneout=0.5, dropconnect=0.2)
    x = torch.randn(STEPS, BATCH, INPUTS)
    warmed_up(lambda: run(layer, x))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run(layer, x)

    def replayed(seed):
        torch.manual_seed(seed)
        graph.replay()
        return [result.clone() for result in results]

    first, again, other = replayed(1), replayed(1), replayed(2)
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))
    torch.manual_seed(1)
    assert all(map(torch.equal, first, run(layer, x)))


def test_tensors_on_two_devices_raise_value_error():
    layer = gru_torch.GRU(INPUTS, UNITS)
    x = torch.zeros(STEPS, BATCH, INPUTS)
    with pytest.raises(ValueError, match="episode_starts is on cpu"):
        layer(x, episode_starts=torch.zeros(STEPS, BATCH, dtype=torch.bool, device="cpu"))
    with pytest.raises(ValueError, match="h0 is on cpu"):
        layer(x, torch.zeros(1, BATCH, UNITS, device="cpu"))
    with pytest.raises(ValueError, match="x is on cpu"):
        layer(x.cpu())
    with pytest.raises(ValueError, match="w_ih is on cpu"):
        copy.deepcopy(layer).cpu()(x)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_layer_runs_on_the_device_of_its_tensors_whichever_is_current():
    layer = gru_torch.GRU(INPUTS, UNITS).eval()
    x = torch.randn(STEPS, BATCH, INPUTS)
    expected = run(layer, x)
    actual = run(copy.deepcopy(layer).to("cuda:1"), x.to("cuda:1"))
    assert torch.cuda.current_device() == 0
    for a, e in zip(actual, expected, strict=True):
        assert a.device == torch.device("cuda:1")
        assert torch.equal(a.cpu(), e.cpu())
