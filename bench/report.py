#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns tables of gru_bench and torch_gru.py, or JSON of gru_bench_host, into Markdown and charts.

The tables need the standard library alone, the charts need matplotlib.
"""

import argparse
import csv
import dataclasses
import json
import math
import sys

WORKS = {
    "inference": "inference",
    "forward": "forward that keeps for backward",
    "backward": "backward, all gradients",
    "training": "training step: forward and backward, all gradients",
}
SUITES = {
    "shapes": "Shapes",
    "batch": "Sweep over N",
    "hidden": "Sweep over H",
    "host": "Host engine",
}
PEER_NAMES = {"cudnn": "cuDNN", "torch": "torch.nn.GRU"}
# Of Google Benchmark's context: what is of the machine rather than of the measurement.
UNWANTED_CONTEXT = {
    "executable", "host_name", "load_avg", "caches", "json_schema_version", "library_build_type",
    "cpu_scaling_enabled",
}


@dataclasses.dataclass
class Row:
    """One measured way of doing one piece of work."""

    suite: str
    type: str
    shape: str
    T: int
    N: int
    C: int
    H: int
    work: str
    options: str
    library: str
    engine: str
    way: str
    chosen: bool
    us_per_step: float
    us_per_step_p10: float
    us_per_step_p90: float
    repeats: int
    predicted: float  # NaN: no prediction
    floor: float  # NaN: not modelled
    errors: dict  # {"h": 1e-6, ...}
    workspace_bytes: int
    reserve_bytes: int

    @property
    def case(self):
        return self.suite, self.type, self.shape, self.work

    @property
    def error(self):
        """The worst; NaN where nothing was compared."""
        return max(self.errors.values(), default=math.nan)


@dataclasses.dataclass
class Results:
    context: dict
    rows: list
    failures: list  # (name, message)


def number_or_nan(text):
    return float(text) if text else math.nan


def read_csv(path):
    results = Results({}, [], [])
    with open(path, encoding="utf-8", newline="") as file:
        lines = file.readlines()
    for line in lines:
        if line.startswith("# "):
            key, _, value = line[2:].strip().partition(": ")
            results.context[key] = value
    for record in csv.DictReader(line for line in lines if not line.startswith("#")):
        results.rows.append(
            Row(
                **{k: record[k] for k in ("suite", "type", "shape", "work", "options", "library",
                                          "engine", "way")},
                **{k: int(record[k]) for k in ("T", "N", "C", "H", "repeats")},
                **{k: int(record[k] or 0) for k in ("workspace_bytes", "reserve_bytes")},
                **{f"us_per_step{q}": number_or_nan(record[f"us_per_step{q}"])
                   for q in ("", "_p10", "_p90")},
                chosen=record["chosen"] == "1",
                predicted=number_or_nan(record["predicted_us_per_step"]),
                floor=number_or_nan(record["floor_us_per_step"]),
                errors={k.removeprefix("error_"): float(v) for k, v in record.items()
                        if k.startswith("error_") and v},
            ))
    return results


def read_json(path):
    """What gru_bench_host wrote."""
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
                suite="host", type=kind, shape=shape, work=work, options="", library="gru",
                engine=case.get("label", ""), way=way, chosen=True,
                **{k: int(case[k]) for k in ("T", "N", "C", "H", "repeats")},
                **{k: int(case[k]) for k in ("workspace_bytes", "reserve_bytes")},
                **{f"us_per_step{q}": float(case[f"us_per_step{q}"]) for q in ("", "_p10", "_p90")},
                predicted=math.nan, floor=math.nan, errors={},
            ))
    return results


def read_all(paths):
    results = Results({}, [], [])
    for path in paths:
        part = (read_json if path.endswith(".json") else read_csv)(path)
        results.context.update(part.context)
        results.rows += part.rows
        results.failures += part.failures
    return results


def unique(values):
    return list(dict.fromkeys(values))


def number(value):
    if math.isnan(value):
        return "-"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def error_text(row):
    return f"{row.error:.1e}" if row is not None and not math.isnan(row.error) else "-"


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def table(header, lines):
    """A Markdown table; its first column is aligned to the left."""
    marks = ["---" if i == 0 else "---:" for i in range(len(header))]
    return ["| " + " | ".join(line) + " |" for line in [header, marks, *lines]]


class Case:
    """The rows of one case: this library's choice without options, and its peers."""

    def __init__(self, rows):
        self.rows = [row for row in rows if row.chosen and not row.options]
        self.first = rows[0]

    def fastest(self, library, way=None):
        """The fastest row of a library, of one way or of any; None where there is none."""
        rows = [row for row in self.rows
                if row.library == library and way in (None, row.way)
                and not math.isnan(row.us_per_step)]
        return min(rows, key=lambda row: row.us_per_step, default=None)

    def ratio(self, peer, way=None, peer_way=None):
        """The peer's time over ours; None where one of them is missing."""
        ours, theirs = self.fastest("gru", way), self.fastest(peer, peer_way)
        return theirs.us_per_step / ours.us_per_step if ours and theirs else None


def cases_of(rows, suite, work=None):
    grouped = {}
    for row in rows:
        if row.suite == suite and work in (None, row.work):
            grouped.setdefault(row.case, []).append(row)
    return {key: Case(group) for key, group in grouped.items()}


# Which ways are set against each other: (peer, its way, our way, how it is called).
COMPARISONS = [
    ("cudnn", None, None, "fastest way of each"),
    ("cudnn", "plain", None, "cuDNN plainly, ours in its fastest way"),
    ("cudnn", "plain", "plain", "both plainly"),
    ("cudnn", "graph", "graph", "both in a graph"),
    ("torch", "plain", "plain", "both plainly"),
    ("torch", "plain", None, "ours in its fastest way"),
]


def summary_cell(cases, peer, peer_way, way):
    """The geometric mean of the ratios, the least and its shape, the most."""
    ratios = {case.first.shape: case.ratio(peer, way, peer_way) for case in cases}
    ratios = {shape: ratio for shape, ratio in ratios.items() if ratio is not None}
    if not ratios:
        return "-"
    worst = min(ratios, key=ratios.get)
    return (f"**{geometric_mean(ratios.values()):.2f}** "
            f"({ratios[worst]:.2f} {worst}, to {max(ratios.values()):.2f})")


def summary(rows):
    kinds = unique(row.type for row in rows if row.suite in SUITES)
    lines = []
    for suite, title in SUITES.items():
        for work in WORKS:
            cases = cases_of(rows, suite, work)
            for peer, peer_way, way, name in COMPARISONS:
                cells = [summary_cell([case for key, case in cases.items() if key[1] == kind],
                                      peer, peer_way, way) for kind in kinds]
                if any(cell != "-" for cell in cells):
                    lines.append([f"{title}: {work}", PEER_NAMES[peer], name, *cells])
    if not lines:
        return []
    return ["## Against the peers", "",
            "The peer's time over ours, measured in turns in one process (PyTorch: in another); of "
            "cuDNN the fastest algorithm of each case. Geometric mean, the least with its shape, the "
            "most. Below 1 ours is slower.", "",
            *table(["what", "peer", "ways", *kinds], lines), ""]


def error_cell(cases):
    """The largest of our errors over cuDNN's, with its shape."""
    ratios = {}
    for case in cases:
        ours, theirs = case.fastest("gru"), case.fastest("cudnn")
        if ours and theirs and ours.error >= 0 and theirs.error > 0:
            ratios[case.first.shape] = ours.error / theirs.error
    if not ratios:
        return "-"
    worst = max(ratios, key=ratios.get)
    above = sum(ratio > 1.25 for ratio in ratios.values())
    return f"{ratios[worst]:.2f} ({worst}), {above} of {len(ratios)} over 1.25"


def errors_summary(rows):
    kinds = unique(row.type for row in rows if row.suite in SUITES)
    lines = []
    for suite, title in SUITES.items():
        for work in WORKS:
            cases = cases_of(rows, suite, work)
            cells = [error_cell([case for key, case in cases.items() if key[1] == kind])
                     for kind in kinds]
            if any(cell != "-" for cell in cells):
                lines.append([f"{title}: {work}", *cells])
    if not lines:
        return []
    return ["## Errors beside cuDNN's", "",
            "Our error against float64 over that of cuDNN's fastest algorithm: the largest, with its "
            "shape.", "", *table(["what", *kinds], lines), ""]


def timing_text(row):
    if row is None:
        return "-"
    return (f"{number(row.us_per_step)} "
            f"({number(row.us_per_step_p10)} to {number(row.us_per_step_p90)})")


def ratio_text(ratio):
    return "-" if ratio is None else f"{ratio:.2f}"


def suite_section(rows, suite, work):
    """A table of one suite and one kind of work, a line a case."""
    cases = cases_of(rows, suite, work)
    if not cases:
        return []
    ways = unique(row.way for case in cases.values() for row in case.rows if row.library == "gru")
    has_cudnn = any(case.fastest("cudnn") for case in cases.values())
    has_torch = any(case.fastest("torch") for case in cases.values())
    has_errors = any(case.fastest("gru").errors for case in cases.values() if case.fastest("gru"))
    has_floor = any(not math.isnan(row.floor) for case in cases.values() for row in case.rows)
    header = ["shape", "T", "N", "C", "H", "type", "engine", *ways]
    header += ["floor"] if has_floor else []
    header += ["cuDNN", "its algorithm", "in a graph", "cuDNN / ours"] if has_cudnn else []
    header += ["PyTorch"] if has_torch else []
    header += ["our error"] if has_errors else []
    header += ["cuDNN's error"] if has_errors and has_cudnn else []
    lines = []
    for case in cases.values():
        ours = case.fastest("gru")
        if ours is None:
            continue
        line = [ours.shape, str(ours.T), str(ours.N), str(ours.C), str(ours.H), ours.type,
                ours.engine]
        line += [timing_text(case.fastest("gru", way)) for way in ways]
        if has_floor:
            line += [number(ours.floor)]
        if has_cudnn:
            plain = case.fastest("cudnn", "plain") or case.fastest("cudnn")
            line += [timing_text(plain), plain.engine if plain else "-",
                     timing_text(case.fastest("cudnn", "graph")), ratio_text(case.ratio("cudnn"))]
        if has_torch:
            line += [timing_text(case.fastest("torch"))]
        if has_errors:
            line += [error_text(ours)]
        if has_errors and has_cudnn:
            line += [error_text(case.fastest("cudnn"))]
        lines.append(line)
    notes = ["Microseconds a step: median (p10 to p90)."]
    if has_cudnn:
        notes.append("cuDNN / ours: the fastest way of each.")
    if has_errors:
        what = "h and of every gradient, the worst" if work == "training" else "h"
        notes.append("Error: the largest difference from float64 over the largest value, over the "
                     f"first 50 steps, of {what}.")
    if has_floor:
        notes.append("Floor: as bench/roofline.hpp models it.")
    return [f"## {SUITES[suite]}: {WORKS[work]}", "", " ".join(notes), "", *table(header, lines), ""]


def options_section(rows, suite, title):
    """Each set of options beside the same layer without."""
    rows = [row for row in rows if row.suite == suite and row.library == "gru" and row.chosen]
    lines = []
    for case in unique(row.case for row in rows):
        for way in unique(row.way for row in rows if row.case == case):
            group = [row for row in rows if row.case == case and row.way == way]
            without = next((row for row in group if not row.options), None)
            for row in group:
                extra = cost = "-"
                if without is not None and row.options:
                    cost = f"{row.us_per_step / without.us_per_step:.3f}"
                    extra = f"{(row.us_per_step - without.us_per_step) * 1e3:.0f}"
                lines.append([row.options or "none", row.shape, str(row.T), row.type, row.work,
                              row.engine, way, timing_text(row), cost, extra, error_text(row)])
    if not lines:
        return []
    header = ["options", "shape", "T", "type", "what", "engine", "way", "us a step",
              "over none", "ns a step more", "error"]
    return [f"## {title}", "", *table(header, lines), ""]


def streaming_section(rows):
    rows = [row for row in rows if row.suite == "streaming" and row.chosen]
    lines = []
    for case in unique(row.case for row in rows):
        group = [row for row in rows if row.case == case]
        ways = unique(row.way for row in rows)
        for library in unique(row.library for row in group):
            best = [min((row for row in group if row.library == library and row.way == way),
                        key=lambda row: row.us_per_step, default=None) for way in ways]
            names = ", ".join(unique(row.engine for row in best if row))
            first = group[0]
            lines.append([first.shape, first.type, PEER_NAMES.get(library, library), names,
                          *map(timing_text, best)])
    if not lines:
        return []
    header = ["shape", "type", "library", "engine", *unique(row.way for row in rows)]
    return ["## Streaming: one step a call", "",
            "Microseconds a call: 100 calls on end by CUDA events, or each waited for by the host's "
            "clock.", "", *table(header, lines), ""]


def engines_section(rows):
    """Predicted beside measured times, where more than the policy's choice was timed."""
    rows = [row for row in rows if row.library == "gru" and not row.options and row.way == "graph"
            and row.suite != "streaming"]
    lines = []
    for case in unique(row.case for row in rows):
        group = [row for row in rows if row.case == case]
        if len(group) < 2:
            continue
        best = min(row.us_per_step for row in group)
        for row in group:
            off = row.predicted / row.us_per_step
            lines.append([row.shape, row.type, row.work, row.engine, "yes" if row.chosen else "",
                          number(row.us_per_step), number(row.predicted),
                          "-" if math.isnan(off) else f"{off:.2f}",
                          f"{row.us_per_step / best:.2f}"])
    if not lines:
        return []
    chosen = [float(line[-1]) for line in lines if line[4]]
    header = ["shape", "type", "what", "engines", "chosen", "measured", "predicted",
              "predicted / measured", "over the best"]
    return ["## Engines", "", "Every engine that can run, from a graph, microseconds a step. The "
            f"choice is within 10% of the best in {sum(c <= 1.1 for c in chosen)} of {len(chosen)} "
            "cases.", "", *table(header, lines), ""]


def memory_section(rows):
    cases = {**cases_of(rows, "shapes"), **cases_of(rows, "host")}

    def mebibytes(case, library, name):
        row = case.fastest(library) if case else None
        return f"{getattr(row, name) / 2**20:.2f}" if row else "-"

    lines = []
    for suite, kind, shape in unique(key[:3] for key in cases):
        inference = cases.get((suite, kind, shape, "inference"))
        training = cases.get((suite, kind, shape, "training"))
        columns = [(inference, "workspace_bytes"), (training, "workspace_bytes"),
                   (training, "reserve_bytes")]
        lines.append([shape, kind, *(mebibytes(case, library, name) for case, name in columns
                                     for library in ("gru", "cudnn"))])
    if not lines:
        return []
    header = ["shape", "type", "workspace, inference", "cuDNN's", "workspace, training", "cuDNN's",
              "reserve", "cuDNN's"]
    return ["## Memory", "", "MiB, beside inputs, outputs and gradients, of the fastest run of "
            "each library.", "", *table(header, lines), ""]


def markdown(results):
    lines = ["# Benchmark results", ""]
    lines += [f"- {key.replace('_', ' ')}: {value}" for key, value in results.context.items()]
    lines += [""]
    lines += summary(results.rows)
    lines += errors_summary(results.rows)
    for suite in SUITES:
        for work in WORKS:
            lines += suite_section(results.rows, suite, work)
    lines += options_section(results.rows, "options", "Options")
    lines += options_section(results.rows, "lengths", "Lengths")
    lines += streaming_section(results.rows)
    lines += engines_section(results.rows)
    lines += memory_section(results.rows)
    if results.failures:
        lines += ["## Did not run", ""]
        lines += [f"- {name}: {message}" for name, message in results.failures]
        lines += [""]
    return "\n".join(lines)


# ---- Charts -------------------------------------------------------------------------------------

# library, way, label, style
LINES = [
    ("gru", "graph", "gru, graph", {"color": "tab:blue", "marker": "o"}),
    ("gru", "plain", "gru, plain", {"color": "tab:blue", "marker": "o", "mfc": "white", "ls": "--"}),
    ("cudnn", "graph", "cuDNN, graph", {"color": "black", "marker": "x"}),
    ("cudnn", "plain", "cuDNN, plain", {"color": "black", "marker": "x", "ls": "--"}),
    ("torch", "plain", "torch.nn.GRU", {"color": "tab:orange", "marker": "+", "ls": ":"}),
]


def ratio_chart(plt, rows):
    """cuDNN's time over ours for each of the shapes; a panel a type and kind of work. Bars: the
    fastest way of each; circles: both enqueued plainly."""
    works = [work for work in WORKS if cases_of(rows, "shapes", work)]
    kinds = unique(row.type for row in rows if row.suite == "shapes")
    if not any(row.library == "cudnn" and row.suite == "shapes" for row in rows):
        return None
    shapes = unique((row.shape, row.N, row.C, row.H) for row in rows if row.suite == "shapes")
    figure, axes = plt.subplots(len(kinds), len(works), sharex=True, squeeze=False,
                                figsize=(6.5 * len(works), 2.4 * len(kinds) + 1.8))
    for row_of_axes, kind in zip(axes, kinds):
        for axis, work in zip(row_of_axes, works):
            cases = cases_of(rows, "shapes", work)
            for i, (shape, *_) in enumerate(shapes):
                case = cases.get(("shapes", kind, shape, work))
                ratio = case.ratio("cudnn") if case else None
                if ratio is not None:
                    color = "tab:green" if ratio > 1 else "tab:red"
                    axis.bar(i, ratio - 1, bottom=1, color=color)
                plain = case.ratio("cudnn", "plain", "plain") if case else None
                if plain is not None:
                    axis.plot(i, plain, "o", mfc="none", color="black", ms=4)
            axis.set_yscale("log")
            ticks = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20]
            axis.set_yticks(ticks, map(str, ticks))
            axis.minorticks_off()
            axis.axhline(1, color="black", lw=0.8)
            axis.set_title(f"{kind}, {work}  (bars: fastest ways, circles: plain calls)", fontsize=10)
            axis.set_ylabel("cuDNN / ours")
            axis.grid(axis="y", alpha=0.25)
            labels = [f"{name}  N{N} C{C} H{H}" for name, N, C, H in shapes]
            axis.set_xticks(range(len(shapes)), labels, rotation=90, fontsize=7)
    return figure


def sweep_chart(plt, rows, suite, along, across):
    """Time against one size, a panel a type and value of another size."""
    rows = [row for row in rows if row.suite == suite and row.work == "inference"]
    kinds = unique(row.type for row in rows)
    if not rows:
        return None
    values = sorted({getattr(row, across) for row in rows})
    figure, axes = plt.subplots(len(kinds), len(values), sharex=True, sharey="row", squeeze=False,
                                figsize=(4.5 * len(values), 2.8 * len(kinds)))
    for row_of_axes, kind in zip(axes, kinds):
        for axis, value in zip(row_of_axes, values):
            cases = [case for key, case in cases_of(rows, suite).items()
                     if key[1] == kind and getattr(case.first, across) == value]
            cases.sort(key=lambda case: getattr(case.first, along))
            for library, way, label, style in LINES:
                points = [(getattr(case.first, along), case.fastest(library, way).us_per_step)
                          for case in cases if case.fastest(library, way)]
                if points:
                    axis.plot(*zip(*points), label=label, lw=1, ms=4, **style)
            floors = [(getattr(case.first, along), case.first.floor) for case in cases
                      if not math.isnan(case.first.floor)]
            if floors:
                axis.plot(*zip(*floors), label="modelled floor", lw=1, color="tab:gray", ls=":")
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.set_title(f"{kind}, {across} = {value}", fontsize=10)
            axis.set_xlabel(along)
            axis.xaxis.set_major_formatter("{x:.0f}")
            axis.set_ylabel("us a step")
            axis.grid(which="both", alpha=0.2)
    axes[0][0].legend(fontsize=7)
    return figure


def charts(prefix, results):
    """Writes PREFIX-NAME.svg; returns the paths."""
    import matplotlib  # pylint: disable=import-outside-toplevel

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # pylint: disable=import-outside-toplevel

    plt.rcParams["svg.hashsalt"] = "gru"
    figures = {
        "ratio": ratio_chart(plt, results.rows),
        "batch": sweep_chart(plt, results.rows, "batch", "N", "H"),
        "hidden": sweep_chart(plt, results.rows, "hidden", "H", "N"),
    }
    paths = []
    for name, figure in figures.items():
        if figure is None:
            continue
        figure.suptitle(results.context.get("chip", ""), fontsize=10)
        figure.tight_layout()
        paths.append(f"{prefix}-{name}.svg")
        figure.savefig(paths[-1], metadata={"Date": None})
    return paths


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", help="CSV of gru_bench and torch_gru.py; JSON of "
                        "gru_bench_host")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables there, not to stdout")
    parser.add_argument("--charts", metavar="PREFIX", help="draw PREFIX-ratio.svg and the like")
    arguments = parser.parse_args()

    results = read_all(arguments.results)
    if not results.rows and not results.failures:
        sys.exit(f"{', '.join(arguments.results)}: no results")
    text = markdown(results)
    if arguments.markdown:
        with open(arguments.markdown, "w", encoding="utf-8") as file:
            file.write(text)
    else:
        print(text)
    if arguments.charts:
        for path in charts(arguments.charts, results):
            print(path, file=sys.stderr)


if __name__ == "__main__":
    main()
