"""A graph in ONNX Runtime: named outputs, and refusals in plain words."""

import numpy as np
import onnx
import onnxruntime
import pytest

from deploy.devices.forms import OPSET
from export.errors import NotExportableError
from export.verify.compare import VerificationError
from export.verify.reference import graph_run
from tests.support.graphs import describe, make_graph

PICTURES = np.random.default_rng(0).standard_normal((2, 3, 2, 2)).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    onnx.save(make_graph(describe()), tmp_path / "a.onnx")
    return tmp_path / "a.onnx"


def test_the_outputs_of_a_graph_are_named(path):
    found = graph_run(path)({"input": PICTURES})
    assert list(found) == ["logits", "probabilities"]
    np.testing.assert_allclose(found["logits"], PICTURES.mean((2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found["probabilities"].sum(1), 1, rtol=1e-5)


def test_it_runs_on_the_cpu_in_silence_and_keeps_no_memory(monkeypatch, path):
    opened, open_session = [], onnxruntime.InferenceSession

    def session(model, options, providers):
        opened.append((options.enable_cpu_mem_arena, options.log_severity_level, providers))
        return open_session(model, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    graph_run(path)
    assert opened == [(False, 4, ["CPUExecutionProvider"])]


def test_a_graph_that_cannot_be_loaded_is_refused_in_plain_words(path):
    model = onnx.load(path)
    model.graph.node[0].op_type = "Nonsense"
    onnx.save(model, path)
    said = f"^ONNX Runtime does not take the graph: it has no operator Nonsense of opset {OPSET}$"
    with pytest.raises(NotExportableError, match=said):
        graph_run(path)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : No Op registered for Gelu with domain_version of 20",
            f"it has no operator Gelu of opset {OPSET}",
        ),
        (
            "Type 'tensor(bfloat16)' of input is invalid",
            "the network computes in bfloat16; make its weights float32, and use no autocast",
        ),
        (
            "Type parameter (T) bound to tensor(float16)",
            "the network computes in float16; make its weights float32, and use no autocast",
        ),
        ("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : too\n  large  by far", "too large by far"),
        ("before [ONNXRuntimeError] : 2 : FAIL : after", "before [ONNXRuntimeError] : 2 : FAIL : after"),
        ("x" * 301, "x" * 300),
    ],
)
def test_a_graph_that_fails_is_refused_in_one_line(monkeypatch, path, message, said):
    class Session:
        def __init__(self, *_args, providers):
            pass

        def get_outputs(self):
            return []

        def run(self, *_args):
            raise RuntimeError(message)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with pytest.raises(VerificationError) as refused:
        graph_run(path)({})
    assert str(refused.value) == f"the graph fails where PyTorch answers: {said}"
