"""The graph of several layers, and the engine that has it, against the hooks and plain autograd."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from export.graphs.exporters import reverify
from handler.autograd.torch_engine import TorchEngine
from handler.errors import ModelError, Unprocessable
from handler.explanation.evidence import TOP, Needs
from handler.graphs.auto_engine import EitherEngine
from handler.graphs.description import KIND_BEHIND, KIND_EXPLANATION, KIND_GRADCAM, KIND_LAYERS
from handler.graphs.onnx_engine import OnnxEngine
from handler.graphs.session import GraphSession
from handler.model.classifier import of_module
from handler.picture.preprocess import Preprocessing
from tests.support.exports import EXPORTERS, export_explanation, export_gradcam
from tests.support.models import random_classifier, random_inputs

LAYERS = ("stage3", "stage4", "conv5.2")  # the last returns what the default layer does
SEVERAL = [[TOP, 3], [0]]


@pytest.fixture(scope="module")
def classifier():
    return replace(random_classifier("shufflenet_v2_x0_5", side=96), further_layers=LAYERS)


@pytest.fixture(scope="module")
def folder(classifier, tmp_path_factory):
    folder = tmp_path_factory.mktemp("layers")
    EXPORTERS[KIND_LAYERS](classifier, folder / KIND_LAYERS)
    export_gradcam(classifier, folder / KIND_GRADCAM)
    export_explanation(classifier, folder / KIND_EXPLANATION)
    return folder


def engine_of(folder, *kinds):
    return OnnxEngine({kind: GraphSession.open(folder / kind, kind, threads=1) for kind in kinds})


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5 * np.abs(expected).max())


def test_the_graph_holds_plain_autograds_gradients(classifier, folder):
    session, pictures = onnxruntime.InferenceSession(folder / KIND_LAYERS), random_inputs(2, 96)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"input": pictures, "target": [7, 2]}), strict=True))
    evidence = ("activations", "gradients", "gradcam")
    assert names == ["logits", *(f"{name}.{path}" for path in ("conv5", *LAYERS) for name in evidence)]
    kept = {}
    layers = {path: classifier.module.get_submodule(path) for path in ("conv5", *LAYERS)}
    handles = [
        layer.register_forward_hook(lambda _1, _2, output, path=path: kept.update({path: output}))
        for path, layer in layers.items()
    ]
    scores = classifier.module(torch.from_numpy(pictures).requires_grad_().clone())
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(scores[0, 7] + scores[1, 2], [kept[path] for path in layers])
    close(found["logits"], scores.detach().numpy())
    for path, gradient in zip(layers, gradients, strict=True):
        close(found[f"activations.{path}"], kept[path].detach().numpy())
        close(found[f"gradients.{path}"], gradient.numpy())


@pytest.mark.parametrize(
    ("needs", "ran"),
    [
        (Needs(layers=("conv5",)), [KIND_GRADCAM]),
        (Needs(layers=("stage4",)), [KIND_LAYERS]),
        (Needs(layers=("stage3", "conv5")), [KIND_LAYERS]),
        (Needs(layers=("conv5",), guided=True), [KIND_EXPLANATION]),
        (Needs(layers=("stage3", "stage4"), guided=True), [KIND_EXPLANATION, KIND_LAYERS]),
    ],
    ids=str,
)
def test_the_engine_finds_what_the_hooks_find(classifier, folder, needs, ran, monkeypatch):
    engine, pictures, kinds = engine_of(folder, KIND_GRADCAM, KIND_EXPLANATION, KIND_LAYERS), random_inputs(2, 96), []
    infer = GraphSession.infer
    monkeypatch.setattr(
        GraphSession, "infer", lambda self, *rest: kinds.append(self.description.kind) or infer(self, *rest)
    )
    assert engine.covers(needs)
    found, expected = engine.run(pictures, SEVERAL, needs), TorchEngine(classifier).run(pictures, SEVERAL, needs)
    assert kinds == ran
    assert list(found.layers) == list(needs.layers)
    for path, layer in expected.layers.items():
        close(found.layers[path].activation, layer.activation)
        close(found.layers[path].gradient, layer.gradient)
    np.testing.assert_array_equal(found.classes, expected.classes)
    assert (found.guided is None) == (expected.guided is None)
    assert found.coverage == expected.coverage


def test_a_layer_that_no_graph_has_is_refused_with_those_that_are_there(folder):
    engine = engine_of(folder, KIND_GRADCAM, KIND_LAYERS)
    assert not engine.covers(Needs(layers=("stage2",)))
    with pytest.raises(Unprocessable, match="maps gradcam at layers conv5, stage3, stage4, conv5.2$"):
        engine.run(random_inputs(1, 96), [[TOP]], Needs(layers=("stage2",)))


def test_what_lies_behind_a_further_layer_is_asked_of_the_hooks():
    module = nn.Sequential(*(layer for _ in range(3) for layer in (nn.LazyConv2d(8, 3, padding=1), nn.ReLU())))
    module.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten()).append(nn.LazyLinear(4))
    torch.manual_seed(0)
    module.eval()(torch.zeros(1, 3, 16, 16))
    how = Preprocessing(resize_size=16, crop_size=16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    network = replace(of_module(module.requires_grad_(False), "tiny", None, how), further_layers=("1",))
    assert (network.default_layer, network.layers["1"]) == ("5", network.layers["5"])
    with tempfile.TemporaryDirectory() as folder:
        files = {kind: Path(folder) / kind for kind in (KIND_GRADCAM, KIND_LAYERS, KIND_BEHIND)}
        for kind, path in files.items():
            EXPORTERS[kind](network, path)
        graphs = OnnxEngine({kind: GraphSession.open(path, kind) for kind, path in files.items()})
    hooks, changed = TorchEngine(network), np.random.default_rng(0).random((3, 8, 16, 16), np.float32)
    picture = random_inputs(1, 16)
    for layer in ("5", "1"):
        found = EitherEngine("auto", graphs, hooks, graphs.covers).behind(picture, layer, changed)
        np.testing.assert_allclose(found, hooks.behind(picture, layer, changed), atol=1e-5)
    with pytest.raises(Unprocessable, match="do not hold"):
        graphs.behind(picture, "1", changed)


def test_a_written_graph_is_verified_at_its_own_layers(classifier, folder):
    checks = reverify(folder / KIND_LAYERS, replace(classifier, further_layers=()))
    assert {"gradients.stage3", "gradcam.conv5", "activations.stage4"} <= {check.output for check in checks}


def test_layers_without_a_map_are_refused(classifier):
    with pytest.raises(ModelError, match=r"^layer 'fc' has no map .*, valid are .*conv5"):
        classifier.check_layers(["conv5", "fc"])
