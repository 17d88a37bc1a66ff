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


def test_a_pytorch_other_than_that_of_the_build_is_refused():
    with pytest.raises(ImportError, match="built for PyTorch 2.10.0, but this is PyTorch 2.11.0"):
        _library.check_version("2.10.0", "2.11.0")
