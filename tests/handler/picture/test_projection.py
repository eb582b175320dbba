import numpy as np
import pytest

from handler.picture.preprocess import Crop, Preprocessing, preprocess
from handler.picture.projection import hatched, onto_region, onto_upload, seen_region, show_seen

LANDSCAPE = Crop((4, 8), (0.0, 2.0, 4.0, 6.0))  # a square crop in the middle, one pixel to one
CORNER = np.float32([[1, 0], [0, 0]])
FALLING = np.float32([1, 0.75, 0.25, 0])  # (1, 0) over four pixels, bilinear with half-pixel centres


def test_a_corner_of_the_map_lands_on_that_corner_of_the_crop_and_nan_outside():
    whole = onto_upload(CORNER, LANDSCAPE)
    expected = np.full((4, 8), np.nan, np.float32)
    expected[:, 2:6] = np.outer(FALLING, FALLING)
    np.testing.assert_allclose(whole, expected, atol=1e-6)
    assert whole.dtype == np.float32


def test_each_corner_keeps_its_side_in_a_portrait():
    crop = Crop((8, 4), (2.0, 0.0, 6.0, 4.0))
    for row, column in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        values = np.zeros((2, 2), np.float32)
        values[row, column] = 1
        whole = onto_upload(values, crop)
        place = np.unravel_index(np.nanargmax(whole), whole.shape)
        assert place == (2 + 3 * row, 3 * column)
        assert np.isnan(whole[[0, 1, 6, 7]]).all()
        assert not np.isnan(whole[2:6]).any()


def test_channels_stay_apart():
    values = np.stack([CORNER, np.full_like(CORNER, 2), -CORNER], axis=2)
    seen = onto_region(values, LANDSCAPE)
    expected = np.stack([np.outer(FALLING, FALLING), np.full((4, 4), 2), -np.outer(FALLING, FALLING)], axis=2)
    np.testing.assert_allclose(seen, expected, atol=1e-6)


def test_a_map_as_large_as_its_crop_is_not_resampled():
    values = np.random.default_rng(0).random((4, 4), np.float32)
    np.testing.assert_allclose(onto_region(values, LANDSCAPE), values, atol=1e-6)


def test_a_crop_between_pixels_shifts_the_map_by_as_much():
    # pixels of half a map cell each, the first of them centred 0.25 pixels behind the crop's edge
    seen = onto_region(np.float32([[0, 1, 2, 3]]).repeat(4, axis=0), Crop((8, 9), (0.0, 0.25, 8.0, 8.25)))
    expected = (np.arange(8) + 0.5 - 0.25) / 2 - 0.5
    np.testing.assert_allclose(seen[0], expected.clip(0, 3), atol=0.02)  # cv2.remap counts in 1/32 of a cell


@pytest.mark.parametrize(
    ("crop", "expected"),
    [
        (LANDSCAPE, (slice(0, 4), slice(2, 6))),
        (
            Crop((3, 5), (0.5, 1.5, 2.5, 3.5)),
            (slice(0, 2), slice(1, 3)),
        ),  # centres on the edge: the first in, the last out
        (Crop((3, 5), (0.6, 1.4, 2.6, 3.4)), (slice(1, 3), slice(1, 3))),
        (Crop((1, 1), (0.0625, 0.0625, 0.9375, 0.9375)), (slice(0, 1), slice(0, 1))),
        (Crop((1, 1), (0.0, 0.0, 1.0, 1.0)), (slice(0, 1), slice(0, 1))),
        (
            Crop((2, 2), (0.6, 0.6, 1.4, 1.4)),
            (slice(1, 2), slice(1, 2)),
        ),  # no centre within: still one pixel
    ],
)
def test_seen_are_the_pixels_whose_centres_lie_within_the_crop(crop, expected):
    assert seen_region(crop) == expected


@pytest.mark.parametrize("how", [(256, 224), (224, 224), (32, 1), (3, 2)])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 7), (7, 1), (1, 3000), (3, 4), (5, 5), (40, 31)])
def test_every_upload_has_a_seen_part_within_it(size, how):
    crop = preprocess(
        np.zeros((*size, 3), np.uint8),
        Preprocessing(resize_size=how[0], crop_size=how[1], mean=(0, 0, 0), std=(1, 1, 1)),
    ).crop
    rows, columns = seen_region(crop)
    assert 0 <= rows.start < rows.stop <= size[0]
    assert 0 <= columns.start < columns.stop <= size[1]
    whole = onto_upload(np.ones((2, 2), np.float32), crop)
    assert whole.shape == size
    assert np.nansum(whole) == (rows.stop - rows.start) * (columns.stop - columns.start)


def test_what_was_not_seen_is_dark_grey_under_lines():
    upload = np.full((4, 8, 3), 201, np.uint8)
    upload[0, 2] = upload[1, 7] = (255, 0, 0)
    picture = np.random.default_rng(0).integers(0, 256, (4, 3, 3), np.uint8)
    shown = show_seen(picture, upload, Crop((4, 8), (0.0, 3.0, 4.0, 6.0)))
    expected = np.full((4, 8, 3), 100)
    expected[0, 2] = 38  # red counts 0.299: 76, halved; the other red pixel lies under a line
    for row in range(4):
        expected[row, [(-row) % 8, (1 - row) % 8]] = 170
    expected[:, 3:6] = picture
    np.testing.assert_array_equal(shown, expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (480, 640), (1200, 900)])
def test_a_hatch_covers_a_sixth_to_a_quarter_and_no_place_is_far_from_a_line(size):
    lines = (hatched(np.zeros((*size, 3), np.uint8)) == 170).all(axis=2)
    apart = 8 + max(size) // 60
    assert lines[0, 0]
    assert lines.mean() <= 0.28 or size == (1, 1)
    if min(size) > apart:
        windows = np.lib.stride_tricks.sliding_window_view(lines, (1, apart))
        assert windows.any(axis=(2, 3)).all()
