# SPDX-License-Identifier: Apache-2.0
"""Times gru_torch.GRU beside torch.nn.GRU and a loop over steps whose step is compiled, in turns in
one process, and prints a CSV: milliseconds a call, median and tenths.

    python examples/pytorch/benchmark.py > benchmark.csv
    python examples/pytorch/benchmark.py --draw benchmark.csv benchmark.svg    # needs matplotlib

Types: fp32 (no TF32), bf16 (weights too) and amp (float32 weights under autocast to bfloat16).
Works: inference, training (forward, and the gradients of input and weights), and training on
episodes of random lengths, 100 steps on average, for which torch.nn.GRU is run from start to start.
"""

import argparse
import collections
import contextlib
import csv
import itertools
import statistics
import sys
import time

import torch
from recurrent_ppo import run_at_once, run_from_start_to_start
from torch import nn

import gru_torch

# T, N, C, H
SHAPES = [(100, n, 256, 256) for n in (32, 128, 512, 4096)]
SHAPES += [(t, 128, 256, 256) for t in (16, 1000)]
SHAPES += [(100, 128, h, h) for h in (64, 512, 1024)]
TYPES = ("fp32", "bf16", "amp")
WORKS = ("inference", "training", "episodes")
KINDS = ("gru_torch.GRU", "torch.nn.GRU", "compiled step")


@torch.compile(dynamic=False)
def step(x_gates, state, starts, weight, bias):
    """A step of the GRU on x W + b, as a user would write it."""
    state = torch.where(starts[:, None], 0, state)
    x_r, x_z, x_n = x_gates.chunk(3, dim=-1)
    s_r, s_z, s_n = nn.functional.linear(state, weight, bias).chunk(3, dim=-1)
    z = torch.sigmoid(x_z + s_z)
    return z * state + (1 - z) * torch.tanh(x_n + torch.sigmoid(x_r + s_r) * s_n)


def run_compiled_steps(gru, x, state, starts):
    gates = nn.functional.linear(x, gru.weight_ih_l0, gru.bias_ih_l0)
    outputs, s = [], state[0].to(gates.dtype)
    for t in range(len(x)):
        s = step(gates[t], s, starts[t], gru.weight_hh_l0, gru.bias_hh_l0)
        outputs.append(s)
    return torch.stack(outputs), s[None]


def make_run(type_name, shape, work, device):
    """A function of the kind, which does the work once."""
    steps, batch, inputs, units = shape
    dtype = torch.bfloat16 if type_name == "bf16" else torch.float32
    theirs = nn.GRU(inputs, units, device=device, dtype=dtype)
    ours = gru_torch.GRU(inputs, units, device=device, dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(steps, batch, inputs, device=device, dtype=dtype, requires_grad=True)
    state = torch.zeros(1, batch, units, device=device, dtype=dtype)
    starts = torch.rand(steps, batch, device=device) < (0.01 if work == "episodes" else 0)
    dh = torch.randn(steps, batch, units, device=device)

    def whole(gru, x, state, starts):
        return gru(x, state)

    episodes = work == "episodes"
    passes = {
        "gru_torch.GRU": (ours, run_at_once if episodes else whole),
        "torch.nn.GRU": (theirs, run_from_start_to_start if episodes else whole),
        "compiled step": (theirs, run_compiled_steps),
    }

    def run(kind):
        gru, forward = passes[kind]
        autocast = torch.autocast(device.type, torch.bfloat16)
        with autocast if type_name == "amp" else contextlib.nullcontext():
            if work == "inference":
                with torch.no_grad():
                    return [forward(gru, x, state, starts)[0]]
            h = forward(gru, x, state, starts)[0]
        return [h, *torch.autograd.grad(h, [x, *gru.parameters()], dh.to(h.dtype))]

    return run


def milliseconds(run, kind, device):
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    run(kind)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - begin)


USUAL = {"N": 128, "T": 100, "H": 256}  # the case in which the sweeps of SHAPES meet


def draw(table, chart):
    """How many times faster than torch.nn.GRU, over each size, where the others are the usual."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "gru", "svg.fonttype": "none"})
    import matplotlib.pyplot as plt

    times = collections.defaultdict(dict)
    with open(table) as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            sizes = tuple(int(row[name]) for name in USUAL)
            times[row["type"], row["work"], sizes][row["kind"]] = float(row["ms"])

    figure, axes = plt.subplots(1, 3, figsize=(10, 4), sharey=True, layout="constrained")
    for i, (name, ax) in enumerate(zip(USUAL, axes, strict=True)):
        lines = collections.defaultdict(list)
        for (type_name, work, sizes), ms in times.items():
            usual = [*USUAL.values()]
            usual[i] = sizes[i]
            if sizes == tuple(usual):
                faster = ms["torch.nn.GRU"] / ms["gru_torch.GRU"]
                lines[type_name, work].append((sizes[i], faster))
        for (type_name, work), points in lines.items():
            style = {
                "color": f"C{TYPES.index(type_name)}",
                "linestyle": ("-", "--", ":")[WORKS.index(work)],
                "label": f"{type_name}, {work}",
            }
            ax.plot(*zip(*sorted(points), strict=True), marker=".", **style)
        others = ", ".join(f"{other} {USUAL[other]}" for other in USUAL if other != name)
        ax.set(title=others, xlabel=name, xscale="log", yscale="log")
        ax.axhline(1, color="gray", linewidth=0.8)
    axes[0].set_ylabel("times faster than torch.nn.GRU")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right", fontsize="small")
    figure.savefig(chart, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", nargs="+", metavar="TxNxCxH", help="instead of the usual ones")
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES)
    parser.add_argument("--works", nargs="+", choices=WORKS, default=WORKS)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--draw", nargs=2, metavar=("CSV", "SVG"), help="figures measured before")
    settings = parser.parse_args()
    if settings.draw:
        return draw(*settings.draw)
    device = torch.device(settings.device)
    shapes = [tuple(map(int, s.split("x"))) for s in settings.shapes or []] or SHAPES
    torch.backends.cudnn.allow_tf32 = False

    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"# {name}, PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["type", "T", "N", "C", "H", "work", "kind", "ms", "ms_p10", "ms_p90"])
    for case in itertools.product(settings.types, shapes, settings.works):
        type_name, shape, work = case
        torch.compiler.reset()  # graphs of other cases, of which it keeps a few
        run = make_run(*case, device)
        times = {kind: [] for kind in settings.kinds}
        for kind in settings.kinds:
            run(kind), run(kind)
        for _ in range(settings.rounds):
            for kind in settings.kinds:
                times[kind].append(milliseconds(run, kind, device))
        for kind, values in times.items():
            tenths = statistics.quantiles(values, n=10, method="inclusive")
            found = (statistics.median(values), tenths[0], tenths[-1])
            writer.writerow((type_name, *shape, work, kind, *(f"{ms:.4f}" for ms in found)))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
