"""Every pass: the numbers stay, bit for bit, and what should go is gone; what it must not touch stays."""

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx

import export.explanation_graph as explanation_graph
from export.backward_rules import backward_rules
from export.graph_file import to_onnx
from export.graph_rewrites import (
    divide_before_expanding,
    merge_equal,
    pick_rows,
    plane_indices,
    rewrite,
    specialise_sizes,
    without_mutation,
)
from tests.models import random_classifier, random_inputs

aten = torch.ops.aten


def trace(function, *inputs):
    graph = make_fx(
        function, decomposition_table=backward_rules(), tracing_mode="symbolic", _allow_non_fake_inputs=True
    )(*inputs)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def count(module, target):
    return len(module.graph.find_nodes(op="call_function", target=target))


def apply(module, *passes):
    done = [one(module.graph) for one in passes]
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return done


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_sizes_other_than_the_batch_become_numbers():
    module = trace(lambda x: x.mean(dim=(2, 3)) * (x.shape[2] * x.shape[0]), numbers(2, 3, 6, 5))
    assert apply(module, specialise_sizes)[0] > 0
    inputs = numbers(4, 3, 6, 5, seed=1)
    assert torch.equal(module(inputs), inputs.mean(dim=(2, 3)) * (6 * 4))


def test_operators_in_place_become_operators_out_of_place():
    def function(x):
        y = x * 2
        shown = y.size(0)
        z = F.relu(y, inplace=True) + shown
        return z + y, y

    inputs = numbers(4, 3)
    module = trace(function, numbers(2, 3))
    assert apply(module, without_mutation) == [1]
    assert count(module, aten.relu_.default) == 0
    assert all(torch.equal(one, other) for one, other in zip(module(inputs), function(inputs), strict=True))


def test_views_stay_in_place():
    def function(x):
        y = x * 2
        view = y[:, 1:]
        y.relu_()
        return view, y

    def through_view(x):
        y = x * 2
        y[:, 1:].relu_()
        return y

    for one in (function, through_view):
        module = trace(one, numbers(2, 3))
        assert apply(module, without_mutation, merge_equal) == [0, 0]
        assert count(module, aten.relu_.default) == 1


def test_what_is_computed_twice_is_computed_once():
    def function(x):
        return torch.exp(x * 2), torch.exp(x * 2) + 1, x * 2.0, x.sum(0), x.sum(1)

    module = trace(function, numbers(2, 3))
    apply(module, merge_equal)
    assert count(module, aten.exp.default) == 1
    assert count(module, aten.sum.dim_IntList) == 2
    inputs = numbers(5, 3)
    assert all(torch.equal(one, other) for one, other in zip(module(inputs), function(inputs), strict=True))


def test_random_numbers_are_not_merged():
    module = trace(lambda x: (torch.rand_like(x), torch.rand_like(x)), numbers(2, 3))
    assert apply(module, merge_equal) == [0]
    assert count(module, aten.rand_like.default) == 2


def score_gradient(weight):
    def function(x, target):
        x = x.detach().requires_grad_(True)
        return torch.autograd.grad(F.linear(x, weight).gather(1, target[:, None]).sum(), x)[0]

    return function


def test_a_product_with_a_one_hot_matrix_picks_rows():
    function = score_gradient(numbers(7, 5))
    module = trace(function, numbers(2, 5), torch.tensor([0, 3]))
    assert apply(module, pick_rows) == [1]
    assert count(module, aten.mm.default) == 0
    inputs, targets = numbers(4, 5, seed=1), torch.tensor([6, 0, 2, 2])
    assert torch.equal(module(inputs, targets), function(inputs, targets))


def test_other_products_stay():
    def function(x, target):
        return x.new_zeros(x.shape[0], 7).scatter_add(1, target, x) @ numbers(7, 5)

    module = trace(function, numbers(2, 2), torch.tensor([[0, 3], [1, 1]]))
    assert apply(module, pick_rows) == [0]


def test_division_comes_before_expansion():
    def function(x):
        return x.expand(x.shape[0], 5, 7, 6) / 42

    module = trace(function, numbers(2, 5, 1, 1))
    nodes = module.graph.find_nodes(op="call_function", target=aten.div.Tensor)
    for node in nodes:
        node.target = aten.div.Scalar  # as the gradient of a mean has it
    module.recompile()
    assert apply(module, specialise_sizes, divide_before_expanding)[1] == 1
    assert count(module, aten.expand.default) == 0
    inputs = numbers(3, 5, 1, 1, seed=1)
    assert torch.equal(module(inputs), function(inputs))


@pytest.mark.parametrize(("size", "ceil_mode"), list(itertools.product([(8, 8), (7, 9)], [True, False])))
def test_maxima_are_found_within_their_planes_by_one_pooling(size, ceil_mode):
    class Pool(torch.nn.Module):
        def forward(self, x):
            return F.max_pool2d(x, 3, 2, 1, ceil_mode=ceil_mode, return_indices=True)

    model = to_onnx(Pool().eval(), (numbers(2, 3, *size),), ["input"], ["largest", "where"])
    assert plane_indices(model) == 1
    assert sum(node.op_type == "MaxPool" for node in model.graph.node) == 1
    onnx.checker.check_model(model, full_check=True)
    inputs = numbers(4, 3, *size, seed=1).relu()  # with ties
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for found, expected in zip(session.run(None, {"input": inputs.numpy()}), Pool()(inputs), strict=True):
        np.testing.assert_array_equal(found, expected.numpy())


@pytest.mark.parametrize("architecture", ["shufflenet_v2_x0_5", "resnet18"])
def test_a_whole_explanation_stays_what_it_was(monkeypatch, architecture):
    classifier = random_classifier(architecture)
    rewritten = explanation_graph.trace(classifier)
    monkeypatch.setattr(explanation_graph, "rewrite", lambda module: module.graph.eliminate_dead_code())
    plain = explanation_graph.trace(classifier)
    plain.recompile()
    inputs, targets = torch.from_numpy(random_inputs(3)), torch.tensor([-1, 4, 9])
    for found, expected in zip(rewritten(inputs, targets), plain(inputs, targets), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * expected.abs().max().item())
    assert set(rewrite(rewritten).values()) == {0}, "a second time there is nothing left to do"
