# SPDX-License-Identifier: Apache-2.0
"""Random layers, and how near two results must be."""

import torch

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def assert_close(actual, expected, terms):
    """`actual` against `expected` of a higher precision. `terms` is the length of the longest chain
    of sums: rounding errors grow with its root, and are relative to the largest value."""
    assert actual.shape == expected.shape
    wide = expected.detach().double()
    scale = max(1.0, wide.abs().max().item()) if wide.numel() else 1.0
    allowed = 2 * torch.finfo(actual.dtype).eps * terms**0.5 * scale
    torch.testing.assert_close(actual.detach().double(), wide, rtol=0, atol=allowed)


def make_layer(steps=6, batch=3, inputs=4, units=5, dtype=torch.float64, seed=1):
    """The op's tensors by name, with random values that dtype can hold, as float64 leaves."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)

    def draw(*shape, scale=0.5):
        values = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
        return values.to(dtype).double().requires_grad_()

    return {
        "x": draw(steps, batch, inputs, scale=1.0),
        "w_ih": draw(3 * units, inputs),
        "w_hh": draw(3 * units, units),
        "b_ih": draw(3 * units),
        "b_hh": draw(3 * units),
        "h0": draw(batch, units),
    }


def on_device(options):
    """`options` with their tensors on the device of the test."""
    device = torch.get_default_device()
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in options.items()}


def as_leaves(tensors, dtype):
    return {k: v.detach().to(dtype).requires_grad_() for k, v in tensors.items()}


def terms_of(tensors):
    """The length of the longest sum of a layer: of the weights' gradients, or of the products."""
    steps, batch, inputs = tensors["x"].shape
    return steps * batch + inputs + tensors["w_hh"].shape[1]


def weighted_sum(*tensors):
    """A sum whose weights differ from element to element, so that no error can hide in it."""
    total = 0
    for tensor in tensors:
        ramp = torch.linspace(-1, 1, tensor.numel(), dtype=torch.float64).reshape(tensor.shape)
        total = total + (tensor.double() * ramp).sum()
    return total


def gradients_of(outputs, tensors):
    """The gradient of a weighted sum of the outputs by each tensor."""
    return torch.autograd.grad(weighted_sum(*outputs), tensors)
