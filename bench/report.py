#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns tables of gru_bench and torch_gru.py, or JSON of gru_bench_host, into Markdown and charts.

The tables need the standard library alone, the charts need matplotlib.
"""

import argparse
import math
import sys

from report_charts import charts
from report_rows import WORKS, cases_of, read_all, unique

SUITES = {
    "shapes": "Shapes",
    "batch": "Sweep over N",
    "hidden": "Sweep over H",
    "host": "Host engine",
}
PEER_NAMES = {"cudnn": "cuDNN", "torch": "torch.nn.GRU"}


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
