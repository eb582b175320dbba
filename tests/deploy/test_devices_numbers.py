"""Graphs in int8 and float16, held to numpy, scipy and PyTorch."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import parser
from PIL import Image
from scipy.stats import spearmanr

from deploy.devices.agreement import Agreement, rank_correlation
from deploy.devices.calibration import Pictures, draw
from deploy.devices.fp16 import check_range
from deploy.devices.int8 import check_head, quantise
from deploy.devices.precision import Precision
from export.__main__ import main
from export.graphs.exporters import export_graph, reverify
from export.verify.compare import VerificationError
from handler.client.model import GraphModel
from handler.errors import ModelError
from handler.graphs.session import GraphSession
from tests.support.models import random_classifier
from tests.support.serving import ONE

HEADS = {"shufflenet_v2_x0_5": "fc", "mobilenet_v2": "classifier.1"}


def some(classifier):
    halves = (draw(classifier.preprocessing, count, seed) for seed, count in enumerate((8, 6), start=1))
    calibrating, comparing = halves
    return Pictures(calibrating=calibrating, comparing=comparing, origin="8", compared="6 others")


@pytest.fixture(scope="module", params=HEADS)
def made(request, tmp_path_factory):
    """The classifier, the open float32 graph of its Grad-CAM, and the file of the int8 graph."""
    classifier, folder = random_classifier(request.param), tmp_path_factory.mktemp("store")
    export_graph(classifier, folder / "a.gradcam.onnx", "gradcam")
    precision, path = Precision(numbers="int8", needed=0), folder / "a.gradcam.int8.onnx"
    said = precision.write(folder / "a.gradcam.onnx", path, some(classifier))
    assert "times as fast as float32 here" in said
    assert sorted(one.name for one in folder.iterdir()) == ["a.gradcam.int8.onnx", "a.gradcam.onnx"]
    return classifier, GraphSession.open(folder / "a.gradcam.onnx"), path


@pytest.mark.slow
def test_int8_gradcam_is_the_class_activation_map_of_its_own_activations(made):
    classifier, whole, path = made
    graph, pictures, targets = GraphSession.open(path), draw(classifier.preprocessing, 4, 3), np.array([0, 7, -1, 3])
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert {"QuantizeLinear", "Conv"} < kinds
    assert not any("BatchNorm" in kind for kind in kinds)
    asked = {"input": pictures, "target": targets}
    outputs = "logits", "activations", "gradients", "gradcam"
    logits, activations, gradients, maps = graph.infer(asked, outputs)
    weights = classifier.module.get_submodule(HEADS[classifier.architecture]).weight.double().numpy()
    rows = weights[np.where(targets < 0, logits.argmax(axis=1), targets)]
    cells = activations.shape[2] * activations.shape[3]
    expected = np.maximum(np.einsum("nc,nchw->nhw", rows, activations.astype(np.float64)), 0) / cells
    np.testing.assert_allclose(maps, expected, rtol=1e-5, atol=1e-6 * expected.max())
    np.testing.assert_allclose(gradients, np.broadcast_to((rows / cells)[:, :, None, None], gradients.shape), rtol=1e-5)
    mixture = np.random.default_rng(0).standard_normal((4, len(classifier.labels)), np.float32)
    found, exact = (one.infer({**asked, "weights": mixture}, ["gradients"])[0] for one in (graph, whole))
    np.testing.assert_array_equal(found, exact)
    assert not np.array_equal(activations, whole.infer(asked, ["activations"])[0])


@pytest.mark.slow
def test_an_int8_graph_explains_pictures_and_says_how_far_it_agrees(made):
    classifier, whole, path = made
    model = GraphModel(path)
    result = model.explain(ONE, target="class 3, top", maps="gradcam")
    assert [set(one.maps) for one in result.explanations] == [{"gradcam"}] * 2
    said = model.card.description("onnx")["precision"]
    assert said.startswith("int8, calibrated by 8; against float32, on 6 others: best class the same for ")
    known = model.description.precision
    assert (known["numbers"], known["needed"], known["pictures"]) == ("int8", 0, 6)
    pictures = some(classifier).comparing
    graphs = whole, GraphSession.open(path)
    tops = [one.infer({"input": pictures, "target": np.full(6, -1)}, ["logits"])[0].argmax(axis=1) for one in graphs]
    assert known["same_top"] == (tops[0] == tops[1]).mean()
    assert "precision" not in whole.description.to_properties()


@pytest.mark.slow
def test_verification_holds_it_to_its_own_threshold(made, tmp_path):
    classifier, _, path = made
    assert "by its own threshold, 0: best class" in reverify(path, classifier)
    held = onnx.load(path)
    description = GraphSession.open(path).description
    strict = replace(description, precision=description.precision | {"needed": 1})
    onnx.helper.set_model_props(held, strict.to_properties())
    onnx.save(held, tmp_path / "a.onnx")
    with pytest.raises(VerificationError, match="the int8 graph does not agree with PyTorch on 64 pictures.* 1: best"):
        reverify(tmp_path / "a.onnx", classifier)


@pytest.mark.slow
def test_a_graph_that_agrees_too_little_is_not_written(made, tmp_path):
    classifier, whole, _ = made
    source = tmp_path / "a.onnx"
    source.write_bytes(whole.path.read_bytes())
    with pytest.raises(ModelError, match=r"the first 8 convolutions in float32.*needed is 2: lower it, agreement="):
        Precision(numbers="int8", needed=2).write(source, tmp_path / "b.onnx", some(classifier))
    assert not (tmp_path / "b.onnx").exists()


@pytest.mark.slow
def test_half_keeps_inputs_and_outputs_in_float32_and_nearly_the_answers(made, tmp_path):
    classifier, whole, _ = made
    source, path = tmp_path / "a.onnx", tmp_path / "a.fp16.onnx"
    source.write_bytes(whole.path.read_bytes())
    said = Precision(numbers="fp16", needed=0.95).write(source, path, some(classifier))
    assert "float16 is for targets with its kernels" in said
    assert GraphModel(path).description.precision["same_top"] == 1
    types = {tensor.data_type for tensor in onnx.load(path).graph.initializer if len(tensor.dims) == 4}
    assert types == {onnx.TensorProto.FLOAT16}
    assert path.stat().st_size < 0.6 * source.stat().st_size


def graph_of(body):
    text = f'<ir_version: 8, opset_import: ["": 18]> g (float[n,3,4,4] input) => (float[n,3,4,4] gradients) {{{body}}}'
    return parser.parse_model(text)


def test_gradients_that_depend_on_the_picture_have_no_int8_graph():
    check_head(graph_of("size = Shape(input) gradients = ConstantOfShape(size)"), "layer4")
    with pytest.raises(ModelError, match="linear in layer layer4: global average pooling and one linear layer"):
        check_head(graph_of("gate = Sign(input) gradients = Relu(gate)"), "layer4")
    with pytest.raises(ModelError, match="nothing to quantise: no Conv"):
        quantise(graph_of("gradients = Relu(input)"), np.zeros((1, 3, 4, 4), np.float32))


def test_a_value_beyond_float16_is_named():
    body = 'large = Constant<value = float {100.0}>() ["scale"] gradients = Mul(input, large)'
    pictures = np.full((2, 3, 4, 4), 350, np.float32)
    check_range(graph_of(body), pictures)
    with pytest.raises(ModelError, match=r"float16 ends at 65504, and Mul scale \(weights: none\) computes 7e\+04"):
        check_range(graph_of(body), 2 * pictures)


@pytest.mark.parametrize("values", [6, 2, 1])
def test_the_rank_correlation_is_scipys(values):
    one, other = np.random.default_rng(values).integers(0, values, (2, 7, 7)).astype(np.float32)
    if values > 1:
        assert rank_correlation(one, other) == pytest.approx(spearmanr(one.ravel(), other.ravel()).statistic, abs=1e-12)
        assert rank_correlation(one, np.zeros_like(one)) == 0
    else:
        assert rank_correlation(one, other) == 1


def test_an_agreement_needs_both_classes_and_maps():
    known = {"pictures": 2, "most_difference": 0.1, "mean_difference": 0.1}
    assert Agreement(same_top=0.9, rank_correlation={"gradcam": (0.91, 0.1)}, **known).suffices(0.9)
    assert not Agreement(same_top=0.8, rank_correlation={"gradcam": (1, 1)}, **known).suffices(0.9)
    assert not Agreement(same_top=1, rank_correlation={"gradcam": (float("nan"), 1)}, **known).suffices(0.9)


def test_a_third_of_a_folder_is_kept_for_the_comparison(tmp_path):
    how = random_classifier("shufflenet_v2_x0_5").preprocessing
    for grey in range(24):
        Image.new("L", (9, 9), 10 * grey).save(tmp_path / f"{grey}.png")
    found = Pictures.of_folder(tmp_path, how)
    values = [{round(float(one.max()), 3) for one in half} for half in (found.calibrating, found.comparing)]
    assert [len(half) for half in values] == [16, 8]
    assert not values[0] & values[1]
    assert found.compared == f"8 other pictures of {tmp_path.name}"
    (tmp_path / "0.png").unlink()
    assert Pictures.of_folder(tmp_path, how).compared == "64 drawn pictures"
    (tmp_path / "1.png").write_bytes(b"none")
    with pytest.raises(ModelError, match=r"1\.png cannot be calibrated by: not a picture"):
        Pictures.of_folder(tmp_path, how)
    for grey in range(1, 20):
        (tmp_path / f"{grey}.png").unlink()
    with pytest.raises(ModelError, match="holds 4 pictures, needed are 8 or more"):
        Pictures.of_folder(tmp_path, how)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("explanation --quantize int8", "gradients through the whole network do not pass int8"),
        ("prediction --agreement 0.5", "give --quantize int8 or --half"),
        ("prediction --half --agreement 2", "--agreement 2.0 is not valid, valid are 0 to 1"),
        ("prediction --half --agreement=-1", "--agreement -1.0 is not valid, valid are 0 to 1"),
        ("gradcam --half --opset 17", "leave --portable, --batch, --opset and --pictures out"),
        ("gradcam --pictures --portable", "leave out either --pictures (PICTURES), or --portable and --batch"),
        ("gradcam --half --quantize int8", "give either --quantize int8 or --half"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_the_network_is_built(said, answer, capsys):
    assert main([*said.split(), "--checkpoint", "missing"]) == 2
    assert answer in capsys.readouterr().err
