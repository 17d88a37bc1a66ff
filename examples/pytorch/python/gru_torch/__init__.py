# SPDX-License-Identifier: Apache-2.0
"""GRU layers for PyTorch: `gru_torch.GRU`, and the op `gru_torch.ops.gru`."""

import os

if "GRU_TORCH_LIBRARIES" in os.environ:
    # A folder with what the build wrote, for a source tree that is not installed.
    __path__.insert(0, os.environ["GRU_TORCH_LIBRARIES"])

from . import ops
from .layer import GRU

__all__ = ["GRU", "ops"]
