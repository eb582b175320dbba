"""Which gradients can be infinite, and that a graph's closed gates stop them as PyTorch's do."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from export.graphs.exporters import reverify
from export.tracing.explanation import has_poles
from handler.autograd.torch_engine import TorchEngine
from handler.explanation.evidence import Needs
from handler.graphs.description import KIND_EXPLANATION, KIND_GRADCAM
from handler.graphs.session import GraphSession
from tests.support.exports import export_explanation, export_gradcam
from tests.support.models import random_classifier, tiny_classifier

SIDE = 16


@pytest.mark.parametrize(
    "architecture",
    ["resnet18", "shufflenet_v2_x0_5", "mobilenet_v3_small", "densenet121", "googlenet"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ("convnext_tiny", "vit_b_16")],
)
def test_torchvisions_networks_have_none(architecture):
    side = 75 if architecture == "googlenet" else 64
    module = random_classifier(architecture, side=side).module
    assert not has_poles(module(torch.randn(2, 3, side, side, requires_grad=True)))


class Unknown(torch.autograd.Function):
    @staticmethod
    def forward(_context, values):
        return values.clone()

    @staticmethod
    def backward(_context, gradient):
        return gradient


@pytest.mark.parametrize(
    ("function", "poles"),
    [
        (lambda x: x / 6, False),
        (lambda x: x / 6.0 + x**2, False),
        (lambda x: x.reshape(-1).relu().reshape(2, 3).t().contiguous() * x.sum(), False),
        (lambda x: x / x.detach().norm(), True),
        (lambda x: x / torch.full((2, 1), 2.0), True),
        (lambda x: 1 / x, True),
        (lambda x: x**0.5, True),
        (torch.sqrt, True),
        (torch.log, True),
        (torch.norm, True),
        (Unknown.apply, True),
    ],
)
def test_quotients_roots_and_what_is_unknown_have_some(function, poles):
    assert has_poles(function(torch.rand(2, 3, requires_grad=True)).sum()) == poles


class Rooted(nn.Module):
    """The signed square root of bilinear pooling: its gradient is infinite where a ReLU is closed."""

    def __init__(self, root):
        super().__init__()
        self.root = root
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, pictures):
        found = F.relu(self.second(F.avg_pool2d(F.relu(self.first(pictures)), 2)))
        return self.head(self.root(found).mean((2, 3)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "root",
    [torch.sqrt, lambda x: x**0.5, lambda x: (x * x).sqrt(), lambda x: x.abs().sqrt() * x.sign()],
    ids=["sqrt", "pow", "abs", "signed"],
)
def test_a_graph_stops_infinite_gradients_where_pytorch_does(root, tmp_path):
    torch.manual_seed(0)
    classifier = replace(tiny_classifier(Rooted(root), 3), default_layer="first")
    classifier = replace(classifier, preprocessing=replace(classifier.preprocessing, resize_size=SIDE, crop_size=SIDE))
    pictures = np.random.default_rng(0).standard_normal((3, 3, SIDE, SIDE)).astype(np.float32)
    expected = TorchEngine(classifier).run(pictures, [[0], [1], [2]], Needs(layers=("first",), guided=True))
    assert np.isfinite(expected.layers["first"].gradient).all()
    for export, kind in ((export_gradcam, KIND_GRADCAM), (export_explanation, KIND_EXPLANATION)):
        path = tmp_path / f"{kind}.onnx"
        export(classifier, path)
        names = ["gradients"] if kind == KIND_GRADCAM else ["gradients", "guided_backprop"]
        found = GraphSession.open(path).infer({"input": pictures, "target": np.arange(3)}, names)
        for values, wanted in zip(found, (expected.layers["first"].gradient, expected.guided), strict=False):
            assert np.abs(wanted).max() > 0
            np.testing.assert_allclose(values, wanted, atol=1e-4 * np.abs(wanted).max())
        reverify(path, classifier)
