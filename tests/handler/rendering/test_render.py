import io

import cv2
import numpy as np
import pytest
from PIL import Image

from handler.rendering import render as rendering
from handler.rendering.render import deprocess, encode_png, overlay, sheet

BLACK_AND_WHITE = np.uint8([[[0, 0, 0], [255, 255, 255]]])
COLD_AND_HOT = np.float32([[0, 1]])  # jet shows 0 as (0, 0, 128) and 1 as (128, 0, 0)


@pytest.mark.parametrize(
    ("image_weight", "expected"),
    [
        (0.0, [[0, 0, 255], [255, 0, 0]]),
        (0.5, [[0, 0, 85], [255, 169, 169]]),  # (0, 0, 64) and (191.5, 127.5, 127.5), times 255 / 191.5
        (1.0, [[0, 0, 0], [255, 255, 255]]),
    ],
)
def test_overlay_blends_heat_and_picture_and_divides_by_the_brightest(image_weight, expected):
    drawn = overlay(BLACK_AND_WHITE, COLD_AND_HOT, image_weight, "jet")
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn, [expected])


def test_overlay_of_nothing_on_black_is_black():
    drawn = overlay(np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3), np.float32), 1.0, "jet")
    np.testing.assert_array_equal(drawn, np.zeros((2, 3, 3)))


@pytest.mark.parametrize(
    ("colormap", "expected"), [("bone", [[0, 0, 0], [255, 255, 255]]), ("autumn", [[255, 0, 0], [255, 255, 0]])]
)
def test_overlay_follows_the_colour_map(colormap, expected):
    np.testing.assert_array_equal(overlay(BLACK_AND_WHITE, COLD_AND_HOT, 0.0, colormap), [expected])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0, 0], [127, 127, 127]),
        ([-1, 1, -1, 1, -1, 1], [102, 152, 102, 152, 102, 152]),  # 0.5 - 0.1 and 0.5 + 0.1, deviation 1.00001
        ([4, 6, 4, 6, 4, 6], [102, 152, 102, 152, 102, 152]),  # the mean does not count
        ([1] + [0] * 98, [255] + [124] * 98),  # 9.9 deviations above the mean are clipped
    ],
)
def test_deprocess_standardises_around_mid_grey(values, expected):
    drawn = deprocess(np.float32(values).reshape(1, -1, 3))
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn.flatten(), expected)


def test_sheet_lays_out_captioned_pictures_on_white():
    pictures = np.random.default_rng(0).integers(0, 256, (4, 20, 60, 3), np.uint8)
    laid = sheet([[("one", pictures[0]), ("two", pictures[1])], [("drei: für 🦊", pictures[2]), ("", pictures[3])]])
    assert laid.shape == (2 * (22 + 20 + 4), 2 * (60 + 4), 3)
    for index, (top, left) in enumerate([(0, 0), (0, 64), (46, 0), (46, 64)]):
        np.testing.assert_array_equal(laid[top + 22 : top + 42, left : left + 60], pictures[index])
        assert (laid[top + 42 : top + 46, left : left + 64] == 255).all()
        assert (laid[top : top + 42, left + 60 : left + 64] == 255).all()
        assert (laid[top : top + 22, left : left + 60].min() < 128) == (index < 3)


def test_a_long_caption_is_shrunk_to_its_picture():
    picture = np.zeros((4, 60, 3), np.uint8)
    caption = sheet([[("a label that is much too long for it", picture)]])[:22]
    ink = np.flatnonzero(caption.min(axis=(0, 2)) < 255)
    assert 40 < ink.max() < 63  # it ends before the panel does


def caption(text, width=200):
    return sheet([[(text, np.zeros((4, width, 3), np.uint8))]])[:22]


@pytest.mark.parametrize("label", ["кошка", "猫", "고양이", "γάτα", "חתול", "žluťoučký", "ねこ"])
def test_labels_of_any_script_are_drawn_as_they_are(label):
    assert (caption(label) != caption("?" * len(label))).any()
    assert (caption(label) != caption(label[::-1])).any() or len(label) == 1


def test_an_older_cv2_draws_escapes_and_never_question_marks(monkeypatch):
    monkeypatch.setattr(rendering, "_font", lambda: None)
    np.testing.assert_array_equal(caption("ёж 0.75"), caption(r"\u0451\u0436 0.75"))
    assert (caption("ёж 0.75") != caption("?? 0.75")).any()


def test_line_breaks_are_drawn_as_blanks():
    np.testing.assert_array_equal(caption("a\nb\tc"), caption("a b c"))


def test_a_picture_that_cv2_cannot_encode_is_an_error(monkeypatch):
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, None))
    with pytest.raises(RuntimeError, match="^PNG encoding failed$"):
        encode_png(np.zeros((2, 2, 3), np.uint8))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_png_holds_the_very_pixels(mode):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, len(mode)), np.uint8)
    with Image.open(io.BytesIO(encode_png(picture))) as read:
        assert (read.format, read.mode) == ("PNG", mode)
        np.testing.assert_array_equal(np.asarray(read), picture)
