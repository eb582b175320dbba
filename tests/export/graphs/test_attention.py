"""The graph of a transformer's attention: the same maps as PyTorch's, and which engine answers."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import handler
from export.errors import NotExportableError
from export.graphs.exporters import reverify
from handler.autograd.torch_engine import TorchEngine
from handler.errors import Unprocessable
from handler.explanation.evidence import TOP, Needs
from handler.explanation.methods import ATTENTION_METHODS
from handler.graphs.auto_engine import EitherEngine, disagreements
from handler.graphs.description import KIND_ATTENTION
from handler.graphs.onnx_engine import OnnxEngine
from handler.graphs.session import GraphSession
from handler.model.classifier import of_module
from handler.picture.preprocess import Preprocessing
from tests.support.exports import EXPORTERS, export_gradcam
from tests.support.models import random_classifier, random_inputs
from tests.support.transformers import SIDE, Transformer

HOW = Preprocessing(resize_size=SIDE, crop_size=SIDE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
PICTURE = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


@pytest.fixture(scope="module")
def classifier():
    return of_module(Transformer(prefix=3).eval().requires_grad_(False), "tiny", None, HOW)


@pytest.fixture(scope="module")
def path(classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("attention") / "tiny.attention.onnx"
    EXPORTERS[KIND_ATTENTION](classifier, path)
    return path


@pytest.fixture(scope="module")
def engine(path):
    return OnnxEngine({KIND_ATTENTION: GraphSession.open(path)})


@pytest.mark.parametrize("name", ATTENTION_METHODS)
def test_a_batch_of_targets_and_class_weights_gets_pytorchs_maps(classifier, engine, name):
    targets = [[TOP, 2], [np.array([1, -1, 0], np.float32)], [0]]
    pictures, needs = random_inputs(3, SIDE), Needs(attention=name)
    found, expected = engine.run(pictures, targets, needs), TorchEngine(classifier).run(pictures, targets, needs)
    np.testing.assert_allclose(found.attention, expected.attention, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(found.classes, expected.classes)
    assert found.attention.std(axis=0).min() > 1e-5, "the pairs differ"


def test_layercam_is_the_default_of_a_transformer_on_pytorch_and_on_its_graph(tmp_path):
    classifier = of_module(Transformer(mean=True).eval().requires_grad_(False), "tiny", None, HOW)
    export_gradcam(classifier, tmp_path / "tiny.gradcam.onnx")
    for model in (handler.wrap(classifier.module, preprocessing=HOW), handler.load(tmp_path / "tiny.gradcam.onnx")):
        told, asked, other = (
            model.explain(PICTURE, maps=["gradcam"], size="layer", **options).explanations[0]
            for options in ({}, {"method": "layercam"}, {"method": "gradcam"})
        )
        assert (told.method, asked.method, other.method) == ("layercam", "layercam", "gradcam")
        np.testing.assert_array_equal(told.maps["gradcam"].values, asked.maps["gradcam"].values)
        assert np.abs(told.maps["gradcam"].values - other.maps["gradcam"].values).max() > 0.1


def test_the_graph_is_verified_once_more(classifier, path):
    assert {check.output for check in reverify(path, classifier)} == {"logits", *ATTENTION_METHODS}


def test_auto_answers_from_the_graph_what_it_holds(classifier, engine):
    auto = EitherEngine("auto", engine, TorchEngine(classifier), engine.covers)
    for needs, answers in (
        (Needs(attention="legrad"), "onnx"),
        (Needs(), "onnx"),
        (Needs(attention="legrad", saliency=True), "torch"),
        (Needs(layers=(classifier.default_layer,)), "torch"),
    ):
        assert auto.run(random_inputs(1, SIDE), [[0]], needs).engine == answers, needs


def test_the_graph_names_its_methods_where_it_is_asked_for_more(classifier, engine):
    with pytest.raises(Unprocessable, match="valid are maps none and methods gradient_attention, legrad, rollout"):
        engine.run(random_inputs(1, SIDE), [[0]], Needs(layers=(classifier.default_layer,)))


def test_other_weights_are_found_out(classifier, engine):
    assert disagreements(engine, TorchEngine(classifier), HOW) == []
    module = copy.deepcopy(classifier.module)
    with torch.no_grad():
        module.blocks[0].qkv.weight.mul_(1.01)
    lines = disagreements(engine, TorchEngine(replace(classifier, module=module)), HOW)
    assert sum("attention graph: maps of attention" in line for line in lines) == len(ATTENTION_METHODS)


def test_the_graph_alone_explains_as_the_network_does(classifier, path):
    graph, network = handler.load(path), handler.wrap(classifier.module, preprocessing=HOW)
    assert set(ATTENTION_METHODS) <= set(graph.card.methods)
    for name in ATTENTION_METHODS:
        asked = {"method": name, "maps": "gradcam", "smooth": "augment"}
        found, expected = (model.explain(PICTURE, **asked).explanations[0] for model in (graph, network))
        np.testing.assert_allclose(found.maps["gradcam"].values, expected.maps["gradcam"].values, atol=1e-4)
        assert found.method == name
        assert not found.layers


def test_trust_repeats_the_map_of_attention(classifier):
    model = handler.wrap(classifier.module, preprocessing=HOW)
    trust = model.explain(PICTURE, method="legrad", maps="gradcam", trust=True).explanations[0].trust
    assert 0.5 < trust.stability <= 1


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"smooth": "eigen"}, "smooth eigen needs a method that weights channels"),
        ({"method": "rollout", "contrast": "second"}, "contrast needs a method that depends on the class"),
    ],
)
def test_an_option_that_attention_cannot_honour_is_refused(classifier, options, why):
    with pytest.raises(Unprocessable, match=why):
        handler.wrap(classifier.module, preprocessing=HOW).explain(PICTURE, **{"method": "legrad", **options})


def test_a_convolutional_network_offers_no_method_of_attention(tmp_path):
    classifier = random_classifier("resnet18")
    model = handler.wrap(classifier.module, preprocessing=classifier.preprocessing)
    assert not set(ATTENTION_METHODS) & set(model.card.description("torch")["methods"])
    with pytest.raises(
        Unprocessable, match="method rollout: there is no attention in this network; valid are gradcam, "
    ):
        model.explain(PICTURE, method="rollout")
    with pytest.raises(NotExportableError, match="there is no attention in this network"):
        EXPORTERS[KIND_ATTENTION](classifier, tmp_path / "resnet18.attention.onnx")
