"""What a batch gets, with an engine that fails on demand: no server, no torch."""

import base64
import json
from dataclasses import replace

import numpy as np
import pytest

from handler.errors import Unprocessable
from handler.evidence import Evidence, LayerEvidence, resolve_pairs
from handler.explainer import Explainer
from handler.model_card import ModelCard
from handler.observation import STAGES
from handler.options import Options
from handler.preprocess import Preprocessing
from handler.render import encode_png
from handler.request import Headers
from handler.settings import Settings

SIDE = 8
GUIDED = ("guided_backprop", "guided_gradcam")
CARD = ModelCard(
    "m", "1.0", "tiny", ["dark", "light"], Preprocessing(SIDE, SIDE, (0, 0, 0), (1, 1, 1)), "c", {"c": (1, 2, 2)}
)


class BrightnessEngine:
    """Scores a picture by its brightness; fails on pictures that are all white."""

    name = "test"

    def __init__(self):
        self.batches = []

    def run(self, inputs, targets, needs):
        self.batches.append(len(inputs))
        if (inputs.reshape(len(inputs), -1).min(axis=1) == 1).any():
            raise RuntimeError("too bright: secret detail")
        if (inputs.reshape(len(inputs), -1).max(axis=1) == 0).any():
            raise Unprocessable("too dark")
        light = inputs.mean(axis=(1, 2, 3))
        logits = np.stack([1 - light, light], axis=1)
        rows, classes = resolve_pairs(targets, logits)
        cell = np.ones((len(rows), 1, 2, 2), np.float32) * classes[:, None, None, None]
        return Evidence(
            logits, (SIDE, SIDE), rows, classes, {layer: LayerEvidence(cell, cell) for layer in needs.layers}
        )


def picture(value):
    return encode_png(np.full((SIDE, SIDE, 3), value, np.uint8))


def answer(rows, headers=None, settings=None, card=CARD):
    engine = BrightnessEngine()
    explainer = Explainer(engine, card, settings or Settings(Options(maps=("gradcam",))))
    return explainer.answer(rows, [Headers(one) for one in headers or [{}] * len(rows)]), engine


def test_rows_with_equal_needs_share_a_pass_and_keep_their_order():
    rows = [{"data": picture(50)}, {"data": picture(200), "maps": "none"}, {"data": picture(210)}]
    answers, engine = answer(rows)
    assert engine.batches == [2, 1]
    best = [json.loads(one.body)["predictions"][0]["label"] for one in answers]
    assert best == ["dark", "light", "light"]


def test_a_row_that_fails_in_the_engine_does_not_harm_its_neighbours():
    answers, engine = answer([{"data": picture(value)} for value in (50, 255, 0, 200)])
    assert [one.status for one in answers] == [200, 500, 422, 200]
    assert engine.batches == [4, 1, 1, 1, 1]
    assert b"secret" not in answers[1].body
    assert json.loads(answers[2].body) == {"code": 422, "type": "Unprocessable", "message": "too dark"}


def test_no_positive_evidence_is_said():
    answers, _ = answer([{"data": picture(50), "target": b"dark,light", "encoding": b"list"}])
    dark, light = (one["maps"]["gradcam"] for one in json.loads(answers[0].body)["explanations"])
    assert dark["degenerate"]
    assert dark["max"] == 0
    assert np.all(np.array(dark["data"]) == 0)
    assert not light["degenerate"]
    assert light["max"] == 1


def test_predictions_only_by_default_still_explains_on_explanations():
    settings = Settings(Options(maps=()))
    card = replace(CARD, refusals=dict.fromkeys(GUIDED, "no ReLU"))
    rows = [{"data": picture(50)}] * 2
    answers, _ = answer(rows, [{"explain": "False"}, {"explain": "True"}], settings, card)
    assert [len(json.loads(one.body)["explanations"]) for one in answers] == [0, 1]


def test_a_map_that_the_architecture_lacks_is_refused_by_its_reason():
    card = replace(CARD, refusals=dict.fromkeys(GUIDED, "this one has GELU"))
    answers, _ = answer([{"data": picture(50), "maps": "guided_backprop"}], card=card)
    assert answers[0].status == 422
    assert b"GELU" in answers[0].body


def test_all_is_what_there_is_but_a_list_is_taken_at_its_word():
    card = replace(CARD, refusals=dict.fromkeys(GUIDED, "no ReLU"))
    listed = {"data": picture(50), "maps": "gradcam,guided_backprop,guided_gradcam,saliency"}
    answers, _ = answer([listed], card=card)
    assert answers[0].status == 422


@pytest.mark.parametrize("target", ["--3", "0" * 25 + "1", "٣", "²", "9" * 5000, 10**4000, "-1", 2])
def test_a_target_that_is_no_class_is_refused_in_few_words(target):
    answers, _ = answer([{"body": {"image": base64.b64encode(picture(50)).decode(), "target": target}}])
    assert answers[0].status == 400
    assert len(answers[0].body) < 500


def test_a_label_that_is_a_number_goes_before_the_index():
    card = replace(CARD, labels=["1", "0"])
    assert card.class_index("1") == 0
    assert card.class_index(1) == 1


@pytest.mark.parametrize("encoding", ["png", "npy", "list"])
def test_what_can_only_be_too_large_is_refused_before_it_is_computed(encoding):
    upload = encode_png(np.zeros((2000, 2000, 3), np.uint8) + 50)
    row = {"data": upload, "size": "image", "encoding": encoding, "target": "0,1,0,1,0,1"}
    answers, engine = answer([row])
    assert answers[0].status == 413
    assert b"fewer targets or maps" in answers[0].body
    assert engine.batches == []


def test_a_lone_surrogate_is_no_picture():
    answers, _ = answer([{"body": "\ud800"}])
    assert answers[0].status == 415


def test_an_answer_above_the_limit_is_refused():
    settings = Settings(Options(maps=("gradcam",)), max_answer_bytes=700)
    answers, _ = answer(
        [{"data": picture(50), "encoding": "list"}, {"data": picture(50), "maps": "none"}], None, settings
    )
    assert [one.status for one in answers] == [413, 200]


@pytest.mark.parametrize("target", ["dark", "DARK", "0", 0])
def test_a_class_is_found_by_index_and_label(target):
    assert CARD.class_index(target) == 0


def test_a_label_that_several_classes_share_is_refused():
    card = replace(CARD, labels=["crane", "crane"])
    answers, _ = answer([{"data": picture(50), "target": "crane"}], card=card)
    assert b"names the classes [0, 1]" in answers[0].body


def test_each_answer_knows_what_was_observed_and_each_refusal_its_kind():
    rows = [
        {"data": picture(50), "target": b"dark,light"},
        {"data": picture(200), "maps": "none"},
        {"data": picture(200)},
        {"data": picture(0)},
        {"data": b"no picture"},
        {"data": picture(255)},
    ]
    answers, _ = answer(rows, [{"accept": "image/png"} if place == 2 else {} for place in range(len(rows))])
    assert [one.outcome for one in answers] == ["ok", "ok", "ok", "Unprocessable", "NotAnImage", "InternalError"]
    assert [len(one.observed) for one in answers] == [1, 1, 1, 0, 0, 0]
    explained, predicted, drawn = (one.observed[0] for one in answers[:3])
    assert (explained.method, explained.maps, explained.targets, explained.degenerate) == (
        "gradcam",
        ("gradcam",),
        2,
        1,
    )
    assert explained.map_count == 2
    assert explained.pixels == SIDE * SIDE
    assert (predicted.method, predicted.maps, predicted.targets, predicted.map_count) == ("none", (), 0, 0)
    assert drawn.maps == ("gradcam",)
    assert all(
        set(one.stages_ms) == set(STAGES) and one.stages_ms["render"] > 0 for one in (explained, predicted, drawn)
    )
