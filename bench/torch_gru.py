#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times torch.nn.GRU on the cases of a table that gru_bench wrote, in the same columns.

Eager calls, as users make them: PyTorch calls cuDNN and lets it choose the algorithm. Inputs and
weights are of the same distributions, not the same numbers. "forward" is a forward that keeps what
autograd needs; "training" adds the backward of all gradients.
"""

import argparse
import csv
import statistics
import sys
import time

import torch

ERROR_STEPS = 50  # as in gru_bench
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16,
          "bf16": torch.bfloat16}
CASE_COLUMNS = ("suite", "type", "shape", "T", "N", "C", "H", "work")


class Layer:
    """A GRU with inputs and incoming gradients."""

    def __init__(self, T, N, C, H, dtype):
        self.gru = torch.nn.GRU(C, H, device="cuda", dtype=dtype)
        uniform = lambda *sizes: (torch.rand(*sizes, device="cuda") * 2 - 1).to(dtype)
        self.x = uniform(T, N, C)
        self.h0 = uniform(1, N, H)
        self.dh = uniform(T, N, H)
        self.dfinal_state = uniform(1, N, H)

    def first_steps_in_double(self):
        exact = object.__new__(Layer)
        exact.gru = torch.nn.GRU(self.gru.input_size, self.gru.hidden_size).to("cuda", torch.float64)
        exact.gru.load_state_dict(self.gru.state_dict())
        exact.gru.flatten_parameters()
        for name in ("x", "h0", "dh", "dfinal_state"):
            tensor = getattr(self, name)
            steps = tensor[:ERROR_STEPS] if name in ("x", "dh") else tensor
            setattr(exact, name, steps.double())
        return exact

    def first_steps(self):
        short = object.__new__(Layer)
        short.__dict__.update(self.__dict__)
        short.x, short.dh = self.x[:ERROR_STEPS], self.dh[:ERROR_STEPS]
        return short

    def run(self, work):
        """Does the work; returns h and, in training, the gradients."""
        if work == "inference":
            with torch.no_grad():
                return [self.gru(self.x, self.h0)[0]]
        x = self.x.detach().requires_grad_()
        h0 = self.h0.detach().requires_grad_()
        h, final_state = self.gru(x, h0)
        if work == "forward":
            return [h]
        inputs = [x, *self.gru.parameters(), h0]
        gradients = torch.autograd.grad([h, final_state], inputs, [self.dh, self.dfinal_state])
        return [h, *gradients]


def errors(layer, work):
    """In the order of gru_bench's columns: h, dx, dkernel, drecurrent_kernel, biases, dh0."""
    outputs = layer.first_steps().run(work)
    exact = layer.first_steps_in_double().run(work)
    found = []
    for output, reference in zip(outputs, exact):
        difference = output.detach().double() - reference.detach()
        found.append(f"{float(difference.abs().max() / reference.detach().abs().max()):.2e}")
    return found


def time_once(layer, work):
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    layer.run(work)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def repeat(layer, work, rounds, deadline):
    for _ in range(2):
        time_once(layer, work)
    times = []
    while len(times) < rounds and (len(times) < 5 or time.monotonic() < deadline):
        times.append(time_once(layer, work))
    tenths = statistics.quantiles(times, n=10, method="inclusive")
    return statistics.median(times), tenths[0], tenths[-1], len(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", help="CSV of gru_bench")
    parser.add_argument("--suites", default="shapes", help="which suites of it, with commas between")
    parser.add_argument("--out", help="where the CSV goes (stdout)")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for everything")
    arguments = parser.parse_args()

    with open(arguments.table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    columns = list(rows[0])
    wanted = arguments.suites.split(",")
    cases = dict.fromkeys(tuple(row[c] for c in CASE_COLUMNS) for row in rows
                          if row["suite"] in wanted and row["work"] != "backward")

    out = open(arguments.out, "w", encoding="utf-8", newline="") if arguments.out else sys.stdout
    out.write(f"# torch: {torch.__version__}\n")
    out.write(f"# torch's cuDNN: {torch.backends.cudnn.version()}\n")
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    error_columns = [c for c in columns if c.startswith("error_")]
    begin = time.monotonic()
    for i, values in enumerate(cases):
        case = dict(zip(CASE_COLUMNS, values))
        seconds_left = arguments.seconds - (time.monotonic() - begin)
        if seconds_left <= 0:
            print(f"{'/'.join(values)}: left out, the time is up", file=sys.stderr)
            continue
        torch.backends.cudnn.allow_tf32 = case["type"] == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = case["type"] == "tf32"
        T, N, C, H = (int(case[c]) for c in "TNCH")
        layer = Layer(T, N, C, H, DTYPES[case["type"]])
        found = errors(layer, case["work"])
        deadline = time.monotonic() + seconds_left / (len(cases) - i)
        median, p10, p90, repeats = repeat(layer, case["work"], arguments.rounds, deadline)
        writer.writerow({
            **case, **dict(zip(error_columns, found)),
            "library": "torch", "engine": "nn.GRU", "way": "plain", "chosen": 1,
            "us_per_step": f"{median * 1e3 / T:.4f}",
            "us_per_step_p10": f"{p10 * 1e3 / T:.4f}",
            "us_per_step_p90": f"{p90 * 1e3 / T:.4f}",
            "repeats": repeats,
        })
        out.flush()


if __name__ == "__main__":
    main()
