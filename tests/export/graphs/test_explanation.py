import copy
import re
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import export.graphs.exporters as exporters
import export.tracing.explanation as tracing
from examples.random_weights import random_classifier as well_conditioned
from export.errors import NotExportableError
from export.graphs.exporters import explanation_kind
from export.verify.compare import Check, RoundingCheck, VerificationError, fresh_pictures
from handler.autograd.torch_engine import TorchEngine
from handler.client.model import GraphModel
from handler.explanation.evidence import TOP, Needs
from handler.explanation.methods import METHODS
from handler.graphs.description import KIND_EXPLANATION, KIND_SALIENCY, KINDS, GraphDescription
from handler.model.classifier import Classifier
from handler.model.sources import load_classifier
from handler.rendering.render import encode_png
from tests.support.exports import export_explanation, export_gradcam
from tests.support.models import random_classifier, tiny_classifier
from tests.support.serving import CHECKPOINT


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return load_classifier(checkpoint=CHECKPOINT)


@pytest.fixture(scope="module")
def graph(classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "shapes.explain.onnx"
    export_explanation(classifier, path)
    return path


def test_the_file_is_valid_describes_itself_and_stores_the_weights_once(graph, classifier):
    model = onnx.load(graph)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8, "the oldest that opset 18 goes with: older runtimes read it"
    assert not any(one.metadata_props for one in [*model.graph.node, *model.graph.value_info, *model.graph.initializer])
    description = GraphDescription.from_properties({one.key: one.value for one in model.metadata_props})
    assert description.kind == "explanation"
    assert description.layer == "conv5"
    assert description.coverage == "37 of 37 activations"
    assert description.labels == classifier.labels
    assert "guided_backprop" in description.verification
    stored = sum(one.ByteSize() for one in model.graph.initializer)
    needed = sum(one.nbytes for one in classifier.module.state_dict().values())
    assert stored <= 1.2 * needed  # a few small weights are there transposed, too


@pytest.mark.parametrize("batch", [1, 3, 8, 2])
def test_the_graph_equals_the_hooks_on_pictures_and_targets_it_was_not_exported_with(graph, classifier, batch):
    rng = np.random.default_rng([200, batch])
    pictures = fresh_pictures(rng, batch, classifier.preprocessing)
    targets = rng.integers(0, 10, batch)
    session = onnxruntime.InferenceSession(str(graph))
    found = dict(
        zip(KINDS[KIND_EXPLANATION].outputs, session.run(None, {"input": pictures, "target": targets}), strict=True)
    )
    evidence = TorchEngine(classifier).run(pictures, [[int(t)] for t in targets], Needs(layers=("conv5",), guided=True))
    layer = evidence.layers["conv5"]
    expected = {
        "logits": evidence.logits,
        "activations": layer.activation,
        "gradients": layer.gradient,
        "gradcam": METHODS["gradcam"].formula(layer.activation, layer.gradient),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=3e-5 * np.abs(value).max(), err_msg=name)
    beyond = np.abs(found["guided_backprop"] - evidence.guided) > 1e-4 * np.abs(evidence.guided).max()
    assert beyond.mean() <= 0.001  # a ReLU's gate can flip where rounding decides


def test_minus_one_is_the_top_class(graph, classifier):
    pictures = fresh_pictures(np.random.default_rng(300), 2, classifier.preprocessing)
    session = onnxruntime.InferenceSession(str(graph))
    logits, *_, top = session.run(None, {"input": pictures, "target": np.array([TOP, TOP])})
    *_, named = session.run(None, {"input": pictures, "target": logits.argmax(1)})
    np.testing.assert_array_equal(top, named)


@pytest.mark.parametrize("target", [-2, -10, -(2**63), 10, 2**63 - 1])
def test_onnx_runtime_refuses_every_other_target_that_is_no_class(graph, classifier, target):
    pictures = fresh_pictures(np.random.default_rng(300), 2, classifier.preprocessing)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(graph), options)
    with pytest.raises(Exception, match="out of data bounds"):  # ONNX Runtime's have no common base but this
        session.run(None, {"input": pictures, "target": np.array([0, target])})


@pytest.mark.parametrize("architecture", ["shufflenet_v2_x0_5", "mobilenet_v3_small"])
def test_gradcam_alone_stops_at_the_layer(tmp_path, architecture):
    classifier = random_classifier(architecture)
    checks = export_gradcam(classifier, tmp_path / "a.onnx")
    assert {check.output for check in checks} == {"logits", "activations", "gradients", "gradcam"}
    model = onnx.load(tmp_path / "a.onnx")
    description = GraphDescription.from_properties({one.key: one.value for one in model.metadata_props})
    assert (description.kind, description.coverage) == ("gradcam", "")
    convolutions = sum(node.op_type in ("Conv", "ConvTranspose") for node in model.graph.node)
    assert convolutions == sum(isinstance(layer, nn.Conv2d) for layer in classifier.module.modules())


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_other_families_export_and_verify(tmp_path, architecture):
    checks = export_explanation(random_classifier(architecture), tmp_path / "a.onnx")
    assert {check.batch for check in checks if check.output != "guided_backprop"} == {1, 3, 8}
    assert [check.batch for check in checks if check.output == "guided_backprop"] == [12]
    assert (tmp_path / "a.onnx").is_file()


def test_gradients_that_were_frozen_into_the_graph_are_found_out(tmp_path, monkeypatch):
    """A graph that always answers with the example's gradients: what naive tracing makes."""
    (tmp_path / "a.onnx").write_bytes(b"older")
    run = exporters.graph_run

    def frozen(model):
        genuine = run(model)

        def always_the_first(inputs):
            outputs = dict(genuine(inputs))
            outputs["gradients"] = np.repeat(outputs["gradients"][:1], len(inputs["target"]), axis=0)
            outputs["guided_backprop"] = np.repeat(outputs["guided_backprop"][:1], len(inputs["target"]), axis=0)
            return outputs

        return always_the_first

    monkeypatch.setattr(exporters, "graph_run", frozen)
    with pytest.raises(VerificationError, match="DIFFERS") as refused:
        export_explanation(random_classifier("shufflenet_v2_x0_5"), tmp_path / "a.onnx")
    line = r"the graph differs from PyTorch in gradients by \S+ \(RMS .*\), (gradcam by .*, )?guided_backprop by [^\n]*"
    assert re.fullmatch(line, refused.value.summary)
    assert list(tmp_path.iterdir()) == []


def test_an_operator_without_a_rule_is_refused_by_name(monkeypatch):
    rules = tracing.backward_rules(poles=False)
    rules.pop(torch.ops.aten.convolution_backward.default)
    monkeypatch.setattr(tracing, "backward_rules", lambda **_: rules)
    with pytest.raises(
        NotExportableError, match=r"shufflenet_v2_x0_5 needs aten\.convolution_backward\S*, without a rule"
    ):
        tracing.trace_graph(random_classifier("shufflenet_v2_x0_5"))


def test_of_a_network_without_relu_the_plain_gradient_is_explained(tmp_path):
    classifier = well_conditioned("efficientnet_b0", side=64)
    assert explanation_kind(classifier) == KIND_SALIENCY
    checks = export_explanation(classifier, tmp_path / "a.onnx")
    assert {check.output for check in checks} == {"logits", "activations", "gradients", "gradcam", "saliency"}
    model = GraphModel(tmp_path / "a.onnx")
    picture = encode_png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    answer = model.explain(picture, maps="saliency", encoding="npy", target=3).to_dict()
    assert answer["explanations"][0]["maps"]["saliency"]["shape"] == [64, 64, 3]
    with pytest.raises(ValueError, match="this graph holds gradcam, saliency"):
        model.explain(picture, maps="guided_backprop")


class Branching(nn.Module):
    """Looks at its values, which a trace has not."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 2)

    def forward(self, pictures):
        found = self.convolution(pictures).relu()
        if found.sum() > 0:
            found = found * 2
        return self.head(found.mean((2, 3)))


@pytest.mark.parametrize("export", [export_explanation, export_gradcam])
def test_a_network_that_branches_on_its_values_is_refused(tmp_path, export):
    (tmp_path / "a.onnx").write_bytes(b"older")
    classifier = replace(tiny_classifier(Branching()), default_layer="convolution")
    classifier = replace(classifier, preprocessing=replace(classifier.preprocessing, resize_size=8, crop_size=8))
    with pytest.raises(NotExportableError, match="tiny cannot be traced: "):
        export(classifier, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_gate_behind_the_layer_is_judged_by_its_rounding(tmp_path, monkeypatch):
    """One element of one picture's gradient is another: rounding can do that, and nothing more is forgiven."""
    run = exporters.graph_run

    def flipping(elements):
        def opened(model):
            genuine = run(model)

            def flipped(inputs):
                outputs = {name: values.copy() for name, values in genuine(inputs).items()}
                if len(inputs["target"]) == 3:
                    outputs["gradients"][1].flat[:elements] += 0.5 * np.abs(outputs["gradients"]).max()
                return outputs

            return flipped

        return opened

    classifier = random_classifier("shufflenet_v2_x0_5")
    monkeypatch.setattr(exporters, "graph_run", flipping(1))
    checks = {check.output: check for check in export_gradcam(classifier, tmp_path / "a.onnx")}
    assert isinstance(checks["gradients"], RoundingCheck)
    assert isinstance(checks["gradcam"], Check)
    monkeypatch.setattr(exporters, "graph_run", flipping(1000))
    with pytest.raises(VerificationError, match="gradients .* DIFFERS"):
        export_gradcam(classifier, tmp_path / "a.onnx")


def test_the_classifier_is_left_as_it_was(tmp_path):
    classifier = random_classifier("shufflenet_v2_x0_5")
    before = copy.deepcopy(classifier.module.state_dict())
    export_explanation(classifier, tmp_path / "a.onnx")
    after = classifier.module.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in classifier.module.modules())
    assert not any(layer._forward_hooks for layer in classifier.module.modules())
