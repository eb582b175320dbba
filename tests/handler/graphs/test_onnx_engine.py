"""The graphs against the hooks, on the embedded model: everything that ``Engine.run`` promises."""

import shutil
import sys

import numpy as np
import pytest

import handler.graphs.onnx_engine as onnx_engine
from export.verify.compare import fresh_pictures
from handler.autograd.torch_engine import TorchEngine
from handler.errors import BadRequest, ModelError, Unprocessable
from handler.explanation.evidence import TOP, Needs
from handler.graphs.description import KIND_GRADCAM, KIND_PREDICTION
from handler.graphs.onnx_engine import OnnxEngine
from handler.graphs.session import GraphSession, open_graphs
from handler.loading import origin_of
from tests.support.graphs import describe, write_graph

LAYER = ("conv5",)
SEVERAL = [[TOP, 3, 7], [0], [5, TOP]]
ALL_NEEDS = [
    Needs(),
    Needs(layers=LAYER),
    Needs(guided=True),
    Needs(layers=LAYER, guided=True),
]


@pytest.fixture(scope="module")
def engine(shapes, shapes_graphs):
    return OnnxEngine(open_graphs(shapes_graphs, origin_of(shapes), threads=1))


@pytest.fixture(scope="module")
def pictures(shapes):
    return fresh_pictures(np.random.default_rng(400), 3, shapes.preprocessing)


@pytest.fixture
def opened(shapes, shapes_graphs, tmp_path):
    """Opens an engine on some of the graphs."""

    def open_some(*files):
        for file in (*files, "model.safetensors", "model.weights"):
            shutil.copy(shapes_graphs / file, tmp_path)
        return OnnxEngine(open_graphs(tmp_path, origin_of(shapes), threads=1))

    return open_some


def close(found, expected, name=""):
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max(), rtol=0, err_msg=name)


def assert_same_evidence(found, expected):
    assert found.input_size == expected.input_size
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.classes, expected.classes)
    close(found.logits, expected.logits, "logits")
    assert list(found.layers) == list(expected.layers)
    for path, layer in expected.layers.items():
        close(found.layers[path].activation, layer.activation, "activation")
        close(found.layers[path].gradient, layer.gradient, "gradient")
    assert (found.guided is None) == (expected.guided is None)
    if expected.guided is not None:
        assert found.guided.shape == expected.guided.shape
        beyond = np.abs(found.guided - expected.guided) > 1e-4 * np.abs(expected.guided).max()
        assert beyond.mean() <= 0.0005  # a ReLU's gate can flip where rounding decides
    assert found.coverage == expected.coverage
    assert found.saliency is None


@pytest.mark.parametrize("needs", ALL_NEEDS, ids=str)
@pytest.mark.parametrize("targets", [[[TOP], [TOP], [TOP]], SEVERAL, [[2], [], [TOP, 4]]], ids=str)
def test_the_graphs_find_what_the_hooks_find(engine, shapes, pictures, needs, targets):
    found, expected = engine.run(pictures, targets, needs), TorchEngine(shapes).run(pictures, targets, needs)
    assert_same_evidence(found, expected)
    assert (found.engine, expected.engine) == ("onnx", "torch")


@pytest.mark.parametrize("kind", [KIND_PREDICTION, KIND_GRADCAM])
def test_rows_without_a_target_shift_no_other_rows_class(tmp_path, kind):
    engine = OnnxEngine({kind: GraphSession.open(write_graph(tmp_path, describe(kind)))})
    inputs = np.zeros((4, 3, 2, 2), np.float32)  # the scores are the channels' means
    inputs[[0, 1, 2, 3], [1, 0, 2, 1]] = 1
    found = engine.run(inputs, [[2, TOP], [], [TOP, 0], [TOP]], Needs(layers=("last",) if kind == KIND_GRADCAM else ()))
    assert (found.rows.tolist(), found.classes.tolist()) == ([0, 0, 2, 2, 3], [2, 1, 2, 0, 1])
    assert found.logits.argmax(axis=1).tolist() == [1, 0, 2, 1]
    for layer in found.layers.values():
        np.testing.assert_array_equal(layer.activation, inputs[[0, 0, 2, 2, 3]])
        np.testing.assert_array_equal(layer.gradient, -inputs[[0, 0, 2, 2, 3]])


@pytest.mark.parametrize("needs", ALL_NEEDS, ids=str)
def test_chunks_change_nothing(engine, pictures, monkeypatch, needs):
    whole = engine.run(pictures, SEVERAL, needs)
    monkeypatch.setattr(onnx_engine, "_AT_ONCE", 2)
    assert_same_evidence(engine.run(pictures, SEVERAL, needs), whole)


def test_no_run_has_more_pictures_than_memory_is_meant_for(engine, pictures, monkeypatch):
    batches = []
    run = onnx_engine.GraphSession.infer

    def watched(self, inputs, outputs):
        batches.append(len(inputs["input"]))
        return run(self, inputs, outputs)

    monkeypatch.setattr(onnx_engine.GraphSession, "infer", watched)
    engine.run(pictures[np.arange(19) % 3], [[TOP]] * 19, Needs(layers=LAYER))
    assert batches == [16, 3]


class Counted:
    """A session that counts the batches of its runs."""

    def __init__(self, session, batches):
        self.session, self.batches = session, batches

    def __getattr__(self, name):
        return getattr(self.session, name)

    def run(self, names, inputs):
        self.batches.append(len(inputs.get("input", inputs.get("target"))))
        return self.session.run(names, inputs)


@pytest.mark.parametrize("needs", [Needs(layers=LAYER), Needs(layers=LAYER, guided=True)], ids=str)
def test_the_targets_of_a_picture_share_the_forward_pass(opened, pictures, needs):
    targets = [[TOP], [3, TOP, 7], [], [5, 5]]
    fresh = opened("model.onnx", "model.gradcam.onnx", "model.explain.onnx")
    graph, forward, backward, whole = fresh._held(needs), [], [], []
    first, second = graph._halves
    object.__setattr__(graph, "session", Counted(graph.session, whole))
    graph.__dict__["_halves"] = Counted(first, forward), Counted(second, backward)
    found = fresh.run(pictures[[0, 1, 2, 0]], targets, needs)
    assert (whole, forward, backward) == ([2], [1, 1], [1] * 5)
    rows = [0, 1, 1, 1, 3, 3]
    alone = opened("model.gradcam.onnx", "model.explain.onnx").run(
        pictures[[0, 1, 2, 0]][rows], [[target] for wanted in targets for target in wanted], needs
    )
    assert found.rows.tolist() == rows
    np.testing.assert_array_equal(found.classes, alone.classes)
    for name, values in {"activation": found, "gradient": found}.items():
        close(getattr(values.layers["conv5"], name), getattr(alone.layers["conv5"], name), name)
    if needs.guided:
        close(found.guided, alone.guided, "guided")


@pytest.mark.parametrize("lacking", ["onnx", "file", "same file"])
def test_without_a_split_each_target_has_a_pass_of_its_own(opened, engine, pictures, monkeypatch, tmp_path, lacking):
    needs, single = Needs(layers=LAYER, guided=True), opened("model.explain.onnx")
    if lacking == "onnx":
        monkeypatch.setitem(sys.modules, "onnx", None)
    elif lacking == "file":
        (tmp_path / "model.explain.onnx").unlink()
    else:
        (tmp_path / "model.explain.onnx").write_bytes(b"another")
    assert_same_evidence(single.run(pictures, SEVERAL, needs), engine.run(pictures, SEVERAL, needs))
    assert single._held(needs)._halves is None


def test_the_time_of_both_passes_is_told_as_one(engine, pictures):
    explained, predicted = engine.run(pictures, SEVERAL, Needs(layers=LAYER)), engine.run(pictures, SEVERAL, Needs())
    assert explained.infer_ms == 0 < explained.explain_ms
    assert predicted.explain_ms == 0 < predicted.infer_ms


@pytest.mark.parametrize(
    "needs",
    [
        Needs(layers=("stage4",)),
        Needs(layers=("stage4", "conv5")),
        Needs(saliency=True),
        Needs(layers=LAYER, saliency=True),
    ],
    ids=str,
)
def test_what_no_graph_holds_is_refused_and_what_they_hold_is_said(engine, pictures, needs):
    assert not engine.covers(needs)
    with pytest.raises(Unprocessable, match="valid are maps none and maps gradcam, guided_.* at layer conv5"):
        engine.run(pictures, SEVERAL, needs)


@pytest.mark.parametrize(
    ("files", "covered"),
    [
        (["model.onnx"], [True, False, False, False]),
        (["model.gradcam.onnx"], [True, True, False, False]),
        (["model.explain.onnx"], [True, True, True, True]),
        (["model.onnx", "model.gradcam.onnx"], [True, True, False, False]),
        (["model.onnx", "model.gradcam.onnx", "model.explain.onnx"], [True, True, True, True]),
    ],
)
def test_each_graph_covers_what_it_holds(opened, files, covered):
    engine = opened(*files)
    assert [engine.covers(needs) for needs in ALL_NEEDS] == covered


def test_every_graph_holds_the_scores(opened, pictures):
    expected = opened("model.onnx").run(pictures, SEVERAL, Needs())
    for file in ("model.gradcam.onnx", "model.explain.onnx"):
        assert_same_evidence(opened(file).run(pictures, SEVERAL, Needs()), expected)


def test_without_a_gradcam_graph_the_explanation_gives_its_evidence(opened, shapes, pictures):
    found = opened("model.explain.onnx").run(pictures, SEVERAL, Needs(layers=LAYER))
    assert_same_evidence(found, TorchEngine(shapes).run(pictures, SEVERAL, Needs(layers=LAYER)))


@pytest.mark.parametrize("needs", ALL_NEEDS, ids=str)
@pytest.mark.parametrize("target", [-2, -10, 10, 2**70])
def test_a_target_that_is_no_class_is_refused(engine, pictures, needs, target):
    with pytest.raises(BadRequest, match=rf"^target {target} is not valid, valid are 0 to 9 and -1 for the top class$"):
        engine.run(pictures, [[0], [3, target], []], needs)


def test_a_folder_without_graphs_is_no_engine(opened):
    with pytest.raises(ModelError, match=r"holds no graph, valid are model\.onnx"):
        opened()
