"""What is left in the folder when a graph is written, and when it cannot be; the networks are a few nodes."""

import os
from types import SimpleNamespace

import onnx
import pytest

from export.graphs import exporters
from export.graphs.exporters import no_older_file, write_verified
from export.verify.compare import Check, Tolerance, VerificationError
from handler.graphs.description import KIND_PREDICTION, GraphDescription
from tests.support.graphs import HOW, describe, make_graph

CLASSIFIER = SimpleNamespace(
    architecture="tiny",
    labels=["red", "green", "blue"],
    preprocessing=HOW,
    weights_sha256="0" * 64,
    default_layer="last",
    default_method="gradcam",
)
CHECKS = [Check(output="logits", batch=1, max_error=0, share_beyond=0, tolerance=Tolerance(1e-4))]


@pytest.fixture
def path(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"older")
    return tmp_path / "a.onnx"


@pytest.fixture
def write(path, monkeypatch):
    def written(model, verified=lambda: CHECKS):
        monkeypatch.setattr(exporters, "graph_run", lambda _model: None)
        monkeypatch.setattr(exporters, "verify_graph", lambda _run, _classifier, _kind: verified())
        with no_older_file(path):
            return write_verified(model, path, CLASSIFIER, KIND_PREDICTION, simplified=["folded"])

    return written


def test_a_verified_graph_takes_the_older_ones_place_and_describes_itself(path, write):
    assert write(make_graph(describe())) == CHECKS
    properties = {one.key: one.value for one in onnx.load(path).metadata_props}
    found = GraphDescription.from_properties(properties)
    assert (found.kind, found.labels, found.weights_sha256) == (KIND_PREDICTION, CLASSIFIER.labels, "0" * 64)
    assert "logits" in found.verification
    assert found.simplified == ("folded",)
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
