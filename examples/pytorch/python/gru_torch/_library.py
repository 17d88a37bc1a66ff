# SPDX-License-Identifier: Apache-2.0
"""Loads the op library, and the CUDA kernels where they were built."""

import pathlib

import torch

from . import _build

_FOLDER = pathlib.Path(_build.__file__).parent


def check_version(built, running):
    """Raises ImportError unless the PyTorch in use is the one that this was built for."""
    if built != running:
        raise ImportError(
            f"gru_torch was built for PyTorch {built}, but this is PyTorch {running}. Build it "
            "again in this environment: pip install --no-build-isolation --force-reinstall "
            "--no-deps ./examples/pytorch"
        )


check_version(_build.TORCH_VERSION, torch.__version__)
torch.ops.load_library(_FOLDER / "libgru_torch.so")
# Without asking for a GPU, which would keep forked processes from using it.
if _build.HAS_CUDA:
    torch.ops.load_library(_FOLDER / "libgru_torch_cuda.so")
