"""Maps as pictures: each cell's colour at its place, at every size."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from handler.protocol.options import Overlay
from handler.rendering.render import draw_map, encode_map, encode_png
from tests.support.drawing import SEEN, UPLOAD, canvas, heat, pixels

COLD, HOT = (0, 0, 255), (255, 0, 0)  # of the colour map jet alone
GREY = 127  # no gradient
# the upload's 200, halved, and two of eight pixels along a row lie under a line of the hatch
UNSEEN = np.array([[[170 if (row + column) % 8 < 2 else 100] * 3 for column in range(8)] for row in range(4)])


@pytest.mark.parametrize(
    ("size", "one", "place"),
    [
        ("layer", heat(0, 1, side=2), (0, 1)),
        ("layer", heat(1, 0, side=2), (1, 0)),
        ("input", heat(0, 2), (0, 2)),
        ("input", heat(3, 1), (3, 1)),
        ("image", heat(0, 2), (0, 5)),
        ("image", heat(3, 1), (3, 4)),
    ],
)
def test_evidence_is_red_at_its_own_place_and_the_unseen_is_hatched(size, one, place):
    expected = UNSEEN.copy() if size == "image" else np.full((*one.values.shape, 3), COLD)
    if size == "image":
        expected[:, 3:7] = COLD
    expected[place] = HOT
    np.testing.assert_array_equal(draw_map("gradcam", one, canvas(size=size)), expected)


@pytest.mark.parametrize("name", ["guided_backprop", "guided_gradcam", "saliency"])
@pytest.mark.parametrize("size", ["layer", "input", "image"])
def test_a_gradient_keeps_its_place_and_its_colours_and_the_unseen_is_hatched(name, size):
    drawn = draw_map(name, pixels(0, 2), canvas(size=size))
    expected = np.full((4, 4, 3), GREY)
    expected[0, 2] = (252, GREY, 2)  # of 48 numbers one is 4.9 deviations up, one as far down: 0.99 and 0.01
    if size == "image":
        expected = np.hstack([UNSEEN[:, :3], expected, UNSEEN[:, 7:]])
    np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("layer", SEEN.reshape(2, 2, 2, 2, 3).mean((1, 3))),  # each cell's average colour
        ("input", SEEN),
        ("image", SEEN),
    ],
)
def test_a_map_is_laid_over_what_was_seen(size, expected):
    one = heat(0, 1, side=2 if size == "layer" else 4)
    drawn = draw_map("gradcam", one, canvas(size=size, overlay=Overlay(image_weight=1.0)))
    drawn = drawn[:, 3:7] if size == "image" else drawn
    np.testing.assert_allclose(drawn, 255 * (expected / expected.max()), rtol=0, atol=1.5)


@pytest.mark.parametrize(("name", "one"), [("gradcam", replace(heat(0, 2), minimum=-1.5)), ("saliency", pixels(3, 1))])
@pytest.mark.parametrize("size", ["input", "image"])
def test_a_png_holds_the_picture_and_npy_and_list_the_values(name, one, size):
    png, npy, listed = (encode_map(name, one, canvas(size=size, encoding=form)) for form in ("png", "npy", "list"))
    picture, data = draw_map(name, one, canvas(size=size)), base64.b64decode(png["data"])
    with Image.open(io.BytesIO(data)) as read:
        np.testing.assert_array_equal(np.asarray(read), picture)
    assert data == encode_png(picture, smooth=name == "gradcam")
    assert png["shape"] == [*(UPLOAD if size == "image" else SEEN).shape[:2], *png["shape"][2:]]
    expected = one.values
    if size == "image":
        expected = np.full((4, 8, *one.values.shape[2:]), np.nan, np.float32)
        expected[:, 3:7] = one.values
    np.testing.assert_array_equal(np.load(io.BytesIO(base64.b64decode(npy["data"]))), expected)
    np.testing.assert_array_equal(np.array(listed["data"], np.float32), expected)
    for encoding, content in (("png", png), ("npy", npy), ("list", listed)):
        assert (content["encoding"], content["max"], content["degenerate"]) == (encoding, one.maximum, False)
        assert content.get("coverage") == one.coverage
        assert content.get("min") == (one.minimum if name == "gradcam" else None)
    assert npy["shape"] == listed["shape"] == list(expected.shape)


@pytest.mark.parametrize(("encoding", "kind"), [("jpeg", "JPEG"), ("webp", "WEBP")])
def test_a_lossy_picture_is_described_as_a_png_is(encoding, kind):
    png, lossy = (encode_map("gradcam", heat(0, 2), canvas(encoding=form)) for form in ("png", encoding))
    assert {**lossy, "data": ""} == {**png, "encoding": encoding, "data": ""}
    with Image.open(io.BytesIO(base64.b64decode(lossy["data"]))) as read:
        assert (read.format, [read.height, read.width, 3]) == (kind, lossy["shape"])
