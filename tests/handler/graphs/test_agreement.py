import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from handler.autograd.torch_engine import TorchEngine
from handler.errors import ModelError
from handler.explanation.evidence import Needs
from handler.graphs import auto_engine
from handler.graphs.auto_engine import EitherEngine, disagreements, fixed_picture
from handler.graphs.description import KIND_BEHIND, KIND_GRADCAM, KINDS
from handler.graphs.onnx_engine import OnnxEngine
from handler.graphs.session import GraphSession, open_graphs
from handler.loading import origin_of
from tests.support.graphs import HOW, describe, write_graph


@pytest.fixture(scope="module")
def graphs(shapes, shapes_graphs):
    return OnnxEngine(open_graphs(shapes_graphs, origin_of(shapes), threads=1))


class Behind:
    """An engine that finds other scores behind a layer."""

    name = "behind"

    def __init__(self, engine):
        self.run, self._behind = engine.run, engine.behind

    def behind(self, inputs, _layer, activations):
        return self._behind(inputs, "last", activations) + np.float32(0.1)


class Altered:
    """An engine, with one thing changed in what it finds."""

    name = "altered"

    def __init__(self, engine, change):
        self._engine, self._change = engine, change

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
        fixed_picture(shapes.preprocessing)[None], [[-1, 0]], Needs(layers=("conv5",), guided=True, saliency=True)
    )
    hooks = Altered(TorchEngine(shapes), lambda found: replace(found, guided=plain.saliency))
    (line,) = disagreements(graphs, hooks, shapes.preprocessing)
    assert line.startswith("explanation graph: guided gradient differs")


@pytest.mark.parametrize("share", [0.001, 0.5])
def test_few_pixels_may_differ_where_gates_flip_many_may_not(graphs, shapes, share):
    def flip(found):
        guided = found.guided.copy()
        flipped = np.random.default_rng(0).random(guided.shape) < share
        guided[flipped] += 0.1 * np.abs(guided).max()
        return replace(found, guided=guided)

    lines = disagreements(graphs, Altered(TorchEngine(shapes), flip), shapes.preprocessing)
    assert bool(lines) == (share > auto_engine.GATE_SHARE)


def test_nan_is_a_disagreement(graphs, shapes):
    hooks = Altered(TorchEngine(shapes), lambda found: replace(found, logits=found.logits * np.nan))
    lines = disagreements(graphs, hooks, shapes.preprocessing)
    assert any("logits" in line for line in lines)


def test_another_coverage_is_a_disagreement(graphs, shapes):
    hooks = Altered(TorchEngine(shapes), lambda found: replace(found, coverage="36 of 37 activations"))
    (line,) = disagreements(graphs, hooks, shapes.preprocessing)
    assert line == "explanation graph: guided are 37 of 37 activations, not 36 of 37 activations"


def moved(output, by):
    """Changes one value of an output by a share of the largest, or the order of the classes."""

    def move(values):
        values = values.copy()
        values.flat[0] += by * np.abs(values).max()
        return values

    def change(found):
        if output == "classes":
            return replace(found, classes=found.classes[::-1])
        if output in ("activation", "gradient"):
            ((path, layer),) = found.layers.items()
            return replace(found, layers={path: replace(layer, **{output: move(getattr(layer, output))})})
        return replace(found, **{output: move(getattr(found, output))})

    return change


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Engines on graphs of a few nodes, each of one kind."""
    folder = tmp_path_factory.mktemp("tiny")
    opened = {kind: GraphSession.open(write_graph(folder, describe(kind, coverage="1 of 1"))) for kind in KINDS}
    opened[KIND_BEHIND] = {KIND_GRADCAM: opened[KIND_GRADCAM], KIND_BEHIND: opened[KIND_BEHIND]}  # works beside another
    return {kind: OnnxEngine(graph if kind == KIND_BEHIND else {kind: graph}) for kind, graph in opened.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_graph_agrees_with_what_finds_the_same(tiny, kind):
    assert disagreements(tiny[kind], tiny[kind], HOW) == []


@pytest.mark.parametrize(
    ("kind", "output", "said"),
    [
        ("prediction", "logits", "prediction graph: logits differs"),
        ("prediction", "classes", "prediction graph: the top class is 2, not 0"),
        ("gradcam", "activation", "gradcam graph: activation at last differs"),
        ("gradcam", "gradient", "gradcam graph: gradient at last differs"),
        ("explanation", "gradient", "explanation graph: gradient at last differs"),
        ("explanation", "guided", "explanation graph: guided gradient differs"),
        ("saliency", "activation", "saliency graph: activation at last differs"),
        ("saliency", "saliency", "saliency graph: saliency differs"),
    ],
)
def test_one_value_that_differs_is_told_by_the_output_that_it_is_of(tiny, kind, output, said):
    tolerance = auto_engine.GATE_TOLERANCE if output == "guided" else auto_engine.TOLERANCE
    hooks = Altered(tiny[kind], moved(output, 1.2 * tolerance))
    (line,) = disagreements(tiny[kind], hooks, HOW)
    assert line.startswith(said)
    if output != "classes":
        assert disagreements(tiny[kind], Altered(tiny[kind], moved(output, 0.8 * tolerance)), HOW) == []


def test_gates_may_move_the_saliency_of_a_network_with_rectifiers_alone(tiny):
    both = OnnxEngine({**tiny["explanation"]._graphs, **tiny["saliency"]._graphs})

    class AtOnce:
        """Finds guided and plain gradients in one run, as hooks do; the latter are moved."""

        def run(self, inputs, targets, needs):
            plain = both.run(inputs, targets, Needs(saliency=True))
            found = both.run(inputs, targets, replace(needs, saliency=False))
            return replace(found, saliency=move(plain).saliency)

    for share, said in {0.8: [], 1.2: ["saliency graph: saliency differs"]}.items():
        move = moved("saliency", share * auto_engine.GATE_TOLERANCE)
        lines = disagreements(both, AtOnce(), HOW)
        assert [line.partition(" by ")[0] for line in lines] == said


def test_other_scores_behind_the_layer_are_found_out(tiny):
    (line,) = disagreements(tiny[KIND_BEHIND], Behind(tiny[KIND_BEHIND]), HOW)
    assert line.startswith("behind graph: logits differs")


def test_a_graph_behind_the_layer_is_refused_alone(tiny):
    with pytest.raises(ModelError, match="of the kind behind works beside another graph"):
        OnnxEngine({KIND_BEHIND: tiny[KIND_BEHIND]._graphs[KIND_BEHIND]})


@pytest.mark.parametrize(
    ("kind", "layer", "engine"), [("behind", "last", 0), ("behind", "other", 1), ("gradcam", "last", 1)]
)
def test_auto_asks_the_graph_behind_the_layer_where_there_is_one(tiny, kind, layer, engine):
    picture, activations = np.ones((1, 3, 2, 2), np.float32), np.zeros((1, 3, 2, 2), np.float32)
    auto = EitherEngine("auto", tiny[kind], Behind(tiny[KIND_BEHIND]), tiny[kind].covers)
    found = auto.behind(picture, layer, activations)
    np.testing.assert_allclose(found, 1 + 0.1 * engine, rtol=1e-6)
