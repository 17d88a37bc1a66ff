# SPDX-License-Identifier: Apache-2.0
"""Draws the charts of report.py."""

import math

from report_rows import WORKS, cases_of, unique

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
