# SPDX-License-Identifier: Apache-2.0
"""Loads the op library, and the CUDA kernels where PyTorch has a GPU."""

import pathlib
import warnings

import torch

from . import _build

_FOLDER = pathlib.Path(_build.__file__).parent
_REBUILD = "pip install --no-build-isolation --force-reinstall --no-deps ./examples/pytorch"


def check_version(built, running):
    """Raises ImportError unless the PyTorch in use is the one that this was built for."""
    if built != running:
        raise ImportError(
            f"gru_torch was built for PyTorch {built}, but this is PyTorch {running}. Build it "
            f"again in this environment: {_REBUILD}"
        )


def _load():
    check_version(_build.TORCH_VERSION, torch.__version__)
    torch.ops.load_library(_FOLDER / "libgru_torch.so")
    if torch.cuda.is_available():
        if _build.HAS_CUDA:
            torch.ops.load_library(_FOLDER / "libgru_torch_cuda.so")
        else:
            warnings.warn(
                "gru_torch was built without CUDA: its layers run on CPU tensors alone. With a "
                f"CUDA toolkit (nvcc) on the path, build it again: {_REBUILD}",
                RuntimeWarning,
                stacklevel=2,
            )


_load()
