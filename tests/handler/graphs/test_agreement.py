import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import handler.graphs.agreement as agreement
from handler.autograd.torch_engine import TorchEngine
from handler.engine_choice import origin_of
from handler.explanation.evidence import Needs
from handler.graphs.agreement import disagreements, fixed_picture
from handler.graphs.onnx_engine import OnnxEngine


@pytest.fixture(scope="module")
def graphs(shapes, shapes_graphs):
    return OnnxEngine.open(shapes_graphs, origin_of(shapes), threads=1)


class Altered:
    """The hooks, with one thing changed in what they find."""

    name = "altered"

    def __init__(self, classifier, change):
        self._engine, self._change = TorchEngine(classifier), change

    def run(self, inputs, targets, needs):
        return self._change(self._engine.run(inputs, targets, needs))


def test_graphs_and_hooks_of_one_model_agree(graphs, shapes):
    assert disagreements(graphs, TorchEngine(shapes), shapes.preprocessing) == []


def test_the_fixed_picture_is_always_the_same_and_textured(shapes):
    picture = fixed_picture(shapes.preprocessing)
    np.testing.assert_array_equal(picture, fixed_picture(shapes.preprocessing))
    assert picture.shape == (3, 320, 320)
    assert picture.std(axis=(1, 2)).min() > 0.5
    assert not np.array_equal(picture[0], picture[1])


def test_other_weights_are_found_out_in_every_graph(graphs, shapes):
    module = copy.deepcopy(shapes.module)
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(1.01)
    lines = disagreements(graphs, TorchEngine(replace(shapes, module=module)), shapes.preprocessing)
    for said in (
        "prediction graph: logits",
        "gradcam graph: activation at conv5",
        "explanation graph: guided gradient",
    ):
        assert any(line.startswith(said) for line in lines), lines
    assert all("differs by up to" in line for line in lines)


def test_a_plain_gradient_is_not_taken_for_a_guided_one(graphs, shapes):
    plain = TorchEngine(shapes).run(
        fixed_picture(shapes.preprocessing)[None], [[-1, 0]], Needs(("conv5",), guided=True, saliency=True)
    )
    hooks = Altered(shapes, lambda found: replace(found, guided=plain.saliency))
    (line,) = disagreements(graphs, hooks, shapes.preprocessing)
    assert line.startswith("explanation graph: guided gradient differs")


@pytest.mark.parametrize("share", [0.001, 0.5])
def test_few_pixels_may_differ_where_gates_flip_many_may_not(graphs, shapes, share):
    def flip(found):
        guided = found.guided.copy()
        flipped = np.random.default_rng(0).random(guided.shape) < share
        guided[flipped] += 0.1 * np.abs(guided).max()
        return replace(found, guided=guided)

    lines = disagreements(graphs, Altered(shapes, flip), shapes.preprocessing)
    assert bool(lines) == (share > agreement.GATE_SHARE)


def test_nan_is_a_disagreement(graphs, shapes):
    hooks = Altered(shapes, lambda found: replace(found, logits=found.logits * np.nan))
    lines = disagreements(graphs, hooks, shapes.preprocessing)
    assert any("logits" in line for line in lines)


def test_another_coverage_is_a_disagreement(graphs, shapes):
    hooks = Altered(shapes, lambda found: replace(found, coverage="36 of 37 activations"))
    (line,) = disagreements(graphs, hooks, shapes.preprocessing)
    assert line == "explanation graph: guided are 37 of 37 activations, not 36 of 37 activations"
