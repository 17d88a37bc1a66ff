# SPDX-License-Identifier: Apache-2.0
"""What the scripts that make golden vectors share: inputs, and the file they write.

A file holds cases. Arrays are flat lists in the order of memory that the framework uses, the
weights in its own format. Inputs are multiples of 1/64 of magnitude at most 1, exact in every type
down to bfloat16; results are float64. A case has one or two directions; `h` and `dh` are
[T, N, D * H] (or [N, T, D * H] where `layout` is batch_major), `dx` is the sum over directions.
"""

import json
import os
import platform

import numpy as np


class Inputs:
    """Reproducible inputs of one case."""

    def __init__(self, seed):
        self._rng = np.random.default_rng(seed)

    def __call__(self, *shape):
        return self._rng.integers(-64, 65, size=shape).astype(np.float64) / 64

    def mask(self, *shape):
        return self._rng.integers(0, 2, size=shape).astype(np.uint8)


def flat(array):
    """The array as a flat list, in memory order; None stays None."""
    return None if array is None else np.asarray(array).ravel().tolist()


def write(name, script, versions, cases):
    """Writes `name` beside the scripts, one case a line."""
    header = {
        "made_by": script,
        "versions": {"python": platform.python_version(), "numpy": np.__version__, **versions},
    }
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name)
    with open(path, "w", encoding="ascii") as out:
        out.write('{"header": ' + json.dumps(header) + ',\n"cases": [\n')
        out.write(",\n".join(json.dumps(c, separators=(",", ":")) for c in cases))
        out.write("\n]}\n")
    print(f"{path}: {len(cases)} cases, {os.path.getsize(path)} bytes")
