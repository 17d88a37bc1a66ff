# SPDX-License-Identifier: Apache-2.0
"""The libraries behind gru_torch."""

import pytest
import torch

from gru_torch import _build, _library


@pytest.mark.parametrize("op", ["forward", "backward"])
def test_each_op_has_the_kernels_that_were_built(op):
    kernels = {"CPU": True, "CUDA": _build.HAS_CUDA}
    for key, expected in kernels.items():
        found = torch._C._dispatch_has_kernel_for_dispatch_key(f"gru_torch::{op}", key)
        assert found == expected


@pytest.mark.skipif(not _build.HAS_CUDA, reason="built without CUDA")
def test_the_cuda_kernels_refuse_an_input_that_is_elsewhere():
    x, w_ih, w_hh = (torch.zeros(shape, device="cpu") for shape in [(6, 3, 4), (15, 4), (15, 5)])
    nothing = (None,) * 6
    options = (0.0, 0.0, 0.0, True, False, False, False)
    # As where another argument is on a GPU.
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    with pytest.raises(ValueError, match="x is on cpu, but other tensors are on a GPU"):
        torch.ops.gru_torch.forward.default.redispatch(
            keys, x, w_ih, w_hh, *nothing, *options
        )


def test_a_pytorch_other_than_that_of_the_build_is_refused():
    with pytest.raises(ImportError, match="built for PyTorch 2.10.0, but this is PyTorch 2.11.0"):
        _library.check_version("2.10.0", "2.11.0")
