"""How ``python -m export`` ends: in one line, whatever happens."""

import pytest
import torch

import handler.model.sources
from export.__main__ import main
from handler.model.checkpoint import Checkpoint, write_checkpoint
from tests.support.models import random_classifier
from tests.support.serving import CHECKPOINT


def fails_with(error, monkeypatch):
    def find(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(handler.model.sources, "find_checkpoint", find)


@pytest.mark.parametrize("command", [["archive"], ["prediction"], ["explanation"], ["gradcam"], ["verify", "a.onnx"]])
def test_a_mistake_that_nobody_foresaw_is_one_line(monkeypatch, capsys, command):
    fails_with(RuntimeError("two\nlines"), monkeypatch)
    assert main(command) == 2
    assert capsys.readouterr().err == "error: RuntimeError: two (--debug shows where)\n"


@pytest.mark.parametrize("arguments", [["--debug", "archive"], ["archive", "--debug"]])
def test_a_traceback_is_shown_to_those_who_ask(monkeypatch, capsys, arguments):
    fails_with(RuntimeError("cheese"), monkeypatch)
    assert main(arguments) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("Traceback")
    assert said[-1] == "error: RuntimeError: cheese (--debug shows where)"


def test_an_interruption_is_one_line_and_status_130(monkeypatch, capsys):
    fails_with(KeyboardInterrupt(), monkeypatch)
    assert main(["archive"]) == 130
    assert capsys.readouterr().err == "interrupted: no file was left half written\n"


@pytest.mark.slow
def test_what_is_assumed_is_printed_before_the_work(tmp_path, capsys):
    torch.save(random_classifier("googlenet", classes=2).module.state_dict(), tmp_path / "scratch.pth")
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    source = ["--model", "googlenet", "--checkpoint", str(tmp_path / "scratch.pth")]
    source += ["--labels", str(tmp_path / "labels.txt"), "--preprocess", "resize=72 crop=64", "--transform-input", "0"]
    assert main(["archive", *source, "--no-sidecar", "--store", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(
        "preprocessing: shorter side resized to 72 (bilinear, antialiased), centre crop of 64x64,"
    )
    assert "; resize, crop as said, the rest as torchvision's IMAGENET1K_V1 weights have it: assumed, say" in said[0]
    assert said[1:5] == [
        "input transform: none; as said",
        "probabilities: the softmax of the scores",
        "labels: 2; as said",
        "layer: inception5b, 1024 channels of 2x2 cells; "
        "the last layer that every path from the picture to the scores goes through",
    ]


@pytest.mark.slow
def test_what_is_said_is_part_of_the_graph_and_of_its_verification(tmp_path, capsys):
    known = random_classifier("shufflenet_v2_x0_5")
    checkpoint = Checkpoint(
        architecture=known.architecture,
        labels=known.labels,
        preprocessing=known.preprocessing,
        state=dict(known.module.state_dict()),
    )
    write_checkpoint(tmp_path / "a.safetensors", checkpoint)
    source = ["--checkpoint", str(tmp_path / "a.safetensors")]
    said = ["--preprocess", "resize=64"]
    assert main(["prediction", *source, *said, "--name", "a", "--store", str(tmp_path)]) == 0
    assert "resize as said, the rest as the checkpoint says" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "a.onnx"), *source, *said]) == 0
    assert main(["verify", str(tmp_path / "a.onnx"), *source]) == 2
    assert "preprocessing" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--preprocess", "size=3"], ["--transform-input", "perhaps"]])
def test_what_is_said_wrongly_is_one_line(capsys, option):
    assert main(["verify", "a.onnx", "--checkpoint", str(CHECKPOINT), *option]) == 2
    said = capsys.readouterr().err
    assert "valid are" in said
    assert said.count("\n") == 1
