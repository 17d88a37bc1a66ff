# SPDX-License-Identifier: Apache-2.0
"""gru_torch.GRU under torch.compile and torch.export."""

import os
import shutil

import pytest
import torch
from support import assert_close, gradients_of

import gru_torch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

INPUTS, UNITS = 4, 5
WITH_COMPILER = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="inductor needs a C++ compiler"
)


def draw(steps, batch):
    return torch.randn(steps, batch, INPUTS, dtype=torch.float64, requires_grad=True)


def make_layer(**options):
    torch.manual_seed(1)
    return gru_torch.GRU(INPUTS, UNITS, 2, bidirectional=True, dtype=torch.float64, **options)


def assert_same(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e, 100)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=WITH_COMPILER)])
def test_one_graph_serves_all_shapes(backend):
    layer = make_layer(zoneout=0.3).eval()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=backend)

    def check(steps, batch):
        x = draw(steps, batch)
        options = {"lengths": torch.arange(batch), "episode_starts": torch.rand(steps, batch) < 0.2}
        leaves = [x, *layer.parameters()]
        actual, expected = compiled(x, **options), layer(x, **options)
        assert_same(actual, expected)
        assert_same(gradients_of(actual, leaves), gradients_of(expected, leaves))

    check(6, 3)
    with torch.compiler.set_stance("fail_on_recompile"):
        check(9, 2)
        check(4, 7)


def test_static_shapes_and_inference():
    layer = make_layer()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = draw(6, 3)
    assert_same(compiled(x), layer(x))
    with torch.no_grad():
        assert_same(compiled(x), layer(x))


def test_each_compiled_call_draws_new_masks():
    layer = make_layer(zoneout=0.5, dropconnect=0.2)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = draw(6, 3)
    torch.manual_seed(1)
    first, second = compiled(x)[0], compiled(x)[0]
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(compiled(x)[0], first)
    gradients_of([second], [x, *layer.parameters()])


def test_export():
    layer = make_layer(zoneout=0.3).eval()
    steps, batch = torch.export.Dim("steps", min=2), torch.export.Dim("batch", min=2)
    program = torch.export.export(
        layer, (draw(6, 3).detach(),), dynamic_shapes={"input": {0: steps, 1: batch}}
    )
    x = draw(8, 2).detach()
    assert_same(program.module()(x), layer(x))


@pytest.mark.parametrize("exported_for_training", [True, False])
def test_an_exported_model_trains(exported_for_training):
    layer = make_layer(zoneout=0.3).eval()
    x = draw(6, 3)
    with torch.set_grad_enabled(exported_for_training):
        program = torch.export.export(layer, (x.detach(),))
    exported = program.module()
    actual, expected = exported(x), layer(x)
    assert_same(actual, expected)
    parameters = dict(exported.named_parameters())
    leaves = [parameters[name] for name, _ in layer.named_parameters()]
    assert_same(
        gradients_of(actual, [x, *leaves]), gradients_of(expected, [x, *layer.parameters()])
    )


def test_transforms_of_torch_func_run_outside_the_graph():
    layer = make_layer().eval()
    x = draw(6, 3).detach()
    parameters = {name: value.detach() for name, value in layer.named_parameters()}

    def loss(parameters, x):
        return torch.func.functional_call(layer, parameters, (x,))[0].square().sum()

    gradient = torch.func.grad(loss, argnums=(0, 1))
    with pytest.raises(torch._dynamo.exc.Unsupported, match="inside torch.func's transforms"):
        torch.compile(gradient, fullgraph=True, backend="aot_eager")(parameters, x)
    torch._dynamo.reset()
    compiled = torch.compile(gradient, backend="aot_eager")
    expected, actual = gradient(parameters, x), compiled(parameters, x)
    torch.testing.assert_close(actual, expected)
