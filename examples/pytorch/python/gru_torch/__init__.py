# SPDX-License-Identifier: Apache-2.0
"""GRU layers for PyTorch: `gru_torch.GRU`, and the op `gru_torch.ops.gru`."""

import os

if "GRU_TORCH_BUILD" in os.environ:
    # A source tree: what the build wrote lies in its build tree.
    __path__.append(os.environ["GRU_TORCH_BUILD"])

from . import ops
from .layer import GRU

__all__ = ["GRU", "ops"]
