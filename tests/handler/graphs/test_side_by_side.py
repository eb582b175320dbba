"""Which of two sessions of the same graphs a run goes to."""

import numpy as np
import pytest

from handler.explanation.evidence import TOP, Needs
from handler.graphs.side_by_side import SideBySide


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
    engine = SideBySide(engines["alone"], engines["beside"], lambda: busy)
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
    engine = SideBySide(alone, beside, lambda: next(answers))
    said = [engine.run(INPUTS, [[TOP]], NEEDS) for _ in range(3)]
    assert said == ["evidence of beside", "evidence of alone", "evidence of beside"]
    assert engine.name == "onnx"
