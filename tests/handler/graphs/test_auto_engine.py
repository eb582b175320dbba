import numpy as np
import pytest

from handler.autograd.torch_engine import TorchEngine
from handler.engine_choice import origin_of
from handler.explanation.evidence import TOP, Needs
from handler.graphs.auto_engine import AutoEngine
from handler.graphs.onnx_engine import OnnxEngine
from handler.graphs.session import open_graphs


@pytest.fixture(scope="module")
def engine(shapes, shapes_graphs):
    return AutoEngine(OnnxEngine(open_graphs(shapes_graphs, origin_of(shapes), threads=1)), TorchEngine(shapes))


@pytest.mark.parametrize(
    ("needs", "answers"),
    [
        (Needs(), "onnx"),
        (Needs(layers=("conv5",)), "onnx"),
        (Needs(guided=True), "onnx"),
        (Needs(layers=("conv5",), guided=True), "onnx"),
        (Needs(layers=("stage4",)), "torch"),
        (Needs(layers=("conv5", "stage4")), "torch"),
        (Needs(saliency=True), "torch"),
        (Needs(layers=("conv5",), guided=True, saliency=True), "torch"),
    ],
    ids=str,
)
def test_the_graphs_answer_what_they_hold_and_the_hooks_the_rest(engine, needs, answers):
    evidence = engine.run(np.zeros((1, 3, 320, 320), np.float32), [[TOP]], needs)
    assert evidence.engine == answers
    assert tuple(evidence.layers) == needs.layers
    assert (evidence.guided is not None, evidence.saliency is not None) == (needs.guided, needs.saliency)
