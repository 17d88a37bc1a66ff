# SPDX-License-Identifier: Apache-2.0
"""Every test runs on the CPU, and again on the GPU where there is one."""

import pytest
import torch


@pytest.fixture(autouse=True, params=["cpu", *["cuda"] * torch.cuda.is_available()])
def device(request):
    """The device of the test, on which new tensors are made."""
    torch.manual_seed(20261123)
    with torch.device(request.param) as device:
        yield device


@pytest.fixture(autouse=True)
def no_graphs_of_other_tests():
    """All layers share the code that is compiled, and dynamo takes eight graphs of it. What one test
    left outside of a graph, dynamo would leave outside in the next one."""
    torch.compiler.reset()
