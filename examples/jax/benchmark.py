# SPDX-License-Identifier: Apache-2.0
"""Times gru_jax.gru beside a lax.scan over steps, in turns, and prints a table.

Both clear the state where an episode starts. The scan has its input product before it, as one; in
float32 its products have that type's precision ("highest"), as ours have. "inference" computes h
and h_last, "training" the gradients of x, the weights and h0 too. Each call is timed from Python.

    python examples/jax/benchmark.py > benchmark.md
    python examples/jax/benchmark.py --draw benchmark.md benchmark.svg    # needs matplotlib
"""

import argparse
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np

import gru_jax

USUAL = {"T": 128, "N": 256, "H": 256}  # the case in which the sweeps of SHAPES meet
SHAPES = [(128, n, 256) for n in (256, 32, 1024, 4096)]
SHAPES += [(t, 256, 256) for t in (16, 1000)]
SHAPES += [(128, 256, h) for h in (64, 512, 1024)]


def scan(x, params, h0, starts):
    def step(state, inputs):
        p, starts = inputs
        state = jnp.where(starts[:, None], 0, state)
        p_z, p_r, p_g = jnp.split(p, 3, axis=-1)
        product = state @ params.recurrent_kernel + params.recurrent_bias
        q_z, q_r, q_g = jnp.split(product, 3, axis=-1)
        z, r = jax.nn.sigmoid(p_z + q_z), jax.nn.sigmoid(p_r + q_r)
        state = z * state + (1 - z) * jnp.tanh(p_g + r * q_g)
        return state, state

    h_last, h = jax.lax.scan(step, h0, (x @ params.kernel + params.bias, starts))
    return h, h_last


def fused(x, params, h0, starts):
    return gru_jax.gru(x, params, h0, episode_starts=starts)


LAYERS = {"gru_jax.gru": fused, "lax.scan": scan}


def training(layer):
    """The outputs, and the gradients for given ones of h and h_last."""

    def step(x, params, h0, starts, incoming):
        outputs, pullback = jax.vjp(lambda *inputs: layer(*inputs, starts), x, params, h0)
        return outputs, pullback(incoming)

    return step


def inference(layer):
    return lambda x, params, h0, starts, incoming: layer(x, params, h0, starts)


WORKS = {"inference": inference, "training": training}


def inputs(steps, batch, units, dtype):
    """A layer whose input is as wide as its state; an episode starts every 100 steps or so."""
    keys = iter(jax.random.split(jax.random.key(0), 8))
    normal = lambda *shape: jax.random.normal(next(keys), shape, dtype)
    weights = lambda *shape: normal(*shape) * jnp.asarray(units**-0.5, dtype)
    params = gru_jax.Parameters(
        weights(units, 3 * units), weights(units, 3 * units), weights(3 * units), weights(3 * units)
    )
    starts = jax.random.bernoulli(next(keys), 0.01, (steps, batch))
    incoming = normal(steps, batch, units), normal(batch, units)
    return normal(steps, batch, units), params, jnp.zeros((batch, units), dtype), starts, incoming


def median_milliseconds(functions, arguments, repeats):
    """Of each function, called in turns."""
    for function in functions:
        jax.block_until_ready(function(*arguments))
    times = np.empty((repeats, len(functions)))
    for i, j in np.ndindex(*times.shape):
        begin = time.perf_counter()
        jax.block_until_ready(functions[j](*arguments))
        times[i, j] = time.perf_counter() - begin
    return 1e3 * np.median(times, axis=0)


def read(table):
    """The rows of a printed table, without the last column."""
    for line in open(table):
        cells = [cell.strip() for cell in line.split("|")[1:-2]]
        if len(cells) == 7 and cells[2].isdigit():
            yield (*cells[:2], *map(int, cells[2:5]), *map(float, cells[5:]))


def draw(table, chart):
    """How many times faster than the scan, over each size, where the others are the usual."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "gru", "svg.fonttype": "none"})
    import matplotlib.pyplot as plt

    rows = list(read(table))
    figure, axes = plt.subplots(1, 3, figsize=(10, 4), sharey=True, layout="constrained")
    for i, (name, ax) in enumerate(zip(USUAL, axes, strict=True)):
        lines = {}
        for dtype, work, *sizes, ours, theirs in rows:
            usual = [*USUAL.values()]
            usual[i] = sizes[i]
            if sizes == usual:
                lines.setdefault((dtype, work), []).append((sizes[i], theirs / ours))
        for line, points in lines.items():
            ax.plot(*zip(*sorted(points), strict=True), marker=".", label=", ".join(line))
        others = ", ".join(f"{other} {USUAL[other]}" for other in USUAL if other != name)
        ax.set(title=others, xlabel=name, xscale="log", yscale="log")
        ax.axhline(1, color="gray", linewidth=0.8)
    axes[0].set_ylabel("times faster than lax.scan")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right", fontsize="small")
    figure.savefig(chart, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shapes", nargs="+", metavar="TxNxH", help="instead of the usual ones")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--draw", nargs=2, metavar=("TABLE", "SVG"), help="figures measured before")
    settings = parser.parse_args()
    if settings.draw:
        return draw(*settings.draw)
    shapes = [tuple(map(int, s.split("x"))) for s in settings.shapes or []] or SHAPES
    jax.config.update("jax_default_matmul_precision", "highest")

    device = jax.devices()[0].device_kind
    print(f"{device}, JAX {jax.__version__}, C = H; median of {settings.repeats} calls, in ms\n")
    print("| type | work | T | N | H | " + " | ".join(LAYERS) + " | times faster |")
    print("|---|---" + "|---:" * (4 + len(LAYERS)) + "|")
    for shape, dtype, work in itertools.product(shapes, settings.dtypes, WORKS):
        functions = [jax.jit(WORKS[work](layer)) for layer in LAYERS.values()]
        ours, theirs = median_milliseconds(functions, inputs(*shape, dtype), settings.repeats)
        case = " | ".join((dtype, work, *map(str, shape)))
        print(f"| {case} | {ours:.3f} | {theirs:.3f} | {theirs / ours:.1f} |", flush=True)


if __name__ == "__main__":
    main()
