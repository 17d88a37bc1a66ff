# SPDX-License-Identifier: Apache-2.0
"""A GRU layer for JAX whose whole recurrence is one call, forward and backward."""

from .ops import Parameters, gru

__all__ = ["Parameters", "gru"]
__version__ = "0.1.0"
