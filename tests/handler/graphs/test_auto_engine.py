"""Which of two engines a run goes to."""

import numpy as np
import pytest

from handler.autograd.torch_engine import TorchEngine
from handler.explanation.evidence import TOP, Needs
from handler.graphs.auto_engine import EitherEngine
from handler.graphs.onnx_engine import OnnxEngine
from handler.graphs.session import open_graphs
from handler.loading import origin_of


@pytest.fixture(scope="module")
def engine(shapes, shapes_graphs):
    graphs = OnnxEngine(open_graphs(shapes_graphs, origin_of(shapes), threads=1))
    return EitherEngine("auto", graphs, TorchEngine(shapes), graphs.covers)


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


class Recorder:
    def __init__(self, name):
        self.name, self.calls = name, []

    def run(self, inputs, targets, needs):
        self.calls.append((inputs, targets, needs))
        return f"evidence of {self.name}"

    def behind(self, inputs, layer, activations):
        self.calls.append((inputs, layer, activations))
        return f"scores of {self.name}"


INPUTS, ACTIVATIONS, NEEDS = np.zeros((1, 3, 8, 8), np.float32), np.ones((1, 4, 2, 2), np.float32), Needs(guided=True)


@pytest.mark.parametrize(("busy", "chosen"), [(False, "alone"), (True, "beside")])
def test_a_lone_run_gets_all_threads_and_runs_that_overlap_one_each(busy, chosen):
    engines = {name: Recorder(name) for name in ("alone", "beside")}
    engine = EitherEngine("onnx", engines["beside"], engines["alone"], lambda _needs: busy)
    assert engine.run(INPUTS, [[TOP]], NEEDS) == f"evidence of {chosen}"
    assert engine.behind(INPUTS, "conv5", ACTIVATIONS) == f"scores of {chosen}"
    assert {name: len(one.calls) for name, one in engines.items()} == {"alone": 0, "beside": 0, chosen: 2}
    (inputs, targets, needs), (_, layer, activations) = engines[chosen].calls
    assert inputs is INPUTS
    assert (targets, needs, layer) == ([[TOP]], NEEDS, "conv5")
    assert activations is ACTIVATIONS


def test_each_run_is_asked_anew():
    answers = iter([True, False, True])
    alone, beside = Recorder("alone"), Recorder("beside")
    engine = EitherEngine("onnx", beside, alone, lambda _needs: next(answers))
    said = [engine.run(INPUTS, [[TOP]], NEEDS) for _ in range(3)]
    assert said == ["evidence of beside", "evidence of alone", "evidence of beside"]
    assert engine.name == "onnx"
