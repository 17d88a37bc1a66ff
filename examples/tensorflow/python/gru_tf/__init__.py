# SPDX-License-Identifier: Apache-2.0
"""GRU layers for TensorFlow: `gru_tf.GRU`, `gru_tf.keras.GRU` and the op `gru_tf.ops.gru`."""

from . import ops
from .haste_checkpoint import load_haste
from .layer import GRU

__all__ = ["GRU", "keras", "load_haste", "ops"]


def __getattr__(name):
    # Keras is imported only by those who use it.
    if name == "keras":
        import importlib

        return importlib.import_module(".keras", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
