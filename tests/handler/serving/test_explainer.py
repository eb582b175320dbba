"""What a batch gets, with an engine that fails on demand: no server."""

import base64
import gc
import hashlib
import itertools
import json
import math
import time
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from handler.explanation.maps import make_maps
from handler.picture.preprocess import preprocess
from handler.protocol.answer import STAGES
from handler.protocol.options import Options
from handler.protocol.receipt import hash_image
from handler.rendering.render import encode_png
from handler.serving.explainer import Explainer
from handler.serving.jobs import job_of
from handler.serving.settings import Settings
from tests.support.engines import CARD, SIDE, BrightnessEngine, answering, picture, rows_of, text_of

GUIDED = ("guided_backprop", "guided_gradcam")


def answer(rows, said=None, settings=None, card=CARD):
    engine = BrightnessEngine()
    return answering(engine, settings, card).answer_batch(rows_of(rows, said)), engine


def test_rows_with_equal_needs_share_a_pass_and_keep_their_order():
    rows = [{"data": picture(50)}, {"data": picture(200), "maps": "none"}, {"data": picture(210)}]
    answers, engine = answer(rows)
    assert engine.batches == [2, 1]
    best = [json.loads(one.body)["predictions"][0]["label"] for one in answers]
    assert best == ["dark", "light", "light"]


def test_a_row_is_told_that_its_map_leaves_nothing_to_test():
    rows = [{"data": picture(200), "trust": "true", "target": "light,dark"}, {"data": picture(50), "trust": "maybe"}]
    rows += [{"body": {"image": text_of(200), "trust": True}}, {"data": picture(200)}]
    (two, wrong, one, without), engine = answer(rows)
    said = [explained["trust"]["sentence"] for explained in json.loads(two.body)["explanations"]]
    assert said == [
        "The map is the same everywhere, so that there is nothing to test.",
        "The map is without evidence, so that there is nothing to test.",
    ]
    assert (wrong.status, json.loads(wrong.body)["message"]) == (
        400,
        "trust 'maybe' does not exist, valid are true, false",
    )
    assert json.loads(one.body)["explanations"][0]["trust"]["passes"] == 0
    assert "trust" not in json.loads(without.body)["explanations"][0]
    assert engine.batches == [3], "no further pass"


def test_many_targets_at_many_layers_go_through_in_parts():
    layers = list("abcdefgh")
    card = replace(CARD, layers=dict.fromkeys(layers, (1, 2, 2)), default_layer="a")
    body = {"image": text_of(50), "target": [0, 1, 1, 0, 1], "encoding": "list", "size": "layer"}
    answers, engine = answer([{"body": {**body, "layer": layers}}, {"body": body}], card=card)
    assert engine.targets == [[[0, 1]], [[1, 0]], [[1]], [[0, 1, 1, 0, 1]]]
    in_parts, at_once = (json.loads(one.body)["explanations"] for one in answers)
    assert [one["target"]["index"] for one in in_parts] == [0, 1, 1, 0, 1]
    assert [one["layer"] for one in in_parts] == [layers] * 5
    assert [one["target"] for one in in_parts] == [one["target"] for one in at_once]
    assert [one["maps"]["gradcam"]["data"] for one in in_parts] == [one["maps"]["gradcam"]["data"] for one in at_once]


def test_a_row_that_fails_in_the_engine_does_not_harm_its_neighbours(caplog):
    answers, engine = answer([{"data": picture(value)} for value in (50, 255, 0, 200)])
    assert [one.status for one in answers] == [200, 500, 422, 200]
    assert engine.batches == [4, 1, 1, 1, 1]
    assert b"secret" not in answers[1].body
    assert [str(one.exc_info[1]) for one in caplog.records] == ["too bright: secret detail"]
    assert json.loads(answers[2].body) == {
        "code": 422,
        "type": "Unprocessable",
        "message": "too dark",
        "error": "too dark",
    }


class SalientEngine(BrightnessEngine):
    """Has a gradient at the input, too."""

    def run(self, inputs, targets, needs):
        evidence = super().run(inputs, targets, replace(needs, saliency=False))
        gradients = np.ones((len(evidence.rows), 3, SIDE, SIDE), np.float32)
        return replace(evidence, saliency=gradients if needs.saliency else None)


@pytest.mark.parametrize(
    ("maps", "method", "layer"),
    [("gradcam", "gradcam", "c"), ("gradcam,saliency", "gradcam", "c"), ("saliency", None, None)],
)
def test_an_answer_has_the_engines_own_numbers(maps, method, layer):
    row = {"data": picture(51), "target": "light,dark", "maps": maps, "encoding": "list"}
    (one,) = answering(SalientEngine()).answer_batch(rows_of([row]))
    content = json.loads(one.body)
    logits = {"dark": 0.8, "light": 0.2}  # a brightness of 51 of 255
    probabilities = {"dark": 1 / (1 + math.exp(-0.6)), "light": 1 / (1 + math.exp(0.6))}
    assert [(one["index"], one["label"]) for one in content["predictions"]] == [(0, "dark"), (1, "light")]
    for one in content["predictions"]:
        assert one["probability"] == pytest.approx(probabilities[one["label"]], abs=1e-6)
    assert [one["target"]["label"] for one in content["explanations"]] == ["light", "dark"]
    for one in content["explanations"]:
        target = one["target"]
        assert target["index"] == CARD.labels.index(target["label"])
        assert target["logit"] == pytest.approx(logits[target["label"]], abs=1e-6)
        assert target["probability"] == pytest.approx(probabilities[target["label"]], abs=1e-6)
        assert (one["method"], one["layer"], list(one["maps"])) == (method, layer, maps.split(","))


def test_no_positive_evidence_is_said():
    answers, _ = answer([{"data": picture(50), "target": b"dark,light", "encoding": b"list"}])
    dark, light = (one["maps"]["gradcam"] for one in json.loads(answers[0].body)["explanations"])
    assert dark["degenerate"]
    assert dark["max"] == 0
    assert np.all(np.array(dark["data"]) == 0)
    assert not light["degenerate"]
    assert light["max"] == 1


def test_predictions_only_by_default_still_explains_on_explanations():
    settings = Settings(defaults=Options(maps=()))
    card = replace(CARD, refusals=dict.fromkeys(GUIDED, "no ReLU"))
    rows = [{"data": picture(50)}] * 2
    answers, _ = answer(rows, [{"explains": False}, {"explains": True}], settings, card)
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
    settings = Settings(defaults=Options(maps=("gradcam",)), max_answer_bytes=1700)
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
    assert (explained.labels["method"], explained.maps, explained.targets, explained.degenerate) == (
        "gradcam",
        ("gradcam",),
        2,
        1,
    )
    assert explained.map_count == 2
    assert explained.pixels == CARD.preprocessing.crop_size**2
    assert (predicted.labels["method"], predicted.maps, predicted.targets, predicted.map_count) == ("none", (), 0, 0)
    assert drawn.maps == ("gradcam",)
    assert all(
        set(one.stages_ms) == set(STAGES) and one.stages_ms["render"] > 0 for one in (explained, predicted, drawn)
    )


def test_a_requests_pictures_share_passes_with_other_rows_and_come_back_in_order():
    instances = [text_of(50), {"image": text_of(200), "maps": "none"}, {"image": text_of(210)}]
    rows = [{"body": {"instances": instances}}, {"data": picture(220)}]
    answers, engine = answer(rows)
    assert engine.batches == [3, 1]
    predictions = json.loads(answers[0].body)["predictions"]
    assert [one["predictions"][0]["label"] for one in predictions] == ["dark", "light", "light"]
    assert [len(one["explanations"]) for one in predictions] == [1, 0, 1]
    assert [one["image"]["bytes"] for one in predictions] == [len(picture(value)) for value in (50, 200, 210)]
    assert json.loads(answers[1].body)["predictions"][0]["label"] == "light"


@pytest.mark.parametrize(
    ("wrong", "status", "said"),
    [
        (base64.b64encode(b"hello").decode(), 415, "instances[1]: not a picture"),
        ({"image": text_of(50), "target": "zebra"}, 400, "instances[1]: target 'zebra'"),
        ({"image": text_of(50), "top_k": 3}, 400, "instances[1]: top_k 3"),
        (text_of(0), 422, "instances[1]: too dark"),
        (text_of(255), 500, "the explanation failed"),
    ],
)
def test_one_wrong_picture_is_the_whole_requests_error_and_no_other_rows(wrong, status, said):
    rows = [{"body": {"instances": [text_of(50), wrong, text_of(60)]}}, {"data": picture(50)}]
    answers, engine = answer(rows)
    assert [one.status for one in answers] == [status, 200]
    assert said in json.loads(answers[0].body)["message"]
    if status in (400, 415):  # told before the engine runs
        assert engine.batches == [1]


def test_the_pictures_of_a_request_have_one_budget_together():
    large = base64.b64encode(encode_png(np.zeros((2000, 2000, 3), np.uint8) + 50)).decode()
    each = {"image": large, "size": "image"}
    few, many = ({"body": {"instances": [each] * count}} for count in (2, 5))
    answers, _ = answer([few, many])
    assert [one.status for one in answers] == [200, 413]
    assert b"instances[4]: the pictures would have 20000000 pixels" in answers[1].body
    settings = Settings(defaults=Options(maps=()), max_pixels=9_000_000)
    answers, _ = answer([few, {"body": {"instances": [large] * 3}}], settings=settings)
    assert [one.status for one in answers] == [200, 413]
    assert b"instances[2]: the request's pictures have 12000000 pixels together" in answers[1].body


def test_a_sheet_above_the_limit_is_refused_in_json():
    rows, said = [{"data": picture(50)}], [{"accept": "image/png"}]
    (sheet,), _ = answer(rows, said)
    for most, status in ((len(sheet.body), 200), (len(sheet.body) - 1, 413)):
        (one,), _ = answer(rows, said, Settings(defaults=Options(maps=("gradcam",)), max_answer_bytes=most))
        assert (one.status, one.content_type) == (status, "image/png" if status == 200 else "application/json")


def test_the_sum_of_a_requests_answers_is_limited_too():
    row = {"body": {"instances": [{"image": text_of(50), "encoding": "list"}] * 3}}
    (alone,), _ = answer([{"data": picture(50), "encoding": "list"}])
    limit = Settings(defaults=Options(maps=("gradcam",)), max_answer_bytes=2 * len(alone.body))
    answers, _ = answer([row, {"data": picture(50), "encoding": "list"}], settings=limit)
    assert [one.status for one in answers] == [413, 200]
    assert b"fewer pictures at once" in answers[0].body


def test_passes_are_no_larger_than_memory_should_bear():
    pictures = [{"image": text_of(value), "target": [0, 1, 0]} for value in range(50, 62)]
    answers, engine = answer([{"body": {"instances": pictures}}])
    assert engine.batches == [5, 5, 2]
    assert len(json.loads(answers[0].body)["predictions"]) == 12


def test_the_upload_is_named_in_every_answer_about_it():
    upload = picture(50)
    wanted = {"X-Image-Sha256": hashlib.sha256(upload).hexdigest()}
    wrong = {"data": upload, "target": "zebra"}
    one, two = ({"body": {"instances": [text_of(50)] * count}} for count in (1, 2))
    rows = [{"data": upload}, {"data": upload}, wrong, one, two, {"target": "1"}]
    answers, _ = answer(rows, [{}, {"accept": "image/png"}, {}, {}, {}, {}])
    assert [one.status for one in answers] == [200, 200, 400, 200, 200, 400]
    assert [one.headers for one in answers] == [wanted, wanted, wanted, wanted, {}, {}]
    assert json.loads(answers[0].body)["image"] == {"sha256": wanted["X-Image-Sha256"], "bytes": len(upload)}


class DazedEngine(BrightnessEngine):
    """Scores bright pictures with NaN, as a network does whose weights overflowed."""

    def run(self, inputs, targets, needs):
        evidence = super().run(inputs, targets, needs)
        evidence.logits[inputs.mean(axis=(1, 2, 3)) > 0.5] = np.nan
        return evidence


def test_scores_that_are_no_numbers_are_the_rows_own_refusal():
    serving = answering(DazedEngine())
    rows = [{"data": picture(50)}, {"data": picture(200)}, {"body": {"instances": [text_of(50), text_of(200)]}}]
    answers = serving.answer_batch(rows_of(rows))
    assert [one.status for one in answers] == [200, 422, 422]
    assert serving._explainer.pictures == {"computed": 4, "not_finite": 2}
    assert b"instances[1]: for this picture the network gives scores" in answers[2].body
    assert b": NaN" not in b"".join(one.body for one in answers)


def test_every_picture_of_a_request_is_observed():
    instances = [{"image": {"b64": base64.b64encode(picture(value)).decode()}} for value in (50, 200)]
    answers, _ = answer([{"body": {"instances": instances}}])
    assert [one.outcome for one in answers] == ["ok"]
    assert [one.maps for one in answers[0].observed] == [("gradcam",), ("gradcam",)]


def test_each_job_has_its_result_or_its_error():
    light, white = (
        job_of(Options(maps=("gradcam",)), CARD, preprocess(pixels, CARD.preprocessing), hash_image(b""))
        for pixels in (np.full((SIDE, SIDE, 3), value, np.uint8) for value in (200, 255))
    )
    found = list(Explainer(BrightnessEngine(), CARD).explain_all([light, white]))
    assert [job for job, _ in found] == [light, white]
    assert found[0][1].predictions[0].label == "light"
    assert isinstance(found[1][1], RuntimeError)
    assert "too bright" in str(found[1][1])


def test_times_are_in_milliseconds_and_drawing_is_a_part_of_rendering(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks) / 3)
    (done,), _ = answer([{"data": picture(50)}])
    (observed,) = done.observed
    assert observed.stages_ms == pytest.approx({"decode": 1e3 / 3, "infer": 0, "explain": 0, "render": 2e3 / 3})
    assert json.loads(done.body)["timings_ms"] == {"decode": 333.33, "infer": 0, "explain": 0, "render": 666.67}


def test_a_failure_of_the_server_is_logged_with_its_cause(caplog):
    answer([{"data": picture(value)} for value in (255, 0)])
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("ERROR", "a row failed")
    assert str(record.exc_info[1]) == "too bright: secret detail"


class TimedEngine(BrightnessEngine):
    """Says that a pass took 40 ms forward and 80 ms backward."""

    def run(self, inputs, targets, needs):
        return replace(super().run(inputs, targets, needs), infer_ms=40.0, explain_ms=80.0)


def test_the_time_of_a_pass_is_shared_among_its_pictures():
    serving = answering(TimedEngine())
    rows = [{"body": {"instances": [text_of(50)] * 3}}, {"data": picture(50)}]
    answers = serving.answer_batch(rows_of(rows))
    times = [(one.stages_ms["infer"], one.stages_ms["explain"]) for answer in answers for one in answer.observed]
    assert times == [(10.0, 20.0)] * 4


def clock(seconds):
    """Shows so many seconds more each time that it is looked at."""
    times = itertools.count(0, seconds)
    return SimpleNamespace(perf_counter=lambda: next(times))


def test_making_maps_and_drawing_them_are_one_stage(monkeypatch):
    monkeypatch.setattr("handler.serving.explainer.time", clock(1))
    monkeypatch.setattr("handler.serving.answering.time", clock(10))
    (one,), _ = answer([{"data": picture(50)}])
    assert json.loads(one.body)["timings_ms"]["render"] == one.observed[0].stages_ms["render"] == 11_000


def test_the_time_of_a_picture_in_parts_is_their_sum_but_it_is_decoded_once(monkeypatch):
    monkeypatch.setattr("handler.serving.jobs.time", clock(1))
    card = replace(CARD, layers=dict.fromkeys("abcdefgh", (1, 2, 2)), default_layer="a")
    serving = answering(TimedEngine(), card=card)
    row = {"body": {"image": text_of(50), "target": [0, 1, "top", 0, "top"], "layer": list("abcdefgh")}}
    (answer,) = serving.answer_batch(rows_of([row]))
    (observed,) = answer.observed
    assert {**observed.stages_ms, "render": 0} == {"decode": 1000.0, "infer": 120.0, "explain": 240.0, "render": 0}
    assert observed.targets == 5
    assert [one["target"]["index"] for one in json.loads(answer.body)["explanations"]] == [0, 1, 0, 0, 0]


class ForgetfulEngine(BrightnessEngine):
    """Fails on several pictures; when called again, what it held then must be free."""

    def __init__(self):
        super().__init__()
        self.held = []

    def run(self, inputs, targets, needs):
        gc.disable()  # what only the collector frees is held for long
        assert not [one for one in self.held if one() is not None]
        large = inputs.copy()
        self.held.append(weakref.ref(large))
        if len(inputs) > 1:
            raise MemoryError(large.shape)
        return super().run(inputs, targets, needs)


def test_a_pass_that_failed_holds_no_memory_while_its_rows_are_tried_alone():
    engine = ForgetfulEngine()
    try:
        rows = [{"data": picture(value)} for value in (50, 255, 200)]
        answers = answering(engine).answer_batch(rows_of(rows))
    finally:
        gc.enable()
    assert [one.status for one in answers] == [200, 500, 200]
    assert engine.batches == [1, 1, 1]
    assert len(engine.held) == 4


def test_a_map_that_fails_sends_no_neighbour_through_the_engine_again(monkeypatch):
    def make(evidence, pair, *rest, **options):
        if evidence.rows[pair] == 1:
            raise ArithmeticError("secret detail")
        return make_maps(evidence, pair, *rest, **options)

    monkeypatch.setattr("handler.serving.explainer.make_maps", make)
    answers, engine = answer([{"data": picture(value)} for value in (50, 60, 200)])
    assert [one.status for one in answers] == [200, 500, 200]
    assert engine.batches == [3]


def test_a_request_has_a_limit_of_explanations():
    pictures = [{"image": text_of(50), "target": [0, 1] * 5, "size": "layer"}] * 5
    answers, engine = answer([{"body": {"instances": pictures}}, {"body": {"instances": pictures[:4]}}])
    assert [one.status for one in answers] == [413, 200]
    assert b"instances[4]: the request asks for 50 explanations or more, valid are at most 40" in answers[0].body
