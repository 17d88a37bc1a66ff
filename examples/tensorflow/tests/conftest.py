# SPDX-License-Identifier: Apache-2.0
"""Runs on whatever TensorFlow sees: the GPU kernels where there is a GPU, else the CPU's."""

import os
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
import tensorflow as tf

# Two devices, for tf.distribute. This must be said before anything runs.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.fixture(autouse=True)
def repeatable():
    tf.random.set_seed(20261123)
    tf.keras.utils.set_random_seed(20261123)


@pytest.fixture
def run_python():
    """Runs a program in a fresh process; gives its output, and fails with it if it fails."""

    def run(program, *arguments, **environment):
        process = subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    return run
