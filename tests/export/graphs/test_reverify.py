from dataclasses import replace

import numpy as np
import onnx
import pytest

from export.__main__ import main
from export.graphs.exporters import reverify
from export.verify.compare import VerificationError
from export.verify.reference import graph_run
from handler.errors import ModelError
from handler.model.checkpoint import Checkpoint, write_checkpoint
from tests.support.exports import export_explanation, export_prediction
from tests.support.graphs import describe, write_graph
from tests.support.models import random_classifier

ARCHITECTURE = "shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def tiny():
    return random_classifier(ARCHITECTURE)


@pytest.fixture(scope="module")
def graph(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "a.onnx"
    export_prediction(tiny, path)
    return path


@pytest.fixture(scope="module")
def explanation(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "a.explain.onnx"
    export_explanation(tiny, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "a.safetensors"
    how, state = tiny.preprocessing, tiny.module.state_dict()
    write_checkpoint(path, Checkpoint(architecture=ARCHITECTURE, labels=tiny.labels, preprocessing=how, state=state))
    return path


def _with_one_weight_changed(graph, path):
    model = onnx.load(graph)
    bias = next(one for one in model.graph.initializer if list(one.dims) == [10])  # the head's: one per class
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] += np.float32(0.01)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(model, path)
    return path


def test_an_unchanged_prediction_graph_is_equal(graph, tiny):
    checks = reverify(graph, tiny)
    assert {(check.output, check.batch) for check in checks} == {
        (output, batch) for output in ("logits", "probabilities") for batch in (1, 3, 8)
    }
    assert all(check.passed for check in checks)


def test_other_seeds_are_other_pictures(graph, tiny):
    errors = [[check.max_error for check in reverify(graph, tiny, seed)] for seed in (2, 2, 3)]
    assert errors[0] == errors[1] != errors[2]


def test_an_unchanged_explanation_graph_is_equal_and_a_changed_one_not(explanation, tiny, tmp_path):
    checks = reverify(explanation, tiny)
    assert {check.output for check in checks} == {"logits", "activations", "gradients", "gradcam", "guided_backprop"}
    with pytest.raises(VerificationError, match="DIFFERS"):
        reverify(_with_one_weight_changed(explanation, tmp_path / "a.onnx"), tiny)


def test_an_explanation_of_another_layer_is_refused(explanation, tiny):
    with pytest.raises(ModelError, match="made for layer conv5, not for stage4"):
        reverify(explanation, replace(tiny, default_layer="stage4"))


def test_other_weights_labels_and_preprocessing_are_refused(graph, tiny):
    other = random_classifier(ARCHITECTURE, seed=1)
    how = replace(tiny.preprocessing, mean=(0.0, 0.0, 0.0))
    for classifier, what in [
        (other, "weights"),
        (replace(tiny, labels=tiny.labels[::-1]), "labels"),
        (replace(tiny, preprocessing=how), "preprocessing"),
        (replace(other, labels=tiny.labels[::-1]), "weights and labels"),
    ]:
        with pytest.raises(ModelError, match=f"made for other {what} than"):
            reverify(graph, classifier)


def test_a_graph_that_fails_at_run_time_differs(tmp_path):
    run = graph_run(write_graph(tmp_path, describe()))
    assert set(run({"input": np.zeros((1, 3, 2, 2), np.float32)})) == {"logits", "probabilities"}
    with pytest.raises(VerificationError, match="fails where PyTorch answers"):
        run({"input": np.zeros((1, 3, 4, 4), np.float32)})


def test_the_command_says_equal(graph, checkpoint, capsys):
    assert main(["verify", str(graph), "--checkpoint", str(checkpoint)]) == 0
    said = capsys.readouterr().out
    assert said.count("  equal ") == 6
    assert said.endswith("a.onnx: the graph equals PyTorch\n")


def test_the_command_says_differs(graph, checkpoint, tmp_path, capsys):
    changed = _with_one_weight_changed(graph, tmp_path / "b.onnx")
    assert main(["verify", str(changed), "--checkpoint", str(checkpoint), "--seed", "7"]) == 1
    said = capsys.readouterr()
    assert "b.onnx: the graph differs from PyTorch" in said.out
    assert "DIFFERS" in said.out
    assert said.err == ""


def test_the_command_tells_mistakes(graph, checkpoint, tmp_path, capsys):
    (tmp_path / "text.onnx").write_text("a text")
    (tmp_path / "labels.txt").write_text("\n".join(f"other {index}" for index in range(10)))
    given = ["--checkpoint", str(checkpoint)]
    for arguments, said in [
        ([str(tmp_path / "gone.onnx"), *given], "does not exist"),
        ([str(tmp_path / "text.onnx"), *given], "cannot be loaded by ONNX Runtime"),
        ([str(graph), *given, "--labels", str(tmp_path / "labels.txt")], "made for other labels"),
        ([str(graph)], "either torchvision's weights"),
        ([str(graph), *given, "--seed", "-1"], "non-negative"),
    ]:
        assert main(["verify", *arguments]) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: ")
        assert said in told
