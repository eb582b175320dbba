"""``Accept: text/html`` on a POST: the JSON answer, the whole picture and the model's card in one page."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from handler.page.compose import HEADERS
from handler.rendering.render import encode_png
from handler.serving.settings import Settings
from tests.support.engines import CARD, BrightnessEngine, answering, picture, rows_of, text_of

HTML = "text/html"


def answers(rows, accept=HTML, **settings):
    said = [{"accept": accept}] * len(rows)
    return answering(BrightnessEngine(), Settings(**settings) if settings else None).answer_batch(rows_of(rows, said))


def content(body: bytes):
    (text,) = re.findall(r'id="content">(.*?)</script>', body.decode(), re.DOTALL)
    return json.loads(text)


def without_times(answer):
    return {name: value for name, value in answer.items() if name != "timings_ms"}


@pytest.mark.parametrize("size", ["layer", "input", "image"])
@pytest.mark.parametrize("more", [{}, {"trust": "true"}, {"maps": "none"}, {"target": "light,dark"}], ids=str)
def test_a_report_holds_the_json_answer_with_arrays_of_the_inputs_size(size, more):
    asked = {"data": picture(50), **more}
    (page,) = answers([{**asked, "size": size, "encoding": "png"}])
    (plain,) = answers([{**asked, "encoding": "npy"}], accept="")
    assert (page.status, page.content_type) == (200, HTML)
    assert {name: page.headers[name] for name in HEADERS} == dict(HEADERS)
    assert page.headers["X-Image-Sha256"] == json.loads(plain.body)["image"]["sha256"]
    found = content(page.body)
    assert found["static"] is True
    assert found["card"]["labels"] == CARD.labels
    (one,) = found["answers"]
    assert without_times(one["answer"]) == without_times(json.loads(plain.body))
    assert set(one["answer"]["timings_ms"]) == {"decode", "infer", "explain", "render"}
    assert [one.observed != () for one in (page, plain)] == [True, True]


@pytest.mark.parametrize(
    ("size", "shown"),
    [((30, 50), (30, 50)), ((1600, 3), (1600, 3)), ((900, 3200), (450, 1600)), ((1, 5000), (1, 1600))],
)
def test_a_report_holds_the_whole_picture_with_at_most_1600_pixels_a_side(size, shown):
    pixels = np.full((*size, 3), 60, np.uint8)
    pixels[:, : size[1] // 2] = (120, 60, 20)
    (page,) = answers([{"data": encode_png(pixels), "size": "image", "maps": "none"}])
    (one,) = content(page.body)["answers"]
    kind, _, text = one["picture"].partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        assert image.format == "JPEG"
        seen = np.asarray(image).astype(int)
    assert seen.shape == (*shown, 3)
    assert one["answer"]["view"]["image"] == list(size)
    if min(size) > 3:
        middle = shown[1] // 2
        assert abs(seen[:, : middle - 20] - (120, 60, 20)).max() < 12
        assert abs(seen[:, middle + 20 :] - 60).max() < 12


def test_a_report_of_a_text_that_ends_scripts_stays_one_page():
    label = "</script><script>alert(1)</script>🦊 <!-- &"
    said = [{"accept": HTML}]
    serving = answering(BrightnessEngine(), None, replace(CARD, labels=[label, "light"]))
    (page,) = serving.answer_batch(rows_of([{"data": picture(50)}], said))
    assert content(page.body)["answers"][0]["answer"]["predictions"][0]["label"] == label
    assert b"alert(1)" in page.body
    assert b"<script>alert" not in page.body


def test_a_report_above_the_limit_is_refused_before_the_engine_runs_or_after():
    row = {"data": picture(50), "maps": "gradcam"}
    (whole,) = answers([row])
    size = len(whole.body)
    for most, status in ((size + 200, 200), (size - 200, 413)):  # the times have more digits or fewer
        (one,) = answers([row], max_answer_bytes=most)
        assert (one.status, one.content_type) == (status, HTML if status == 200 else "application/json")
    engine = BrightnessEngine()
    (one,) = answering(engine, Settings(max_answer_bytes=100)).answer_batch(rows_of([row], [{"accept": HTML}]))
    assert (one.status, engine.batches) == (413, [])


@pytest.mark.parametrize("more", [{"maps": "none"}, {"maps": "gradcam"}], ids=str)
def test_the_picture_of_a_report_counts_before_the_engine_runs(more):
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    row, engine = {"data": encode_png(noise), **more}, BrightnessEngine()
    (whole,) = answers([row])
    shown = len(content(whole.body)["answers"][0]["picture"])
    assert shown > 100_000
    (one,) = answering(engine, Settings(max_answer_bytes=shown - 1)).answer_batch(rows_of([row], [{"accept": HTML}]))
    assert (one.status, engine.batches) == (413, [])
    (plain,) = answering(engine, Settings(max_answer_bytes=shown - 1)).answer_batch(rows_of([row]))
    assert (plain.status, engine.batches) == (200, [1])


def test_a_mistake_is_told_in_json_as_ever():
    wrong = [{"data": b"hello"}, {"data": picture(50), "target": "zebra"}, {"data": picture(255)}]
    found = answers(wrong)
    assert [(one.status, one.content_type) for one in found] == [
        (415, "application/json"),
        (400, "application/json"),
        (500, "application/json"),
    ]


def test_pictures_in_an_envelope_have_no_report():
    (one,) = answers([{"body": {"instances": [text_of(50), text_of(60)]}}])
    assert one.content_type == "application/json"
