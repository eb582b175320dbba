import json
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

import export.graphs.exporters as exporters
from export.__main__ import main
from export.errors import NotExportableError
from export.tracing.onnx_export import to_onnx
from export.verify.compare import Tolerance, VerificationError, compare, fresh_pictures, table, verify
from handler.client.model import GraphModel
from handler.errors import BadRequest, ModelError
from handler.explanation.evidence import softmax
from handler.graphs.description import GraphDescription
from handler.model.sources import load_classifier
from handler.picture.decode import decode
from handler.picture.preprocess import preprocess
from tests.support.exports import export_prediction
from tests.support.models import random_classifier
from tests.support.serving import CHECKPOINT, ONE, ROOT, TWO


@pytest.fixture(scope="module")
def classifier():
    return load_classifier(checkpoint=CHECKPOINT)


@pytest.fixture(scope="module")
def graph(classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "shapes.onnx"
    export_prediction(classifier, path)
    return path


def test_the_file_is_valid_and_describes_itself(graph, classifier):
    model = onnx.load(graph)
    onnx.checker.check_model(model, full_check=True)
    description = GraphDescription.from_properties({one.key: one.value for one in model.metadata_props})
    assert description.labels == classifier.labels
    assert description.preprocessing == classifier.preprocessing
    assert description.architecture == "shufflenet_v2_x0_5"
    assert description.versions["torch"] == version("torch")
    assert description.verification.count("equal") == 6


def test_the_graph_holds_no_gradient_and_no_training_operator(graph):
    kinds = {node.op_type for node in onnx.load(graph).graph.node}
    assert "Conv" in kinds
    assert not kinds & {"BatchNormalization", "Dropout", "ConvTranspose", "ScatterElements"}


@pytest.mark.parametrize("batch", [1, 3, 8, 2])
def test_the_graph_equals_pytorch_on_pictures_it_was_not_exported_with(graph, classifier, batch):
    inputs = fresh_pictures(np.random.default_rng([100, batch]), batch, classifier.preprocessing)
    session = onnxruntime.InferenceSession(str(graph))
    logits, probabilities = session.run(["logits", "probabilities"], {"input": inputs})
    with torch.inference_mode():
        expected = classifier.module(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    np.testing.assert_allclose(probabilities, softmax(expected), atol=1e-4)


def test_a_graph_that_differs_is_not_written_and_an_older_one_not_left(tmp_path, monkeypatch):
    (tmp_path / "a.onnx").write_bytes(b"older")
    classifier = random_classifier("shufflenet_v2_x0_5")

    def broken(*given, **how):
        model = to_onnx(*given, **how)
        bias = next(one for one in model.graph.initializer if list(one.dims) == [len(classifier.labels)])
        values = onnx.numpy_helper.to_array(bias) + np.float32(0.01)
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        return model

    monkeypatch.setattr(exporters, "to_onnx", broken)
    with pytest.raises(VerificationError, match="DIFFERS"):
        export_prediction(classifier, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


CLOSE = {"logits": Tolerance(1e-4)}


def _ones(_rng, count):
    return {"a": np.ones((count, 2), np.float32)}


def _same(inputs, *_):
    return {"logits": inputs["a"]}


@pytest.mark.parametrize(("relative", "passed"), [(False, False), (True, True)])
def test_no_element_may_be_beyond_the_tolerance(relative, passed):
    expected, actual = np.zeros((1, 1000), np.float32), np.zeros((1, 1000), np.float32)
    expected[0, 0] = actual[0, 0] = 10
    actual[0, 1] = 5e-4
    (check,) = compare({"map": expected}, {"map": actual}, {"map": Tolerance(1e-4, relative)})
    assert check.passed == passed
    assert check.max_error == pytest.approx(5e-5 if relative else 5e-4)


def test_nan_never_counts_as_equal():
    expected = {"logits": np.zeros((1, 2), np.float32)}
    checks = compare(expected, {"logits": np.full((1, 2), np.nan, np.float32)}, CLOSE)
    assert not checks[0].passed
    assert "DIFFERS" in table(checks)
    with pytest.raises(VerificationError):
        verify(_same, lambda x: {"logits": x["a"] * np.nan}, _ones, CLOSE, exact=_same)


@pytest.mark.parametrize(("off", "passed"), [(0.9e-4, True), (1.1e-4, False)])
def test_two_roundings_may_be_further_apart_than_either_is_from_the_exact_scores(off, passed):
    def moved(by):
        return lambda inputs, *_: {"logits": inputs["a"].astype(np.float64) + by}

    if passed:
        checks = verify(moved(-0.9e-4), moved(off), _ones, CLOSE, exact=moved(0))
        assert max(check.max_error for check in checks) == pytest.approx(off)
    else:
        with pytest.raises(VerificationError, match="DIFFERS"):
            verify(moved(-0.9e-4), moved(off), _ones, CLOSE, exact=moved(0))


def test_names_and_shapes_are_compared_first():
    one = {"logits": np.zeros((1, 2), np.float32)}
    with pytest.raises(VerificationError, match="outputs are"):
        compare(one, {"scores": one["logits"]}, CLOSE)
    with pytest.raises(VerificationError, match="has shape"):
        compare(one, {"logits": np.zeros((1, 3), np.float32)}, CLOSE)


def test_the_client_predicts_what_pytorch_predicts(graph, classifier):
    predictions = GraphModel(graph).predict(ONE.read_bytes(), top_k=10)
    seen = preprocess(decode(ONE.read_bytes()), classifier.preprocessing)
    with torch.inference_mode():
        expected = softmax(classifier.module(torch.from_numpy(seen.tensor[None])).numpy())[0]
    assert predictions[0].label == "star"
    for one in predictions:
        assert one.probability == pytest.approx(expected[one.index], abs=1e-5)


def test_the_command_predicts_without_torch(graph):
    code = (
        "import sys, export.__main__ as command\n"
        f"status = command.main(['predict', {str(ONE)!r}, '--model', {str(graph)!r}, '--json'])\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
        "assert 'onnx' not in sys.modules, 'onnx was imported'\n"
        "sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (predictions,) = json.loads(done.stdout).values()
    assert predictions[0]["label"] == "star"
    assert len(predictions) == 5


def run_command(*arguments):
    command = [sys.executable, "-m", "export", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_tells_mistakes_in_one_line(graph, tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    foreign = onnx.load(graph)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    for arguments, said in [
        (("predict", ONE, "--model", tmp_path / "gone.onnx"), "does not exist"),
        (("predict", ONE, "--model", tmp_path / "a.onnx"), "cannot be loaded by ONNX Runtime"),
        (("predict", ONE, "--model", tmp_path / "foreign.onnx"), "does not describe itself"),
        (("predict", graph, "--model", graph), "not a picture"),
        (("predict", tmp_path / "gone.jpg", "--model", graph), "No such file"),
        (("predict", ONE, "--model", graph, "--top-k", "11"), "valid are 1 to 10"),
        (("predict", ONE, "--model", graph, "--top-k", "0"), "valid are 1 to the number of classes"),
    ]:
        done = run_command(*arguments)
        assert done.returncode == 2, arguments
        assert said in done.stderr
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr


def test_a_picture_that_cannot_be_predicted_keeps_no_other_from_it(graph, tmp_path, capsys):
    empty, gone = tmp_path / "empty.jpg", tmp_path / "gone.jpg"
    empty.touch()
    assert main(["predict", *map(str, (ONE, empty, gone, TWO)), "--model", str(graph), "--json"]) == 2
    said = capsys.readouterr()
    assert list(json.loads(said.out)) == [str(ONE), str(TWO)]
    about_empty, about_gone = said.err.splitlines()
    assert about_empty.startswith(f"error: {empty}: not a picture that can be read: there are no bytes, valid are JPEG")
    assert about_gone == f"error: {gone}: No such file or directory"
    assert main(["predict", str(ONE), str(empty), str(TWO), "--model", str(graph)]) == 2
    assert [line for line in capsys.readouterr().out.splitlines() if line[0] != " "] == [str(ONE), str(TWO)]


def test_a_picture_that_is_too_large_is_told_in_one_line(graph, tmp_path):
    Image.new("L", (10_000, 9_999)).save(tmp_path / "large.png")  # above Pillow's own limit, too
    done = run_command("predict", tmp_path / "large.png", "--model", graph)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'large.png'}: the picture has 10000x9999")
    assert done.stderr.count("\n") == 1


def test_the_client_refuses_what_is_no_picture(graph):
    with pytest.raises(BadRequest):
        GraphModel(graph).predict(ONE.read_bytes()[:1000])
    with pytest.raises(ModelError, match="does not exist"):
        GraphModel("gone.onnx")


class Branching(nn.Module):
    def __init__(self, author):
        super().__init__()
        self.conv, self.author = nn.Conv2d(3, 2, 1), author

    def forward(self, x):
        if self.author and torch.compiler.is_exporting():
            raise ValueError("not for export\nand more")
        scores = self.conv(x).mean((2, 3))
        return scores if scores.sum() > 0 else -scores


@pytest.mark.parametrize(
    ("author", "cause"),
    [(True, "ValueError: not for export$"), (False, "GuardOnDataDependentSymNode: Could not")],
)
def test_why_a_network_cannot_be_exported_is_said_in_one_plain_line(author, cause):
    example = (torch.randn(2, 3, 4, 4),)
    with pytest.raises(NotExportableError, match=f"^the network cannot be exported: {cause}") as caught:
        to_onnx(Branching(author).eval(), example, ["input"], ["logits"], rewrites=True)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
