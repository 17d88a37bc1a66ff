#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Trains the demo with several settings and draws their loss curves side by side.

    examples/standalone/loss_curves.py regularisation    # on the CPU, about ten minutes
    examples/standalone/loss_curves.py engines types     # needs a GPU, about a minute

The charts go to examples/standalone/charts; to draw them takes matplotlib. A run whose losses are
in the folder of runs already is not repeated, so that one machine can train and another one draw.
"""
import argparse
import csv
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
LIBRARY = ["--text", *sorted(ROOT.glob("include/gru/**/*.*")), "--batch", 32, "--steps", 64,
           "--hidden", 256, "--iterations", 1000, "--zoneout", 0.05, "--dropconnect", 0.05]

# A chart: what all its runs have in common, what each has of its own, and their seeds.
CHARTS = {
    "engines": {
        "common": LIBRARY,
        "settings": {"stepwise": ["--engine", "stepwise"], "cluster": ["--engine", "cluster"],
                     "grid": ["--engine", "grid"], "host": ["--engine", "host"]},
        "seeds": [1],
    },
    "types": {
        "common": [*LIBRARY, "--engine", "gpu"],
        "settings": {"float": [], "half": ["--type", "half"], "bfloat16": ["--type", "bfloat16"]},
        "seeds": [1],
    },
    "regularisation": {
        "common": ["--text", *DOCUMENTS, "--lines", "--held-out", 0.15, "--batch", 32,
                   "--steps", 100, "--hidden", 192, "--rate", 0.003, "--iterations", 600,
                   "--engine", "host"],
        "settings": {"none": [], "zoneout 0.1": ["--zoneout", 0.1],
                     "DropConnect 0.2": ["--dropconnect", 0.2],
                     "both": ["--zoneout", 0.1, "--dropconnect", 0.2]},
        "seeds": [1, 2, 3],
    },
}
PIECES = 50  # that a run's iterations are averaged in, and validations


class Curve:
    """The losses of one run: training, averaged piece by piece, and held-out."""

    def __init__(self, path):
        rows = list(csv.DictReader(path.open()))
        ends = [len(rows) * (i + 1) // PIECES for i in range(PIECES)]
        pieces = [rows[begin:end] for begin, end in zip([0, *ends], ends)]
        self.training = [(int(piece[-1]["iteration"]), mean(float(row["loss"]) for row in piece))
                         for piece in pieces]
        self.held_out = [(int(row["iteration"]), float(row["held_out"]))
                         for row in rows if row["held_out"]]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def averaged(curves):
    """The mean of curves over the same iterations."""
    return [(points[0][0], mean(loss for _, loss in points)) for points in zip(*curves)]


def train(program, chart, folder):
    """{setting: its curves, one a seed}; trains where the losses are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    curves = {}
    for setting, options in CHARTS[chart]["settings"].items():
        for seed in CHARTS[chart]["seeds"]:
            path = folder / f"{chart}-{setting.replace(' ', '-')}-{seed}.csv"
            if not path.exists():
                command = [*program, *CHARTS[chart]["common"], *options, "--seed", seed,
                           "--sample", 0, "--validations", PIECES, "--log", path]
                subprocess.run([str(word) for word in command], check=True)
            curves.setdefault(setting, []).append(Curve(path))
    return curves


def report(chart, curves):
    print(f"\n| {chart} | training loss at the end | held-out at the end | at its least |")
    print("| --- | ---: | ---: | ---: |")
    for setting, runs in curves.items():
        held_out = [loss for _, loss in averaged([run.held_out for run in runs])]
        training = averaged([run.training for run in runs])[-1][1]
        print(f"| {setting} | {training:.3f} | {held_out[-1]:.3f} | {min(held_out):.3f} |")


def draw(chart, curves, path):
    """Training losses on the left; on the right the held-out ones or, where all curves ought to be
    one, how far they are from the first."""
    import matplotlib
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": chart})
    import matplotlib.pyplot as plt
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    first = next(iter(curves.values()))
    for i, (setting, runs) in enumerate(curves.items()):
        training = averaged([run.training for run in runs])
        style = {"color": f"C{i}", "label": setting}
        left.plot(*zip(*training), **style, linestyle=["-", "--", "-.", ":"][i])
        if chart == "regularisation":
            right.plot(*zip(*averaged([run.held_out for run in runs])), **style)
            for run in runs:
                right.plot(*zip(*run.held_out), color=f"C{i}", linewidth=0.5, alpha=0.5)
        elif runs is not first:
            difference = [(x, abs(loss - expected)) for (x, loss), (_, expected)
                          in zip(training, first[0].training)]
            right.semilogy(*zip(*difference), **style)
    if chart == "regularisation":
        lowest = min(loss for runs in curves.values() for run in runs for _, loss in run.held_out)
        right.set_ylim(0.95 * lowest, 1.5 * lowest)
    left.set_title("training loss, nats a character")
    right.set_title("held-out loss, nats a character" if chart == "regularisation"
                    else f"distance from the curve of {next(iter(curves))}")
    for axes in (left, right):
        axes.set_xlabel("iteration")
        axes.legend()
        axes.grid(alpha=0.3)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    print(f"Drawn in {path}.")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("charts", nargs="+", choices=CHARTS)
    parser.add_argument("--program", help="the demo (default: built by ./dev demo)")
    parser.add_argument("--runs", type=Path, default=ROOT / "build" / "loss_curves",
                        help="folder of the losses (%(default)s)")
    parser.add_argument("--only-train", action="store_true", help="draw nothing")
    arguments = parser.parse_args()
    program = [arguments.program] if arguments.program else [ROOT / "dev", "demo"]
    for chart in arguments.charts:
        curves = train(program, chart, arguments.runs)
        report(chart, curves)
        if not arguments.only_train:
            draw(chart, curves, ROOT / "examples" / "standalone" / "charts" / f"{chart}.svg")


if __name__ == "__main__":
    main()
