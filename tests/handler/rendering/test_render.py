import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from handler.rendering.render import deprocess, encode_picture, encode_png, overlay

PHOTO = Path(__file__).parents[3] / "examples/shapes/two.jpg"
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


def test_a_picture_that_cv2_cannot_encode_is_an_error(monkeypatch):
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, None))
    with pytest.raises(RuntimeError, match="^PNG encoding failed$"):
        encode_png(np.zeros((2, 2, 3), np.uint8))


def test_png_holds_the_very_pixels():
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    with Image.open(io.BytesIO(encode_png(picture))) as read:
        assert (read.format, read.mode) == ("PNG", "RGB")
        np.testing.assert_array_equal(np.asarray(read), picture)


@pytest.mark.parametrize(("encoding", "kind"), [("jpeg", b"\xff\xd8\xff"), ("webp", b"RIFF")])
def test_a_lossy_picture_is_smaller_and_close(encoding, kind):
    picture = cv2.cvtColor(cv2.imread(str(PHOTO)), cv2.COLOR_BGR2RGB)
    file = encode_picture(picture, encoding)
    assert file.startswith(kind)
    assert len(file) < len(encode_png(picture)) / 2
    read = cv2.cvtColor(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert cv2.PSNR(read, picture) > 30  # dB; the channels in another order have less than 20
