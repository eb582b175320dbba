"""Which graphs are written, with exporters that only leave a file: the real ones have tests of their own."""

from types import SimpleNamespace

import pytest

import export.packing.archive as archive
from export.errors import NotExportableError
from export.verify.compare import VerificationError
from handler.graphs.description import KIND_EXPLANATION, KIND_SALIENCY


def network(kind=KIND_EXPLANATION, architecture="resnet18", alone=""):
    return SimpleNamespace(kind=kind, architecture=architecture, alone=alone)


@pytest.fixture
def exporters(monkeypatch):
    """Replaces the exporters by ones that raise what the test puts there, or write."""
    raised = {}

    def export(classifier, path, kind, form):
        assert not form.folded  # the weights are the checkpoint's
        if kind in raised:
            raise raised[kind]
        path.write_bytes(b"graph")

    monkeypatch.setattr(archive, "export_graph", export)
    monkeypatch.setattr(archive, "explanation_kind", lambda classifier: classifier.kind)
    return raised


def test_all_graphs_are_written_and_each_is_announced(tmp_path, exporters):
    said = []
    archive.write_sidecar(network(), tmp_path, said.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.explain.onnx",
        "model.gradcam.onnx",
        "model.onnx",
    ]
    assert said[0] == "graph 1 of 3: exporting and verifying model.onnx …"
    assert len(said) == 3


def test_further_graphs_are_written_if_they_are_asked_for(tmp_path, exporters):
    archive.write_sidecar(network(), tmp_path, [].append, ["behind", "attention"])
    assert {"model.behind.onnx", "model.attention.onnx"} < {path.name for path in tmp_path.iterdir()}


def test_of_a_network_without_relu_the_saliency_graph_is_packed(tmp_path, exporters):
    archive.write_sidecar(network(KIND_SALIENCY), tmp_path, [].append)
    assert (tmp_path / "model.saliency.onnx").is_file()
    assert not (tmp_path / "model.explain.onnx").exists()


@pytest.mark.parametrize("error", [NotExportableError("cannot be traced"), NotExportableError("without a rule")])
def test_a_graph_that_cannot_be_made_is_left_out_and_the_reason_named(tmp_path, exporters, error):
    exporters["explanation"] = error
    said = []
    archive.write_sidecar(network(), tmp_path, said.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gradcam.onnx", "model.onnx"]
    assert said[-1] == f"the archive goes without model.explain.onnx: {error}"


def test_a_graph_that_differs_stops_everything_but_an_architecture_of_ones_own(tmp_path, exporters):
    exporters["gradcam"] = VerificationError("a table\nof DIFFERS", "the graph differs in logits by 2.0e-01")
    with pytest.raises(VerificationError):
        archive.write_sidecar(network(), tmp_path, print)
    said = []
    archive.write_sidecar(network(architecture="own.net:Network"), tmp_path, said.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.explain.onnx", "model.onnx"]
    assert [line for line in said if "DIFFERS" in line or "differs" in line] == [
        "the archive goes without model.gradcam.onnx, PyTorch answers instead: the graph differs in logits by 2.0e-01"
    ]


def test_without_a_whole_explanation_the_other_graphs_are_written(tmp_path, exporters, monkeypatch):
    def none(_):
        raise NotExportableError("its scores have no gradient")

    monkeypatch.setattr(archive, "explanation_kind", none)
    said = []
    archive.write_sidecar(network(), tmp_path, said.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gradcam.onnx", "model.onnx"]
    assert said[0] == "the archive goes without a graph of the whole explanation: its scores have no gradient"


def test_a_network_that_mixes_pictures_goes_without_graphs(tmp_path, exporters):
    said = []
    archive.write_sidecar(network(alone="a picture's scores depend on the others"), tmp_path, said.append)
    assert not list(tmp_path.iterdir())
    assert said == ["the archive goes without graphs, which take batches: a picture's scores depend on the others"]
