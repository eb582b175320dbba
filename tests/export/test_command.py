"""How ``python -m export`` ends: in one line, whatever happens."""

import importlib
import shlex
import subprocess

import numpy as np
import pytest
import torch

import handler.model.sources
from export.__main__ import main
from handler.loading import load_archive
from handler.model.checkpoint import Checkpoint, write_checkpoint
from tests.support.models import random_classifier
from tests.support.serving import CHECKPOINT, ROOT


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


_OTHERS = """
from torch import nn
PREPROCESSING = {"resize_size": 36, "crop_size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
class Net(nn.Module):
    def __init__(self, channels=3, scores=1, both=False):
        super().__init__()
        self.conv, self.fc, self.both = nn.Conv2d(channels, 8, 3, 2), nn.Linear(8, scores), both
    def forward(self, x):
        features = self.conv(x).relu()
        scores = self.fc(features.mean((2, 3)))
        return {"features": features, "scores": scores} if self.both else scores
def one_score():
    return Net()
def grey():
    return Net(1, 2, both=True)
def sigmoid_end():
    return nn.Sequential(Net(scores=2), nn.Sigmoid())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said", "activation", "shape"),
    [
        ("one_score", {"HEAD": "binary"}, "sigmoid", (3, 32, 32)),
        ("sigmoid_end", {}, "sigmoid", (3, 32, 32)),
        (
            "grey",
            {"OUTPUT": "scores", "CHANNELS": "1", "INPUT": "48x24", "PREPROCESS": "mean=0.5 std=0.25"},
            "softmax",
            (1, 48, 24),
        ),
    ],
)
def test_make_packs_networks_with_other_heads_and_pictures(name, said, activation, shape, tmp_path, monkeypatch):
    """The words of make's variables reach the archive, whose predictions are those of the network itself."""
    (tmp_path / f"{name}_net.py").write_text(_OTHERS)
    (tmp_path / "labels.txt").write_text("no\nyes\n")
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(1)
    module = getattr(importlib.import_module(f"{name}_net"), name)().eval()
    torch.save(module.state_dict(), tmp_path / "net.pth")
    source = {"ARCH": f"{name}_net:{name}", "CHECKPOINT": tmp_path / "net.pth", "LABELS": tmp_path / "labels.txt"}
    variables = [f"{key}={value}" for key, value in {**source, **said}.items()]
    printed = subprocess.run(["make", "-s", "-n", "archive", *variables], capture_output=True, text=True, check=True)
    (line,) = [line for line in printed.stdout.splitlines() if "export archive" in line]
    assert main([*shlex.split(line)[3:], "--store", str(tmp_path)]) == 0
    model = load_archive(tmp_path / f"{name}.mar", f"{name}_net:{name}")
    assert (model.card.head, model.card.preprocessing.shape) == (activation, shape)
    picture = np.random.default_rng(0).integers(0, 256, (60, 50, shape[0]), np.uint8)
    found = model.explain(picture)
    with torch.no_grad():
        returned = module(torch.from_numpy(found.canvas.seen.tensor[None]))
    if name == "grey":
        expected = returned["scores"].softmax(1)[0]
    else:
        expected = returned[0] if name == "sigmoid_end" else torch.cat([-returned, returned], 1).sigmoid()[0]
    np.testing.assert_allclose(found.probabilities, expected.numpy(), atol=1e-5)
    assert found.to_dict()["model"].get("activation", "softmax") == activation


def test_a_store_that_is_a_file_is_named_before_anything_is_built(capsys, tmp_path):
    store = tmp_path / "notes.txt"
    store.write_text("mine")
    assert main(["gradcam", "--checkpoint", "missing", "--store", str(store)]) == 2
    assert capsys.readouterr().err == f"error: --store {store} is no folder\n"
    assert store.read_text() == "mine"


@pytest.mark.parametrize("target", ["archive QUANTIZE=int8", "archive PICTURES=1", "attention HALF=1"])
def test_make_refuses_forms_that_a_target_does_not_write(target, tmp_path):
    command = ["make", "-s", "-o", ".venv/.ready", *target.split(), f"NAME={tmp_path.name}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert " takes neither QUANTIZE and HALF nor PORTABLE, FIXED_BATCH" in done.stdout
    assert not [*(ROOT / "model_store").glob(f"{tmp_path.name}*")]


@pytest.mark.parametrize(
    "option",
    [
        ["--preprocess", "size=3"],
        ["--transform-input", "perhaps"],
        ["--input", "1x"],
        ["--channels", "17"],
        ["--head", "relu"],
    ],
)
def test_what_is_said_wrongly_is_one_line(capsys, option):
    assert main(["verify", "a.onnx", "--checkpoint", str(CHECKPOINT), *option]) == 2
    said = capsys.readouterr().err
    assert "valid are" in said
    assert said.count("\n") == 1
