"""Graphs with old ONNX Runtimes, the present one in the old ones' place: nothing is downloaded."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from handler.graphs.description import KINDS
from tests.support import old_runtimes as command
from tests.support.old_runtimes import PICTURES, answers


@pytest.fixture
def out(tmp_path, monkeypatch, shapes_graphs):
    """The folder to write to; the embedded model's graphs lie where ``write_graphs`` would put them."""
    monkeypatch.setattr(command, "OUT", tmp_path)
    monkeypatch.setattr(command, "RUNTIMES", {"0.1": "numpy<2"})
    monkeypatch.setattr(command, "python_with", lambda runtime: sys.executable)

    def copy_graphs(folder: Path) -> None:
        for file in shapes_graphs.glob("model.*"):  # weights, too
            shutil.copy(file, folder)

    monkeypatch.setattr(command, "write_graphs", copy_graphs)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "kind"),
    [("model.onnx", "prediction"), ("model.gradcam.onnx", "gradcam"), ("model.explain.onnx", "explanation")],
)
def test_a_graph_answers_with_all_its_outputs_and_through_its_client(shapes_graphs, file, kind):
    found = answers(shapes_graphs / file)
    assert set(found) == {*KINDS[kind].outputs, "client"}
    assert all(len(found[output]) == PICTURES for output in KINDS[kind].outputs)
    assert all(np.isfinite(values).all() for values in found.values())
    assert 0 < found["client"].max() <= 1


def test_equal_answers_are_told_with_their_number(out, capsys):
    assert command.main() == 0
    with np.load(out / "newest.npz") as newest:
        outputs = len(newest.files)
    assert capsys.readouterr().out == f"ONNX Runtime 0.1: {outputs} outputs, largest difference 0.0e+00\n"


def test_answers_that_differ_fail_the_run_by_their_names(out, monkeypatch, capsys):
    right = {"model.onnx logits": np.array([1.0, -4.0]), "model.onnx client": np.array([0.5])}
    wrong = {**right, "model.onnx logits": np.array([1.0, -4.4])}
    monkeypatch.setattr(command, "answers_of", lambda _python, _graphs, name: right if name == "newest" else wrong)
    assert command.main() == 1
    assert "model.onnx logits DIFFERS: 1.0e-01 of the largest" in capsys.readouterr().out


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_answers_that_are_no_numbers_differ(value):
    (apart,) = command.differences({"a": np.array([value])}, {"a": np.array([1.0])}).values()
    assert not apart <= command.CLOSE


def test_a_runtime_that_lacks_an_output_is_refused():
    with pytest.raises(ValueError, match=r"one runtime answers \['a'\], the other \['a', 'b'\]"):
        command.differences({"a": np.ones(1)}, {"a": np.ones(1), "b": np.ones(1)})


def test_an_environment_is_made_once_with_the_packages_that_the_project_pins(tmp_path, monkeypatch):
    installed = []
    monkeypatch.setattr(command, "OUT", tmp_path)
    monkeypatch.setattr(command.venv, "create", lambda folder, **_: folder.mkdir())
    monkeypatch.setattr(subprocess, "run", lambda arguments, check: installed.append(arguments))
    for _ in range(2):
        assert command.python_with("1.15.1") == tmp_path / "onnxruntime-1.15.1" / "bin" / "python"
    runtime, pictures = installed
    assert runtime[-2:] == ["onnxruntime==1.15.1", "numpy<2"]
    assert pictures[-4:] == ["-c", "constraints.txt", "opencv-python-headless", "pillow"]
