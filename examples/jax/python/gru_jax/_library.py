# SPDX-License-Identifier: Apache-2.0
"""Loads the libraries of the handlers and makes their targets known to JAX."""

import ctypes
import functools
import importlib.util
import os
import pathlib
import warnings

import jax

FORWARD = "gru_jax_forward"
BACKWARD = "gru_jax_backward"
# gru::adapter::Type, in its order.
_TYPES = ("float32", "float64", "float16", "bfloat16")
_ERRORS = {-1: ValueError, -2: NotImplementedError, -3: RuntimeError}
# Beside this file where the package was installed.
_FOLDER = pathlib.Path(os.environ.get("GRU_JAX_LIBRARIES", pathlib.Path(__file__).parent))


class Layer(ctypes.Structure):
    """gru_jax::Layer of src/layer.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("steps", "batch", "input_size", "hidden_size")),
        *((name, ctypes.c_double) for name in ("zoneout", "dropconnect", "recurrent_dropout")),
        *(
            (name, ctypes.c_bool)
            for name in (
                "reset_after",
                "reverse",
                "time_major",
                "lengths",
                "episode_starts",
                "stochastic",
                "keep_for_backward",
            )
        ),
    ]


def _load(path, platform):
    """The library at `path`, its handlers registered for `platform`."""
    library = ctypes.CDLL(str(path))
    library.gru_jax_workspace_bytes.restype = ctypes.c_int64
    library.gru_jax_workspace_bytes.argtypes = [
        ctypes.c_int,
        ctypes.c_int,
        ctypes.POINTER(Layer),
        ctypes.c_char_p,
        ctypes.c_int64,
    ]
    for name in (FORWARD, BACKWARD):
        handler = {"execute": jax.ffi.pycapsule(getattr(library, name))}
        if hasattr(library, "gru_jax_initialize"):
            handler["initialize"] = jax.ffi.pycapsule(library.gru_jax_initialize)
        jax.ffi.register_ffi_target(name, handler, platform=platform)
    return library


def _load_cublas():
    """Loads the cuBLAS that pip brought with JAX, if it did: the handlers and XLA share one, and
    only JAX looks for it there."""
    packages = importlib.util.find_spec("nvidia")
    for folder in packages.submodule_search_locations if packages else ():
        for library in pathlib.Path(folder).glob("cu*/lib/libcublas.so.13"):
            ctypes.CDLL(str(library))


def _load_cuda():
    """The library of the GPU handlers, or None where it was not built or does not load."""
    path = _FOLDER / "libgru_jax_cuda.so"
    if not path.exists():
        return None
    try:
        _load_cublas()
        return _load(path, "CUDA")
    except OSError as error:
        warnings.warn(
            f"gru_jax: the GPU handlers cannot be loaded, GRU layers run on the CPU alone: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


_cpu = _load(_FOLDER / "libgru_jax.so", "cpu")
_cuda = _load_cuda()


def _ask(library, is_backward, dtype, layer):
    message = ctypes.create_string_buffer(1024)
    size = library.gru_jax_workspace_bytes(
        is_backward, _TYPES.index(dtype), ctypes.byref(layer), message, len(message)
    )
    if size < 0:
        raise _ERRORS[size](message.value.decode())
    return size


@functools.lru_cache(maxsize=4096)
def scratch_bytes(is_backward, dtype, **fields):
    """How large a pass's scratch result must be, on each platform that a trace can end up on.

    Raises ValueError, NotImplementedError or RuntimeError where the pass cannot run."""
    layer = Layer(**fields)
    size = _ask(_cpu, is_backward, dtype, layer)
    if _cuda is not None and any(device.platform == "gpu" for device in jax.devices()):
        size = max(size, _ask(_cuda, is_backward, dtype, layer))
    return size
