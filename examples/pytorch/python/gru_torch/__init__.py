# SPDX-License-Identifier: Apache-2.0
"""The GRU of this library for PyTorch: the op `gru_torch.ops.gru`."""

from . import ops

__all__ = ["ops"]
