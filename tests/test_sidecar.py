"""Which graphs are written, with exporters that only leave a file: the real ones have tests of their own."""

import pytest

import export.sidecar as sidecar
from export.explanation_graph import NoRuleError
from export.verification import VerificationError
from handler.errors import Unprocessable


@pytest.fixture
def exporters(monkeypatch):
    """Replaces the exporters by ones that raise what the test puts there, or write."""
    raised = {}

    def exporter(kind):
        def export(classifier, path):
            if kind in raised:
                raise raised[kind]
            path.write_bytes(b"graph")

        return export

    monkeypatch.setattr(sidecar, "_EXPORTERS", {kind: exporter(kind) for kind in sidecar._EXPORTERS})
    return raised


def test_all_graphs_are_written_and_each_is_announced(tmp_path, exporters):
    said = []
    sidecar.write_sidecar(None, tmp_path, said.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.explain.onnx",
        "model.gradcam.onnx",
        "model.onnx",
    ]
    assert said[0] == "graph 1 of 3: exporting and verifying model.onnx …"
    assert len(said) == 3


@pytest.mark.parametrize("error", [Unprocessable("this one has GELU"), NoRuleError("needs aten.x, without a rule")])
def test_a_graph_that_cannot_be_made_is_left_out_and_the_reason_named(tmp_path, exporters, error):
    exporters["explanation"] = error
    said = []
    sidecar.write_sidecar(None, tmp_path, said.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gradcam.onnx", "model.onnx"]
    assert said[-1] == f"the archive goes without model.explain.onnx: {error}"


def test_a_graph_that_differs_stops_everything(tmp_path, exporters):
    exporters["gradcam"] = VerificationError("DIFFERS")
    with pytest.raises(VerificationError):
        sidecar.write_sidecar(None, tmp_path, print)
