"""Graphs for devices: they take class weights, hold no operator that selects, and answer as PyTorch does."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from deploy.devices.forms import OPSETS, Form
from export.__main__ import main
from export.graphs.exporters import export_graph, reverify
from export.tracing.onnx_export import to_onnx
from handler.autograd.torch_engine import TorchEngine
from handler.client.model import GraphModel
from handler.errors import ModelError
from handler.explanation.evidence import TOP, Needs
from handler.graphs.description import KIND_EXPLANATION, KIND_GRADCAM, KIND_PREDICTION, GraphDescription
from handler.graphs.onnx_engine import OnnxEngine
from handler.graphs.session import GraphSession
from tests.support.models import random_classifier, random_inputs

FORBIDDEN = {"ArgMax", "ScatterElements", "ScatterND", "GatherElements", "GatherND", "OneHot", "NonZero", "TopK"}
SIDE = 32


@pytest.mark.parametrize(
    ("architecture", "kind", "form"),
    [
        ("shufflenet_v2_x0_5", KIND_EXPLANATION, Form(portable=True)),
        ("squeezenet1_1", KIND_EXPLANATION, Form(portable=True, batch=2, opset=17)),  # pools in ceil mode
        ("resnet18", KIND_GRADCAM, Form(portable=True, batch=1, opset=21)),
    ],
)
def test_a_portable_graph_finds_the_evidence_of_targets_and_weights(tmp_path, architecture, kind, form):
    classifier, path = random_classifier(architecture, side=SIDE), tmp_path / "a.onnx"
    export_graph(classifier, path, kind, form)  # which compares the graph with PyTorch
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert (model.opset_import[0].version, model.ir_version) == (form.opset, {17: 8, 18: 8, 21: 10}[form.opset])
    assert {node.op_type for node in model.graph.node}.isdisjoint(FORBIDDEN)
    assert all(len(node.output) == 1 for node in model.graph.node if node.op_type == "MaxPool")
    assert [one.name for one in model.graph.input] == ["input", "weights"]
    assert all(one.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for one in model.graph.input)
    assert {tensor.name for tensor in model.graph.initializer}.isdisjoint(["weights"]), "required, without a default"
    graph = GraphSession.open(path)
    assert (graph.description.portable, graph.description.batch) == (True, form.batch)
    against = np.zeros(10, np.float32)
    against[[2, 5]] = 1, -1
    targets = [[TOP], [3, against], [], [0]]
    inputs, needs = random_inputs(4, SIDE), Needs(layers=(classifier.default_layer,))
    expected = TorchEngine(classifier).run(inputs, targets, needs)
    found = OnnxEngine({kind: graph}).run(inputs, targets, needs)
    np.testing.assert_array_equal(found.classes, expected.classes)
    wanted = expected.layers[classifier.default_layer].gradient
    difference = np.abs(found.layers[classifier.default_layer].gradient - wanted)
    assert difference.max() <= 1e-4 * np.abs(wanted).max()
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4 * np.abs(expected.logits).max())


def test_a_usual_graph_of_a_fixed_batch_is_opened_and_takes_other_numbers_of_pictures(tmp_path):
    classifier, path = random_classifier("shufflenet_v2_x0_5", side=SIDE), tmp_path / "a.onnx"
    export_graph(classifier, path, KIND_GRADCAM, Form(batch=2))
    inputs, needs = random_inputs(3, SIDE), Needs(layers=(classifier.default_layer,))
    found = OnnxEngine({KIND_GRADCAM: GraphSession.open(path)}).run(inputs, [[TOP], [1], [2]], needs)
    expected = TorchEngine(classifier).run(inputs, [[TOP], [1], [2]], needs)
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4 * np.abs(expected.logits).max())
    wanted = expected.layers[classifier.default_layer].gradient
    assert np.abs(found.layers[classifier.default_layer].gradient - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_the_client_explains_with_a_portable_graph_and_a_changed_one_is_found(tmp_path, capsys):
    classifier, path = random_classifier("shufflenet_v2_x0_5", side=32), tmp_path / "a.onnx"
    export_graph(classifier, path, KIND_GRADCAM, Form(portable=True))
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    top, against = GraphModel(path).explain(picture, target="top,-class 3").explanations
    named = GraphModel(path).explain(picture, target=top.target.index).explanations[0]
    np.testing.assert_array_equal(named.maps["gradcam"].values, top.maps["gradcam"].values)
    assert not np.array_equal(against.maps["gradcam"].values, top.maps["gradcam"].values)
    reverify(path, classifier)
    assert main(["devices", str(path), "--target", "webgpu"]) == 0
    said = capsys.readouterr().out
    assert "webgpu        takes the whole graph" in said
    assert "webnn         not known to take " in said, "the batch is free"


class Gathers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x).relu().flatten(2)
        return self.head(x.gather(2, x.argmax(2, keepdim=True)).flatten(1))


def test_an_operator_that_selects_is_named_where_there_is_no_portable_graph():
    example = (torch.randn(2, 3, 8, 8),)
    with pytest.raises(ModelError, match="a portable graph of this network would need ArgMax, GatherElements"):
        to_onnx(Gathers().eval(), example, ["x"], ["y"], rewrites=True, form=Form(portable=True))


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_of_the_range_can_be_had(tmp_path, opset):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    example = (torch.randn(2, 3, 16, 16),)
    model = to_onnx(net.eval(), example, ["x"], ["y"], rewrites=True, form=Form(opset=opset))
    assert model.opset_import[0].version == opset
    assert model.ir_version == onnx.helper.find_min_ir_version_for(model.opset_import)


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        (["--opset", "14"], "'14' is not valid, valid are 15 to 25"),
        (["--opset", "new"], "'new' is not valid, valid are 15 to 25"),
        (["--batch", "-1"], "'-1' is not valid, valid are 0 to 4096"),
    ],
)
def test_values_that_are_not_valid_are_refused(said, wrong, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([KIND_PREDICTION, "--model", "resnet18", *said])
    assert wrong in capsys.readouterr().err


def test_descriptions_of_usual_graphs_are_what_they_were():
    known = {"architecture": "a", "weights_sha256": "0", "labels": ["b"], "kind": KIND_PREDICTION}
    usual = GraphDescription(**known, preprocessing=random_classifier("squeezenet1_1", side=SIDE).preprocessing)
    assert {"portable", "batch", "head"}.isdisjoint(usual.to_properties())
