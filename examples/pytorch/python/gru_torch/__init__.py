# SPDX-License-Identifier: Apache-2.0
"""GRU layers for PyTorch: `gru_torch.GRU`, and the op `gru_torch.ops.gru`."""

from . import ops
from .layer import GRU

__all__ = ["GRU", "ops"]
