#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns results of gru_bench or gru_bench_host into a table, a chart and a small CSV file.

The table and the CSV need the standard library alone, the chart needs matplotlib.
"""

import argparse
import csv
import dataclasses
import json
import math
import sys

WORKS = {
    "inference": "Inference",
    "training": "Training step (forward and backward, all gradients)",
    "forward": "Forward, keeping for backward",
    "backward": "Backward, all gradients",
}
# Of the machine rather than of the measurement.
UNWANTED_CONTEXT = {
    "executable", "host_name", "load_avg", "caches", "json_schema_version", "library_build_type",
    "cpu_scaling_enabled",
}


@dataclasses.dataclass
class Row:
    """One measured case."""

    type: str
    shape: str
    T: int
    N: int
    C: int
    H: int
    work: str
    way: str
    engine: str
    us_per_step: float
    us_per_step_p10: float
    us_per_step_p90: float
    repeats: int
    workspace_bytes: int
    reserve_bytes: int


@dataclasses.dataclass
class Peer:
    """The best of cuDNN's algorithms for one case."""

    us_per_step: float
    algorithm: str


@dataclasses.dataclass
class Results:
    context: dict
    rows: list
    failures: list  # (name, message)


def read_json(path):
    with open(path, encoding="utf-8") as file:
        data = json.load(file)
    context = {k: str(v) for k, v in data["context"].items() if k not in UNWANTED_CONTEXT}
    results = Results(context, [], [])
    for case in data["benchmarks"]:
        name = "/".join(case["name"].split("/")[1:5])
        if case.get("error_occurred"):
            results.failures.append((name, case.get("error_message", "")))
            continue
        kind, shape, work, way = name.split("/")
        results.rows.append(
            Row(
                type=kind,
                shape=shape,
                work=work,
                way=way,
                engine=case.get("label", ""),
                **{k: int(case[k]) for k in ("T", "N", "C", "H", "repeats")},
                **{k: int(case[k]) for k in ("workspace_bytes", "reserve_bytes")},
                **{f"us_per_step{q}": float(case[f"us_per_step{q}"]) for q in ("", "_p10", "_p90")},
            ))
    return results


def read_csv(path):
    """Reads what write_csv wrote."""
    results = Results({}, [], [])
    with open(path, encoding="utf-8", newline="") as file:
        lines = file.readlines()
    for line in lines:
        if line.startswith("# "):
            key, _, value = line[2:].strip().partition(": ")
            results.context[key] = value
    types = {field.name: field.type for field in dataclasses.fields(Row)}
    for record in csv.DictReader(line for line in lines if not line.startswith("#")):
        results.rows.append(Row(**{k: types[k](v) for k, v in record.items()}))
    return results


def write_csv(path, results):
    with open(path, "w", encoding="utf-8", newline="") as file:
        for key, value in results.context.items():
            file.write(f"# {key}: {value}\n")
        names = [field.name for field in dataclasses.fields(Row)]
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for row in results.rows:
            record = dataclasses.asdict(row)
            for name in names:
                if isinstance(record[name], float):
                    record[name] = f"{record[name]:.4f}"
            writer.writerow(record)


def read_peer(path):
    """The fastest of cuDNN's algorithms that ran, for each (type, shape, work)."""
    columns = {
        "inference": "infer_ms",
        "forward": "fwd_train_ms",
        "backward": "bwd_ms",
        "training": "train_ms",
    }
    best = {}
    with open(path, encoding="utf-8", newline="") as file:
        for record in csv.DictReader(line for line in file if not line.startswith("#")):
            if record["train_ms"] is None:  # the algorithm refused: its error is in one column
                continue
            kind = record["dtype"]
            if kind == "fp32" and record["math"] == "tensor":
                kind = "tf32"
            for work, column in columns.items():
                us = float(record[column]) * 1e3 / int(record["T"])
                key = (kind, record["name"], work)
                if key not in best or us < best[key].us_per_step:
                    best[key] = Peer(us, record["algo"])
    return best


def by_case(rows):
    """{(type, shape, work): {way: Row}}, in the order of the rows."""
    cases = {}
    for row in rows:
        cases.setdefault((row.type, row.shape, row.work), {})[row.way] = row
    return cases


def fastest(ways):
    return min(ways.values(), key=lambda row: row.us_per_step)


def number(value):
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def table(header, lines):
    marks = ["---" if i == 0 else "---:" for i in range(len(header))]
    return ["| " + " | ".join(line) + " |" for line in [header, marks, *lines]]


def unique(values):
    return list(dict.fromkeys(values))


def summary(cases, peers):
    lines = []
    for kind in unique(kind for kind, _, _ in cases):
        for work in WORKS:
            keys = [k for k in cases if k[0] == kind and k[2] == work and k in peers]
            for way in unique(way for key in keys for way in cases[key]):
                ratios = [peers[key].us_per_step / cases[key][way].us_per_step
                          for key in keys if way in cases[key]]
                mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
                lines.append([
                    kind, work, way, f"{sum(r > 1 for r in ratios)} of {len(ratios)}",
                    f"{mean:.2f}", f"{min(ratios):.2f}", f"{max(ratios):.2f}"
                ])
    header = ["type", "what", "way", "shapes where ours is faster", "geometric mean", "least",
              "most"]
    return ["## Against cuDNN", "",
            "Time of the fastest of cuDNN's algorithms, enqueued plainly, over ours. Below 1 ours is "
            "slower.", "", *table(header, lines), ""]


def timing_cell(row):
    if row is None:
        return "-"
    return (f"{number(row.us_per_step)} "
            f"({number(row.us_per_step_p10)} to {number(row.us_per_step_p90)})")


def ratio_cell(row, peer):
    return f"{peer.us_per_step / row.us_per_step:.2f}" if row else "-"


def work_section(work, title, cases, peers):
    keys = [key for key in cases if key[2] == work]
    if not keys:
        return []
    ways = unique(way for key in keys for way in cases[key])
    header = ["shape", "T", "N", "C", "H", "type", "engine", *ways]
    if peers:
        header += ["cuDNN", "its algorithm", *(f"cuDNN / {way}" for way in ways)]
    lines = []
    for shape in unique(key[1] for key in keys):
        for key in (key for key in keys if key[1] == shape):
            row = fastest(cases[key])
            line = [shape, str(row.T), str(row.N), str(row.C), str(row.H), row.type, row.engine]
            line += [timing_cell(cases[key].get(way)) for way in ways]
            if key in peers:
                peer = peers[key]
                line += [number(peer.us_per_step), peer.algorithm]
                line += [ratio_cell(cases[key].get(way), peer) for way in ways]
            elif peers:
                line += ["-"] * (2 + len(ways))
            lines.append(line)
    return [f"## {title}", "", "Microseconds a step: median (p10 to p90).", "",
            *table(header, lines), ""]


def memory_section(cases):

    def mebibytes(ways, name):
        return f"{getattr(fastest(ways), name) / 2**20:.2f}" if ways else "-"

    lines = []
    for kind, shape in unique((kind, shape) for kind, shape, _ in cases):
        inference = cases.get((kind, shape, "inference"))
        training = cases.get((kind, shape, "training"))
        lines.append([
            shape, kind,
            mebibytes(inference, "workspace_bytes"),
            mebibytes(training, "workspace_bytes"),
            mebibytes(training, "reserve_bytes"),
        ])
    header = ["shape", "type", "workspace, inference", "workspace, training", "reserve"]
    return ["## Memory", "", "MiB, beside inputs, outputs and gradients.", "", *table(header, lines),
            ""]


def markdown(results, peers):
    cases = by_case(results.rows)
    lines = ["# Benchmark results", ""]
    lines += [f"- {key.replace('_', ' ')}: {value}" for key, value in results.context.items()]
    engines = unique(name for row in results.rows for name in row.engine.split(", "))
    lines += [f"- engines: {', '.join(engines)}", ""]
    if peers:
        lines += summary(cases, peers)
    for work, title in WORKS.items():
        lines += work_section(work, title, cases, peers)
    lines += memory_section(cases)
    if results.failures:
        lines += ["## Did not run", ""]
        lines += [f"- {name}: {message}" for name, message in results.failures]
        lines += [""]
    return "\n".join(lines)


def chart(paths, results, peers):
    import matplotlib  # pylint: disable=import-outside-toplevel

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # pylint: disable=import-outside-toplevel

    plt.rcParams["svg.hashsalt"] = "gru"
    cases = by_case(results.rows)
    kinds = unique(row.type for row in results.rows)
    works = [work for work in ("inference", "training") if any(k[2] == work for k in cases)]
    shapes = unique(row.shape for row in results.rows)
    labels = []
    for shape in shapes:
        row = next(row for row in results.rows if row.shape == shape)
        labels.append(f"{shape}  N{row.N} C{row.C} H{row.H}")
    styles = {
        "plain": {"marker": "o", "mfc": "white", "color": "tab:blue"},
        "graph": {"marker": "o", "color": "tab:blue"},
        "serial": {"marker": "o", "mfc": "white", "color": "tab:blue"},
        "threads": {"marker": "o", "color": "tab:blue"},
    }
    figure, axes = plt.subplots(len(kinds), len(works), sharex=True, squeeze=False,
                                figsize=(6.5 * len(works), 2.6 * len(kinds) + 1.6))
    for row_of_axes, kind in zip(axes, kinds):
        for axis, work in zip(row_of_axes, works):
            for way in unique(row.way for row in results.rows):
                points = [(i, cases[kind, shape, work][way].us_per_step)
                          for i, shape in enumerate(shapes)
                          if way in cases.get((kind, shape, work), {})]
                if points:
                    axis.plot(*zip(*points), linestyle="", label=f"gru, {way}", **styles[way])
            for i, shape in enumerate(shapes):
                key = (kind, shape, work)
                if key in peers and key in cases:
                    ours, theirs = fastest(cases[key]).us_per_step, peers[key].us_per_step
                    axis.plot([i, i], [ours, theirs], zorder=0,
                              color="tab:green" if ours < theirs else "tab:red")
            points = [(i, peers[kind, shape, work].us_per_step) for i, shape in enumerate(shapes)
                      if (kind, shape, work) in peers]
            if points:
                axis.plot(*zip(*points), linestyle="", marker="x", color="black",
                          label="cuDNN, its fastest algorithm")
            axis.set_yscale("log")
            axis.set_title(f"{kind}, {work}", fontsize=10)
            axis.set_ylabel("us a step")
            axis.grid(axis="y", which="both", alpha=0.25)
            axis.set_xticks(range(len(shapes)), labels, rotation=90, fontsize=7)
    axes[0][0].legend(fontsize=8)
    figure.suptitle(results.context.get("chip", ""), fontsize=10)
    figure.tight_layout()
    for path in paths:
        metadata = {"Date": None} if path.endswith(".svg") else None
        figure.savefig(path, dpi=150, metadata=metadata)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", help="JSON of gru_bench or gru_bench_host, or a CSV of --csv")
    parser.add_argument("--peer", metavar="CSV", help="cuDNN's figures, as results/cudnn-h200.csv")
    parser.add_argument("--csv", metavar="FILE", help="write the figures, without the machine's name")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables there, not to stdout")
    parser.add_argument("--chart", metavar="FILE", action="append", default=[],
                        help="draw a chart (.png or .svg); may be given twice")
    arguments = parser.parse_args()

    read = read_csv if arguments.results.endswith(".csv") else read_json
    results = read(arguments.results)
    if not results.rows and not results.failures:
        sys.exit(f"{arguments.results}: no results")
    peers = read_peer(arguments.peer) if arguments.peer else {}
    if arguments.csv:
        write_csv(arguments.csv, results)
    text = markdown(results, peers)
    if arguments.markdown:
        with open(arguments.markdown, "w", encoding="utf-8") as file:
            file.write(text)
    else:
        print(text)
    if arguments.chart:
        chart(arguments.chart, results, peers)


if __name__ == "__main__":
    main()
