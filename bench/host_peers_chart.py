#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws a CSV of host_peers.py: the peers' times over ours.

    bench/host_peers_chart.py FILE.csv FILE.svg

Needs matplotlib.
"""

import argparse
import csv

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

PEERS = {"torch_ms": "torch.nn.GRU", "onnxruntime_ms": "onnxruntime",
         "sgemm_ms": "the same FLOPs as sgemm"}
WIDTH = 0.25  # of a bar


def draw(axes, rows, work):
    rows = [row for row in rows if row["work"] == work]
    for i, (column, name) in enumerate(PEERS.items()):
        bars = [(place + (i - 1) * WIDTH, float(row[column]) / float(row["gru_ms"]) - 1)
                for place, row in enumerate(rows) if row[column]]
        if bars:
            axes.bar(*zip(*bars), WIDTH, bottom=1, label=name, color=f"C{i}")
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axes.set_xticks(range(len(rows)), [" ".join(row[size] for size in "TNCH") for row in rows],
                    rotation=20)
    axes.set_title(work)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results")
    parser.add_argument("chart")
    arguments = parser.parse_args()
    with open(arguments.results) as file:
        rows = list(csv.DictReader(file))
    figure, both = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for axes, work in zip(both, ("inference", "training")):
        draw(axes, rows, work)
    both[0].set_ylabel("time over the host engine's")
    both[0].legend()
    figure.supxlabel("T N C H")
    figure.suptitle(f"float, {rows[0]['threads']} threads, {rows[0]['cpu']}", fontsize=9)
    plt.rcParams["svg.hashsalt"] = "host"
    figure.savefig(arguments.chart, metadata={"Date": None})


if __name__ == "__main__":
    main()
