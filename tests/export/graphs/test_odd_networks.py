"""A network is exported with the right values, plain autograd's, or refused with a sentence: never a traceback."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from export.errors import NotExportableError
from export.graphs.exporters import reverify
from handler.errors import ModelError
from handler.graphs.description import KINDS
from handler.graphs.session import GraphSession
from handler.model.classifier import Classifier
from handler.model.sources import load_classifier as load
from tests.support import odd
from tests.support.exports import export_explanation, export_gradcam, export_prediction

EXPORTS = {"prediction": export_prediction, "gradcam": export_gradcam, "explanation": export_explanation}


@pytest.fixture
def load_classifier(monkeypatch):
    def loaded(kind: str) -> Classifier:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            state = getattr(odd, kind)().state_dict()
        monkeypatch.setattr(odd, "weights", lambda: state, raising=False)
        return replace(load(f"tests.support.odd:{kind}"), default_layer=odd.LAYER)

    return loaded


def plain_autograd(module, pictures, targets):
    """Scores and the layer's gradient, without anything of this project."""
    kept = []
    handle = module.get_submodule(odd.LAYER).register_forward_hook(lambda _1, _2, output: kept.append(output))
    scores = module(torch.from_numpy(pictures.copy()).requires_grad_().clone())
    handle.remove()
    score = scores[torch.arange(len(targets)), torch.from_numpy(targets)].sum()
    return [one.detach().numpy() for one in (scores, *torch.autograd.grad(score, kept))]


@pytest.mark.parametrize(
    "kind",
    [
        "KeepsFeatures",
        "KeepsALock",
        "KeepsAScriptFunction",
        "SaysFloat",
        "InDouble",
        "MakesFloat32",
        "StepBeyondKernel",
        "BeginsInPlace",
        "OwnFunction",
        "SpectralNorm",
        "WeightNorm",
        "Normed",
        "ChangesABuffer",
        "Checkpointed",
        "ManyOperators",
        "OddPooling",
        "WindowBeyondTheCells",
        "KeepsUntilAMode",
        "SpatialTransformer",
        "OddPoolingOfVolumes",
        "SumsAtIndices",
    ],
)
def test_it_is_exported_with_plain_autograds_values(kind, load_classifier, tmp_path):
    assert_plain_autograds_values(load_classifier(kind), EXPORTS, tmp_path)


def assert_plain_autograds_values(classifier, exports, tmp_path):
    pictures = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)
    targets = np.array([2, 0, 1])
    scores, gradient = plain_autograd(classifier.module, pictures, targets)
    for name in exports:
        EXPORTS[name](classifier, tmp_path / name)
        reverify(tmp_path / name, classifier)
        feeds = {"input": pictures} if name == "prediction" else {"input": pictures, "target": targets}
        wanted = {"logits": scores} if name == "prediction" else {"logits": scores, "gradients": gradient}
        found = GraphSession.open(tmp_path / name).infer(feeds, list(wanted))
        for values, expected in zip(found, wanted.values(), strict=True):
            assert np.abs(expected).max() > 0
            np.testing.assert_allclose(values, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", EXPORTS)
def test_sums_at_indices_lose_no_term_on_several_threads(name, load_classifier, tmp_path):
    """As those of ONNX Runtime's ScatterND do, of which a prediction is not made either."""
    EXPORTS[name](load_classifier("SumsAtIndices"), tmp_path / name)
    nodes = onnx.load(tmp_path / name).graph.node
    summing = {node.op_type for node in nodes if any(attribute.s == b"add" for attribute in node.attribute)}
    assert summing == {"ScatterElements"}
    feeds = {"input": np.random.default_rng(0).standard_normal((8, 3, 16, 16)).astype(np.float32)}
    feeds |= {} if name == "prediction" else {"target": np.zeros(8, np.int64)}
    graph = GraphSession.open(tmp_path / name, threads=4)
    outputs = KINDS[graph.description.kind].outputs
    first, *others = ([values.tobytes() for values in graph.infer(feeds, outputs)] for _ in range(20))
    assert others == [first] * 19


@pytest.mark.parametrize(
    ("kind", "graphs", "said"),
    [
        ("Autocast", ["prediction", "gradcam"], "computes in bfloat16; make its weights float32, and use no autocast$"),
        ("Deformable", ["prediction", "gradcam"], "has no operator DeformConv of opset 18$"),
        ("Deformable", ["explanation"], "needs torchvision._deform_conv2d_backward.default, without a rule$"),
        ("LoopsOverTheBatch", EXPORTS, "one by one: no layer has a row for each picture of a batch$"),
    ],
)
def test_it_is_refused_with_a_sentence(kind, graphs, said, load_classifier, tmp_path):
    classifier = load_classifier(kind)
    for name in graphs:
        with pytest.raises(NotExportableError, match=said) as refused:
            EXPORTS[name](classifier, tmp_path / "a.onnx")
        assert "\n" not in str(refused.value)
        assert not list(tmp_path.iterdir())


def test_layers_under_no_grad_are_differentiated(load_classifier, tmp_path, monkeypatch):
    classifier = load_classifier("WithoutGradient")
    export_gradcam(classifier, tmp_path / "a.onnx")
    monkeypatch.setattr(odd.WithoutGradient, "features", odd.Plain.features)
    pictures, targets = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32), np.array([2, 0, 1])
    expected = plain_autograd(classifier.module, pictures, targets)
    found = GraphSession.open(tmp_path / "a.onnx").infer(
        {"input": pictures, "target": targets}, ["logits", "gradients"]
    )
    for values, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(values, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


def test_what_is_detached_is_refused_when_it_is_loaded(load_classifier):
    with pytest.raises(ModelError, match=r"have no gradient at the picture: every path goes through detach\(\)"):
        load_classifier("FirstWithoutGradient")
