# SPDX-License-Identifier: Apache-2.0
"""How the libraries are loaded, and what happens where they cannot be."""

import pathlib

import pytest
import tensorflow as tf

import gru_tf
from gru_tf import _build, _library

FOLDER = pathlib.Path(gru_tf.__file__).parent
CUDA_LIBRARY = FOLDER / "libgru_tf_cuda.so"
needs_cuda_build = pytest.mark.skipif(not _build.HAS_CUDA, reason="built without CUDA")
SEES_GPU = bool(tf.config.list_physical_devices("GPU"))


def test_another_tensorflow_is_refused_with_what_to_do():
    _library.check_version(tf.__version__, tf.__version__)
    with pytest.raises(
        ImportError, match="was built for TensorFlow 2.20.0, but this is.*pip install"
    ):
        _library.check_version("2.20.0", tf.__version__)


def test_the_cpu_library_needs_nothing_of_cuda():
    assert b"libcu" not in (FOLDER / "libgru_tf.so").read_bytes()


TRAIN = """
import tensorflow as tf
import gru_tf
layer = gru_tf.GRU(5)
optimizer = tf.keras.optimizers.SGD(0.1)
x = tf.random.normal([3, 6, 4])
losses = []
for _ in range(5):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((layer(x, training=True)[0] - 0.5) ** 2)
    gradients = tape.gradient(loss, layer.trainable_variables)
    for variable, gradient in zip(layer.trainable_variables, gradients):
        variable.assign_sub(0.5 * gradient)
    losses.append(float(loss))
assert losses[-1] < losses[0]
maps = open("/proc/self/maps").read()
print("cuda" if "libgru_tf_cuda" in maps or "libcublas" in maps else "no cuda")
"""


@needs_cuda_build
@pytest.mark.skipif(SEES_GPU, reason="TensorFlow sees a GPU here")
def test_a_build_with_cuda_trains_where_there_is_none(run_python):
    assert run_python(TRAIN, LD_LIBRARY_PATH="").split("\n")[-2] == "no cuda"


@needs_cuda_build
def test_a_missing_cublas_is_named_and_the_cpu_goes_on(tmp_path, recwarn):
    library = CUDA_LIBRARY.read_bytes()
    assert b"libcublasLt.so." in library
    broken = tmp_path / "libgru_tf_cuda.so"
    broken.write_bytes(library.replace(b"libcublasLt.so.", b"libmissing1.so."))
    assert not _library.load_cuda(broken)
    message = str(recwarn.pop(RuntimeWarning).message)
    assert "libmissing1.so." in message and "run on the CPU" in message
    gru_tf.GRU(5)(tf.zeros([3, 6, 4]), training=False)


REGISTERED = """
import sys
import tensorflow as tf
import gru_tf
from gru_tf import _library
from tensorflow.python.framework import kernels
assert _library.load_cuda(sys.argv[1])
for op in ("GruForward", "GruBackward"):
    found = kernels.get_registered_kernels_for_op(op).kernel
    print(sorted({k.device_type for k in found}), len(found))
"""


@needs_cuda_build
def test_the_gpu_kernels_link_and_register(run_python):
    lines = run_python(REGISTERED, CUDA_LIBRARY).splitlines()
    assert lines == ["['CPU', 'GPU'] 8"] * 2
