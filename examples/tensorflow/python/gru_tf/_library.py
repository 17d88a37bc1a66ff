# SPDX-License-Identifier: Apache-2.0
"""Loads the op library, and the GPU kernels where TensorFlow sees a GPU."""

import pathlib
import warnings

import tensorflow as tf

from . import _build

_HERE = pathlib.Path(__file__).parent
_REBUILD = "pip install --no-build-isolation --force-reinstall --no-deps ./examples/tensorflow"


def check_version(built, running):
    """Raises ImportError unless the TensorFlow in use is the one that this was built for."""
    if built != running:
        raise ImportError(
            f"gru_tf was built for TensorFlow {built}, but this is TensorFlow {running}. Build it "
            f"again in this environment: {_REBUILD}"
        )


def load_cuda(path):
    """Registers the GPU kernels in the library at `path`. Says whether that worked; the reason why
    not is a warning, since the CPU kernels serve all the same."""
    try:
        tf.load_op_library(str(path))
    except (tf.errors.OpError, OSError) as error:
        reason = getattr(error, "message", str(error))
        warnings.warn(
            f"gru_tf: the GPU kernels cannot be loaded, GRU layers run on the CPU. {reason}",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def _load():
    check_version(_build.TENSORFLOW_VERSION, tf.__version__)
    library = tf.load_op_library(str(_HERE / "libgru_tf.so"))
    if tf.config.list_physical_devices("GPU"):
        if _build.HAS_CUDA:
            load_cuda(_HERE / "libgru_tf_cuda.so")
        else:
            warnings.warn(
                "gru_tf was built without CUDA, GRU layers run on the CPU. With a CUDA toolkit "
                f"(nvcc) on the path, build it again: {_REBUILD}",
                RuntimeWarning,
            )
    return library


library = _load()
