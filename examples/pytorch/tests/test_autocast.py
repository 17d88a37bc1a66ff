# SPDX-License-Identifier: Apache-2.0
"""gru_torch.GRU under autocast. What it casts on a GPU is seen without one, in fake tensors."""

import contextlib
import copy

import pytest
import torch
from torch._subclasses import FakeTensorMode

import gru_torch

LOW = [torch.float16, torch.bfloat16]


@contextlib.contextmanager
def autocast_of_a_gpu(dtype):
    """torch.autocast("cuda", dtype), which does nothing where there is no GPU."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", dtype)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


@pytest.mark.parametrize("dtype", LOW)
def test_a_gpu_runs_in_the_type_in_force_but_for_float64(dtype):
    expected = {torch.float32: dtype, torch.float64: torch.float64}
    with autocast_of_a_gpu(dtype), FakeTensorMode(), torch.device("cuda"):
        for given, used in expected.items():
            output, h_n = gru_torch.GRU(4, 5, 2, dtype=given)(torch.zeros(7, 3, 4, dtype=given))
            assert output.dtype == h_n.dtype == used


@pytest.mark.parametrize("dtype", LOW)
def test_nothing_is_cast_on_the_cpu(dtype):
    layer = gru_torch.GRU(4, 5, device="cpu")
    x = torch.randn(7, 3, 4, device="cpu")
    expected = layer(x)
    with torch.autocast("cpu", dtype):
        actual = layer(x)
        assert torch.nn.GRU(4, 5, device="cpu")(x)[0].dtype == torch.float32
    assert all(map(torch.equal, actual, expected))


@pytest.mark.parametrize("dtype", LOW)
def test_on_the_cpu_input_and_state_are_brought_to_the_type_of_the_weights(dtype):
    layer = gru_torch.GRU(4, 5, device="cpu")
    x, hx = torch.randn(7, 3, 4, device="cpu"), torch.randn(1, 3, 5, device="cpu")
    low_x, low_hx = x.to(dtype), hx.to(dtype)
    expected = layer(low_x.float(), low_hx.float())
    with torch.autocast("cpu", dtype):
        assert all(map(torch.equal, layer(low_x, low_hx), expected))
        low = copy.deepcopy(layer).to(dtype)
        assert all(map(torch.equal, low(x, hx), low(low_x, low_hx)))
    with pytest.raises(ValueError, match="is of type"):
        layer(low_x, low_hx)
