#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times the host engine beside torch.nn.GRU and onnxruntime's GRU, interleaved, on the CPU.

    bench/host_peers.py build/bench/bench/libgru_host_peers.so --csv FILE.csv

Needs torch, onnxruntime and onnx. All use the same weights, inputs and number of threads. "training"
is forward and backward of all gradients. "sgemm" is the time that the same FLOPs would take at the
rate of a product of matrices of 1024 x 1024 by torch, measured among the rest.
"""

import argparse
import csv
import ctypes
import platform
import statistics
import sys
import time

import numpy
import onnx
import onnxruntime
import torch

SHAPES = [(100, 1, 128, 128), (100, 16, 256, 256), (100, 64, 512, 512), (256, 1, 1024, 1024),
          (100, 8, 512, 512)]
SGEMM_SIZE = 1024
COLUMNS = ("T", "N", "C", "H", "work", "gru_ms", "torch_ms", "onnxruntime_ms", "sgemm_ms", "repeats",
           "threads", "cpu", "torch", "onnxruntime")
PAUSE = 0.003  # seconds, in which the threads of one library stop to wait for work


def pointer(tensor):
    return ctypes.cast(tensor.data_ptr(), ctypes.POINTER(ctypes.c_float))


def pointers(tensors):
    return (ctypes.POINTER(ctypes.c_float) * len(tensors))(*map(pointer, tensors))


class Case:
    """One shape, with the same weights and inputs for all."""

    def __init__(self, library, shape, threads):
        T, N, C, H = shape
        torch.manual_seed(0)
        self.gru = torch.nn.GRU(C, H)
        self.weights = [parameter.detach() for parameter in self.gru.parameters()]
        self.x = torch.rand(T, N, C) * 2 - 1
        self.dh = torch.rand(T, N, H) * 2 - 1
        self.h = torch.empty(T, N, H)
        self.gradients = [torch.empty_like(w) for w in self.weights] + [torch.empty_like(self.x)]
        self.library = library
        self.layer = ctypes.c_void_p(library.gru_layer(T, N, C, H, threads))
        self.session = onnx_session(self.weights, shape, threads)
        self.binding = self.session.io_binding()
        self.onnx_h = numpy.empty((T, 1, N, H), numpy.float32)
        self.binding.bind_cpu_input("x", self.x.numpy())
        self.binding.bind_output("h", "cpu", 0, numpy.float32, self.onnx_h.shape,
                                 self.onnx_h.ctypes.data)

    def gru_inference(self):
        self.library.gru_inference(self.layer, pointers(self.weights), pointer(self.x),
                                   pointer(self.h))
        return [self.h]

    def gru_training(self):
        self.library.gru_training(self.layer, pointers(self.weights), pointer(self.x),
                                  pointer(self.h), pointer(self.dh), pointers(self.gradients))
        return [self.h, *self.gradients]

    def torch_inference(self):
        with torch.no_grad():
            return [self.gru(self.x)[0]]

    def torch_training(self):
        x = self.x.detach().requires_grad_()
        h, _ = self.gru(x)
        return [h.detach(), *torch.autograd.grad(h, [*self.gru.parameters(), x], self.dh)]

    def onnxruntime_inference(self):
        self.session.run_with_iobinding(self.binding)
        return [torch.from_numpy(self.onnx_h[:, 0])]

    def close(self):
        self.library.gru_free(self.layer)


def onnx_session(weights, shape, threads):
    """A session of one GRU with these weights; ONNX's order of gates is z, r, g."""
    T, N, C, H = shape
    in_order = lambda w: numpy.concatenate([w[H:2 * H], w[:H], w[2 * H:]])[None]
    W, R, bx, br = (in_order(w.numpy()) for w in weights)
    constants = {"W": W, "R": R, "B": numpy.concatenate([bx, br], axis=1)}
    tensor = lambda name, *sizes: onnx.helper.make_tensor_value_info(
        name, onnx.TensorProto.FLOAT, sizes)
    node = onnx.helper.make_node("GRU", ["x", *constants], ["h"], hidden_size=H,
                                 linear_before_reset=1)
    graph = onnx.helper.make_graph(
        [node], "gru", [tensor("x", T, N, C)], [tensor("h", T, 1, N, H)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)],
                                   ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options,
                                        providers=["CPUExecutionProvider"])


def milliseconds(f):
    """Of a call that follows one of the same library, so that its threads are awake."""
    time.sleep(PAUSE)
    f()
    begin = time.perf_counter()
    f()
    return (time.perf_counter() - begin) * 1e3


def check(case, work, peers):
    """All compute the same: results agree to 1e-4 of the largest value."""
    expected = getattr(case, f"torch_{work}")()
    for peer in peers:
        for result, reference in zip(getattr(case, f"{peer}_{work}")(), expected):
            error = float((result - reference).abs().max() / reference.abs().max())
            if not error < 1e-4:
                sys.exit(f"{peer}, {work}: differs from torch by {error:.1e}")


def measure(case, shape, work, repeats, sgemm):
    T, N, C, H = shape
    peers = ["gru", "torch"] + (["onnxruntime"] if work == "inference" else [])
    check(case, work, peers)
    runs = {peer: getattr(case, f"{peer}_{work}") for peer in peers} | {"sgemm": sgemm}
    times = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(milliseconds(run))
    row = {f"{name}_ms": statistics.median(found) for name, found in times.items()}
    flops = 2 * T * N * 3 * H * (C + H) * (3 if work == "training" else 1)
    row["sgemm_ms"] *= flops / (2 * SGEMM_SIZE**3)
    return {name: f"{value:.4f}" for name, value in row.items()}


def cpu_name():
    with open("/proc/cpuinfo") as info:
        names = [line.split(":")[1].strip() for line in info if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library")
    parser.add_argument("--csv", type=argparse.FileType("w"), default=sys.stdout)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    library = ctypes.CDLL(arguments.library)
    library.gru_layer.restype = ctypes.c_void_p
    library.gru_layer.argtypes = [ctypes.c_int64] * 4 + [ctypes.c_int]
    torch.set_num_threads(arguments.threads)
    left, right = torch.rand(2, SGEMM_SIZE, SGEMM_SIZE)
    writer = csv.DictWriter(arguments.csv, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for shape in SHAPES:
        case = Case(library, shape, arguments.threads)
        for work in ("inference", "training"):
            row = measure(case, shape, work, arguments.repeats, lambda: left @ right)
            row |= dict(zip("TNCH", shape), work=work, repeats=arguments.repeats,
                        threads=arguments.threads, cpu=cpu_name(), torch=torch.__version__,
                        onnxruntime=onnxruntime.__version__)
            writer.writerow(row)
            arguments.csv.flush()
        case.close()


if __name__ == "__main__":
    main()
