"""What is left in the folder when a graph is written, and when it cannot be; the networks are a few nodes."""

import os
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from export.graphs import exporters
from export.graphs.exporters import reverify
from export.verify.compare import Check, Tolerance, VerificationError
from handler.graphs.description import KIND_GRADCAM, GraphDescription
from handler.graphs.session import GraphSession
from handler.model.classifier import of_module
from handler.picture.preprocess import Preprocessing
from tests.support.exports import export_explanation, export_gradcam
from tests.support.graphs import HOW, describe, make_graph

CLASSIFIER = SimpleNamespace(
    alone="",
    architecture="tiny",
    labels=["red", "green", "blue"],
    preprocessing=HOW,
    weights_sha256="0" * 64,
    default_layer="last",
    default_method="gradcam",
    reading=SimpleNamespace(head="softmax"),
)
CHECKS = [Check(output="logits", batch=1, max_error=0, share_beyond=0, tolerance=Tolerance(1e-4))]


@pytest.fixture
def path(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"older")
    return tmp_path / "a.onnx"


@pytest.fixture
def write(path, monkeypatch):
    def written(model, verified=lambda: CHECKS):
        monkeypatch.setattr(exporters, "graph_run", lambda _path: None)
        monkeypatch.setattr(exporters, "verify_graph", lambda _run, _classifier, _kind, **_form: verified())
        traced = SimpleNamespace()
        for name, made in {"trace_graph": traced, "example_of": (), "to_onnx": model}.items():
            monkeypatch.setattr(exporters, name, lambda *_args, made=made, **_options: made)
        return export_gradcam(CLASSIFIER, path)

    return written


def test_a_verified_graph_takes_the_older_ones_place_and_describes_itself(path, write):
    assert write(make_graph(describe())) == CHECKS
    properties = {one.key: one.value for one in onnx.load(path).metadata_props}
    found = GraphDescription.from_properties(properties)
    assert (found.kind, found.labels, found.weights_sha256) == (KIND_GRADCAM, CLASSIFIER.labels, "0" * 64)
    assert "logits" in found.verification
    assert list(path.parent.iterdir()) == [path]


def differs():
    raise VerificationError("DIFFERS")


def full(*_):
    raise OSError("no space left on device")


@pytest.mark.parametrize(
    ("operator", "verified", "replace", "error"),
    [
        ("Softmax", differs, os.replace, VerificationError),
        ("NoSuchOperator", lambda: CHECKS, os.replace, onnx.checker.ValidationError),
        ("Softmax", lambda: CHECKS, full, OSError),
    ],
    ids=["differs", "invalid", "disk"],
)
def test_whatever_fails_neither_the_graph_nor_an_older_one_nor_half_of_it_is_left(
    path, write, monkeypatch, operator, verified, replace, error
):
    model = make_graph(describe())
    model.graph.node[-1].op_type = operator
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(error):
        write(model, verified)
    assert list(path.parent.iterdir()) == []


def test_weights_too_large_for_one_file_go_to_a_second_one(tmp_path, monkeypatch):
    """2 GB are protobuf's limit; a low one shows the same."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3))
    how = Preprocessing(resize_size=64, crop_size=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    network = of_module(net.eval().requires_grad_(False), "small", None, how)
    path, data = tmp_path / "a.onnx", tmp_path / "a.onnx.data"
    export_explanation(network, path)
    whole = GraphSession.open(path)
    monkeypatch.setattr(exporters, "LARGEST", 1000)
    export_explanation(network, path)
    apart = GraphSession.open(path)
    assert {*tmp_path.iterdir()} == {path, data}
    assert path.stat().st_size + data.stat().st_size > 4 * sum(value.numel() for value in net.parameters())
    inputs = {
        "input": np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32),
        "target": np.array([-1, 1]),
    }
    answers = (graph.infer(inputs, apart.description.outputs) for graph in (whole, apart))
    for expected, found in zip(*answers, strict=True):
        np.testing.assert_array_equal(found, expected)
    reverify(path, network)
    changed = bytearray(data.read_bytes())
    changed[0] ^= 1
    data.write_bytes(changed)
    assert GraphSession.open(path).sha256 != apart.sha256  # receipts name the weights, too
    monkeypatch.undo()
    export_explanation(network, path)
    assert [*tmp_path.iterdir()] == [path]
    assert GraphSession.open(path).sha256 == whole.sha256
