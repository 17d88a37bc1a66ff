# SPDX-License-Identifier: Apache-2.0
"""Golden vectors of the ONNX operator GRU, both values of linear_before_reset; forward only.

Run with onnx, onnxruntime and NumPy: python3 make_onnx.py. Writes onnx.json.

onnx.reference computes in float64 but ignores sequence_lens; with lengths it is run on the valid
part of each sample alone, and padded by zeros. Every case is checked here against onnxruntime,
which computes in float32 and takes sequence_lens.
"""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import golden

T, N, C, H = 6, 3, 4, 5


def model(direction, linear_before_reset, names, element):
    """A model of one GRU node with the given inputs."""
    order = ["X", "W", "R", "B", "sequence_lens", "initial_h"]
    node = helper.make_node(
        "GRU", [n if n in names else "" for n in order], ["Y", "Y_h"], hidden_size=H,
        direction=direction, linear_before_reset=linear_before_reset)
    values = [helper.make_tensor_value_info(
        n, TensorProto.INT32 if n == "sequence_lens" else element, None) for n in names]
    outputs = [helper.make_tensor_value_info(n, element, None) for n in ("Y", "Y_h")]
    graph = helper.make_graph([node], "gru", values, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def reference(direction, linear_before_reset, feeds):
    """Y [T, D, N, H] and Y_h [D, N, H] of onnx.reference in float64."""
    feeds = dict(feeds)
    lengths = feeds.pop("sequence_lens", None)
    evaluator = ReferenceEvaluator(
        model(direction, linear_before_reset, feeds, TensorProto.DOUBLE))
    if lengths is None:
        return evaluator.run(None, feeds)
    directions = feeds["W"].shape[0]
    y, y_h = np.zeros((T, directions, N, H)), np.zeros((directions, N, H))
    for n, length in enumerate(lengths):
        one = dict(feeds)
        one["X"] = feeds["X"][:length, n:n + 1]
        if "initial_h" in feeds:
            one["initial_h"] = feeds["initial_h"][:, n:n + 1]
        part, last = evaluator.run(None, one)
        y[:length, :, n], y_h[:, n] = part[:, :, 0], last[:, 0]
    return y, y_h


def runtime(direction, linear_before_reset, feeds):
    """The same of onnxruntime in float32."""
    session = onnxruntime.InferenceSession(
        model(direction, linear_before_reset, feeds, TensorProto.FLOAT).SerializeToString(),
        providers=["CPUExecutionProvider"])
    return session.run(None, {k: v if k == "sequence_lens" else v.astype(np.float32)
                              for k, v in feeds.items()})


def run(name, seed, *, linear_before_reset, direction, bias=True, h0=True, lengths=None):
    inputs = golden.Inputs(seed)
    D = 2 if direction == "bidirectional" else 1
    feeds = {"X": inputs(T, N, C), "W": inputs(D, 3 * H, C), "R": inputs(D, 3 * H, H)}
    if bias:
        feeds["B"] = inputs(D, 6 * H)
    if lengths is not None:
        feeds["sequence_lens"] = np.asarray(lengths, np.int32)
    if h0:
        feeds["initial_h"] = inputs(D, N, H)
    y, y_h = reference(direction, linear_before_reset, feeds)
    for exact, checked in zip((y, y_h), runtime(direction, linear_before_reset, feeds)):
        np.testing.assert_allclose(checked, exact, rtol=0, atol=2e-6)

    directions = []
    for d in range(D):
        entry = {
            "direction": "reverse" if d == 1 or direction == "reverse" else "forward",
            "kernel": golden.flat(feeds["W"][d]), "recurrent_kernel": golden.flat(feeds["R"][d]),
            "final_state": golden.flat(y_h[d]),
        }
        if bias:
            entry["bias"] = golden.flat(feeds["B"][d, :3 * H])
            entry["recurrent_bias"] = golden.flat(feeds["B"][d, 3 * H:])
        if h0:
            entry["h0"] = golden.flat(feeds["initial_h"][d])
        directions.append(entry)
    return {
        "name": name, "format": "onnx",
        "variant": "reset_after" if linear_before_reset else "reset_before",
        "layout": "time_major", "T": T, "N": N, "C": C, "H": H,
        **({"lengths": lengths} if lengths is not None else {}),
        "x": golden.flat(feeds["X"]), "h": golden.flat(np.moveaxis(y, 1, 2)),
        "directions": directions,
    }


def main():
    lengths = [3, 6, 1]
    cases = []
    for linear_before_reset in (0, 1):
        for i, direction in enumerate(("forward", "reverse", "bidirectional")):
            seed = 200 + 20 * linear_before_reset + 4 * i
            name = f"linear_before_reset={linear_before_reset}, {direction}"
            options = {"linear_before_reset": linear_before_reset, "direction": direction}
            cases.append(run(name, seed, **options))
            cases.append(run(f"{name}, lengths", seed + 1, lengths=lengths, **options))
            cases.append(run(f"{name}, without biases and initial state", seed + 2, bias=False,
                             h0=False, **options))
    golden.write("onnx.json", "make_onnx.py",
                 {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}, cases)


main()
