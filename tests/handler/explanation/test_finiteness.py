"""Pictures for which a network finds no numbers: refused by themselves, in both forms, by both engines, and counted."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from handler.autograd.torch_engine import TorchEngine
from handler.client.model import GraphModel
from handler.errors import NotFinite
from handler.explanation.evidence import Evidence, LayerEvidence
from handler.explanation.maps import Map, check_evidence, check_maps, check_scores
from handler.graphs.auto_engine import Choice
from handler.graphs.onnx_engine import OnnxEngine
from handler.graphs.session import GraphSession
from handler.picture.preprocess import Preprocessing
from handler.protocol.answer import PNG
from handler.protocol.options import Options
from handler.protocol.row import Row
from handler.rendering.render import encode_png
from handler.service import Service
from handler.serving.settings import Settings
from handler.telemetry.metrics import REQUESTS, Metrics, record
from tests.support.engines import CARD, rows_of
from tests.support.exports import export_explanation, export_prediction
from tests.support.models import tiny_classifier

SIDE, LAYER = 16, "conv"
HOW = Preprocessing(resize_size=SIDE, crop_size=SIDE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
NOISE, OTHER = (
    encode_png(np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)) for seed in (0, 1)
)
ONE_COLOUR = encode_png(np.zeros((SIDE, SIDE, 3), np.uint8))  # whose mean is exact: other colours leave rounding


class Standardising(nn.Module):
    """Divides by the picture's own deviation: a picture of one colour scores NaN."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 2)

    def forward(self, x):
        x = (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True)
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def classifier():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = tiny_classifier(Standardising())
    return replace(made, preprocessing=HOW, layers={LAYER: (8, 8, 8)}, default_layer=LAYER)


@pytest.fixture(scope="module")
def graphs(classifier, tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    export_prediction(classifier, folder / "m.onnx")
    export_explanation(classifier, folder / "m.explain.onnx")
    return folder


@pytest.fixture(params=["torch", pytest.param("onnx", marks=pytest.mark.slow)])
def service(request, classifier):
    card = replace(CARD, labels=classifier.labels, preprocessing=HOW, default_layer=LAYER, layers=classifier.layers)
    if request.param == "torch":
        engine = TorchEngine(classifier)
    else:
        folder = request.getfixturevalue("graphs")
        opened = [GraphSession.open(folder / name) for name in ("m.onnx", "m.explain.onnx")]
        engine = OnnxEngine({graph.description.kind: graph for graph in opened})
    choice = Choice(engine=engine, configured="auto")
    return Service(choice, card, Settings(defaults=Options(maps=None)))


@pytest.mark.parametrize("maps", ["none", "gradcam,guided_backprop,guided_gradcam"])
def test_a_picture_without_numbers_is_refused_and_its_neighbours_are_answered(service, maps):
    rows = [{"data": data, "maps": maps} for data in (NOISE, ONE_COLOUR, OTHER)]
    alone = [service.answer_batch(rows_of([row]))[0] for row in rows]
    together = service.answer_batch(rows_of(rows))
    for answers in (alone, together):
        assert [one.status for one in answers] == [200, 422, 200]
        content = json.loads(answers[1].body)
        assert content["type"] == "NotFinite"
        assert content["message"].startswith("for this picture the network gives scores that are not finite")
    for one, other in zip(alone, together, strict=True):
        assert json.loads(one.body).get("predictions") == json.loads(other.body).get("predictions")
    (probe,) = service.answer_batch([Row(fields={}, path="healthz")])
    assert json.loads(probe.body)["pictures"] == {"computed": 6, "not_finite": 2}


def test_a_sheet_is_refused_as_json_is(service):
    rows = [{"data": data} for data in (NOISE, ONE_COLOUR)]
    answers = service.answer_batch([Row(fields=row, accept=PNG) for row in rows])
    assert [(one.status, one.content_type) for one in answers] == [(200, PNG), (422, "application/json")]
    assert json.loads(answers[1].body)["type"] == "NotFinite"


def test_it_is_an_outcome_of_its_own_and_told_by_healthz(service):
    (answer,) = service.answer_batch(rows_of([{"data": ONE_COLOUR}]))
    metrics = Metrics()
    record(metrics, answer, 0.01)
    (counted,) = [one for one in metrics.take() if one.name == REQUESTS]
    assert dict(counted.labels)["outcome"] == "NotFinite"
    (probe,) = service.answer_batch([Row(fields={}, path="healthz")])
    said = json.loads(probe.body)
    assert (probe.status, said["status"], said["pictures"]) == (200, "ready", {"computed": 1, "not_finite": 1})


def test_graphs_without_torch_refuse_it_too(graphs):
    model = GraphModel(graphs / "m.onnx")
    assert len(model.predict(NOISE, top_k=2)) == 2
    with pytest.raises(NotFinite, match="not finite"):
        model.predict(ONE_COLOUR, top_k=2)
    model = GraphModel(graphs / "m.explain.onnx")
    assert len(model.explain(NOISE).predictions) == 2
    with pytest.raises(NotFinite, match="not finite"):
        model.explain(ONE_COLOUR)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_is_enough_among_scores(value):
    logits = np.float32([3, value, 1])
    with pytest.raises(NotFinite, match="gives scores that"):
        check_scores(logits)
    check_scores(np.nan_to_num(logits))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("part", "named"),
    [
        ("activation", "activations at layer last"),
        ("gradient", "gradients at layer last"),
        ("guided", "guided gradients"),
        ("saliency", "gradients at the input"),
    ],
)
def test_one_value_is_enough_among_a_pairs_evidence_and_harms_no_other_pair(part, named, value):
    cells = {name: np.ones((2, 3, 4, 4), np.float32) for name in ("activation", "gradient", "guided", "saliency")}
    cells[part][1, 2, 3, 0] = value
    evidence = Evidence(
        logits=np.ones((2, 2), np.float32),
        input_size=(4, 4),
        rows=np.arange(2),
        classes=np.zeros(2, np.int64),
        layers={"last": LayerEvidence(cells["activation"], cells["gradient"])},
        guided=cells["guided"],
        saliency=cells["saliency"],
    )
    check_evidence(evidence, 0)
    with pytest.raises(NotFinite, match=f"gives {named} that are not finite"):
        check_evidence(evidence, 1)


@pytest.mark.parametrize(
    "ends", [{"maximum": np.inf}, {"maximum": np.nan}, {"maximum": [1.0, np.inf]}, {"minimum": [-np.inf, 0.0]}]
)
def test_a_map_that_grew_out_of_its_numbers_is_refused(ends):
    fine = Map(values=np.zeros((2, 2), np.float32), maximum=[1.0, 2.0], degenerate=False)
    check_maps({"gradcam": fine})
    with pytest.raises(NotFinite, match="values of gradcam"):
        check_maps({"gradcam": replace(fine, **ends)})
