# SPDX-License-Identifier: Apache-2.0
"""Reads tables of gru_bench and torch_gru.py, and JSON of gru_bench_host, as rows and cases."""

import csv
import dataclasses
import json
import math

WORKS = {
    "inference": "inference",
    "forward": "forward that keeps for backward",
    "backward": "backward, all gradients",
    "training": "training step: forward and backward, all gradients",
}
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
