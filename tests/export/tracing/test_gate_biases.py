"""The numbers stay, and gates are gone; what the pass must not touch stays."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

import export.tracing.explanation as tracing
from export.tracing.backward_rules import backward_rules
from export.tracing.gate_biases import gate_by_bias
from export.tracing.onnx_export import to_onnx
from export.tracing.trace import trace_batch
from tests.support.models import random_classifier, random_inputs

aten = torch.ops.aten


def trace(function, *inputs):
    graph = trace_batch(function, inputs, backward_rules(poles=False))
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def count(module, target):
    return len(module.graph.find_nodes(op="call_function", target=target))


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gate(rectified, values):
    return torch.autograd.grad(F.relu(values), values, rectified.relu())[0]


@pytest.mark.parametrize("summed", [False, True])
def test_a_gate_behind_a_convolution_becomes_its_bias(summed):
    def function(x, values):
        values = values.detach().requires_grad_(True)
        found = F.conv2d(x, numbers(4, 3, 3, 3, seed=2))
        return gate(found + values.detach() if summed else found, values)

    module = trace(function, numbers(2, 3, 6, 6), numbers(2, 4, 4, 4))
    assert gate_by_bias(module) == 1
    assert count(module, aten.gt.Scalar) == 0
    inputs, values = numbers(5, 3, 6, 6, seed=3), numbers(5, 4, 4, 4, seed=4)
    values[values.abs() < 0.3] = 0
    values[0, 0, 0] = torch.tensor([2.0**-57, -(2.0**-57), 1e30, torch.inf])
    assert torch.equal(module(inputs, values), function(inputs, values))


def test_a_gate_with_two_bounds_becomes_a_bias_too():
    weight = torch.eye(4)[:, :, None, None]

    def function(x):
        x = x.detach().requires_grad_(True)
        values = F.conv2d(x, weight)
        output = F.relu6(values)
        arriving = F.conv2d(output.detach(), weight).relu()
        return output.detach(), torch.autograd.grad(output, x, arriving)[0]

    module = trace(function, numbers(2, 4, 6, 6))
    assert gate_by_bias(module) == 1
    assert count(module, aten.lt.Scalar) == 0
    inputs = 4 * numbers(3, 4, 6, 6, seed=3)
    edges = torch.tensor([0, 2.0**-57, 1, 4, 6 - 2.0**-21, 6, 6 + 2.0**-21, 1e30, -1e-30])
    inputs[0, 0].flatten()[: len(edges)] = edges
    found, expected = module(inputs), function(inputs)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_gates_that_others_read_or_that_follow_no_convolution_stay():
    def read(x, values):
        values = values.detach().requires_grad_(True)
        found = F.conv2d(x, numbers(4, 3, 3, 3, seed=2))
        return gate(found, values) + found

    def product(x, values):
        values = values.detach().requires_grad_(True)
        return gate(x.flatten(1) @ numbers(108, 64), values)

    for function, shape in ((read, (2, 4, 4, 4)), (product, (2, 64))):
        module = trace(function, numbers(2, 3, 6, 6), numbers(*shape))
        assert gate_by_bias(module) == 0


def pooling_gradient(x, *options):
    x = x.detach().requires_grad_(True)
    found = F.max_pool2d(x, *options)
    return torch.autograd.grad(found, x, torch.ones_like(found) * 1.5)[0]


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
@pytest.mark.parametrize("options", [(3, 2, 1), (2, 2), (3, 1, 1), (3, 2, 1, 1, True)])
def test_max_poolings_gradient_is_pytorchs_in_the_graph(size, options):
    class Pool(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.graph = trace(lambda x: pooling_gradient(x, *options), numbers(2, 3, *size))
            gate_by_bias(self.graph)

        def forward(self, x):
            return self.graph(x)

    model = to_onnx(Pool().eval(), (numbers(2, 3, *size),), ["input"], ["gradient"], rewrites=False)
    onnx.checker.check_model(model, full_check=True)
    inputs = numbers(4, 3, *size, seed=1).relu()  # with ties
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {"input": inputs.numpy()})
    np.testing.assert_array_equal(found, pooling_gradient(inputs, *options).numpy())


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["shufflenet_v2_x0_5", "resnet18"])
def test_a_whole_explanation_stays_what_it_was(monkeypatch, architecture):
    classifier = random_classifier(architecture)
    rewritten = tracing.trace_graph(classifier)
    monkeypatch.setattr(tracing, "gate_by_bias", lambda module: module.graph.eliminate_dead_code())
    plain = tracing.trace_graph(classifier)
    plain.recompile()
    inputs = torch.from_numpy(random_inputs(3)), torch.tensor([-1, 4, 9]), torch.eye(3, 10)
    for found, expected in zip(rewritten(*inputs), plain(*inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * expected.abs().max().item())
    assert gate_by_bias(rewritten) == 0, "a second time there is nothing left to do"
