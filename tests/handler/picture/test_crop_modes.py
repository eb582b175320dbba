"""Rectangles, channels and crop modes: what the network gets is what timm's own transform makes."""

import numpy as np
import pytest
from PIL import Image
from timm.data import create_transform

from handler.errors import ModelError
from handler.picture.preprocess import Preprocessing, preprocess
from handler.picture.preprocess_text import said_over
from handler.picture.projection import onto_upload

SIZES = [
    (1, 1),
    (1, 50),
    (50, 1),
    (7, 5),
    (31, 33),
    (100, 100),
    (224, 224),
    (97, 311),
    (311, 97),
    (255, 256),
    (640, 481),
]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAIN = Preprocessing(resize_size=256, crop_size=224, mean=MEAN, std=STD)


def noise(height, width, bands=3):
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, bands), np.uint8)


def scaled(size, share):
    """As timm rounds it."""
    return tuple(int(side / share) for side in size)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("crop", [(224, 224), (96, 48), (65, 129)], ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("share", [1.0, 0.875, 0.95])
@pytest.mark.parametrize(
    ("mode", "interpolation"), [("center", "bicubic"), ("squash", "bilinear"), ("border", "lanczos")]
)
def test_crop_modes_are_timms(size, crop, share, mode, interpolation):
    """Upscaling and threads of pictures included; timm cannot border a thread that would have no pixel."""
    transform = create_transform(crop, interpolation=interpolation, mean=MEAN, std=STD, crop_pct=share, crop_mode=mode)
    how = Preprocessing(
        resize_size=scaled(crop, share), crop_size=crop, mean=MEAN, std=STD, interpolation=interpolation, crop_mode=mode
    )
    image = noise(*size)
    expected = transform(Image.fromarray(image)).numpy()
    found = preprocess(image, how)
    assert found.tensor.shape == (3, *crop)
    assert np.abs(found.tensor - expected).max() < 1e-6


def test_a_thread_fits_into_a_border():
    how = Preprocessing(resize_size=64, crop_size=64, mean=MEAN, std=STD, crop_mode="border")
    found = preprocess(noise(1, 3000), how)
    fill = np.array([124, 116, 104])
    assert (found.picture != fill).any(axis=2).sum() <= 64  # one row
    np.testing.assert_array_equal(found.picture[0, 0], fill)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(80, 200), (200, 80)])
def test_the_crop_says_where_each_pixel_of_the_input_lies(mode, size):
    """A map that is 1 at one pixel of the upload, seen through the crop, comes back at that pixel."""
    how = Preprocessing(resize_size=(48, 96), crop_size=(48, 96), mean=(0,) * 3, std=(1,) * 3, crop_mode=mode)
    height, width = size
    image = np.zeros((height, width, 3), np.uint8)
    row, column = height // 2 + 9, width // 2 - 11
    image[row - 3 : row + 4, column - 3 : column + 4] = 255
    seen = preprocess(image, how)
    back = np.nan_to_num(onto_upload(seen.picture[:, :, 0].astype(np.float32), seen.crop))
    rows, columns = np.mgrid[:height, :width]
    centre = (back * rows).sum() / back.sum(), (back * columns).sum() / back.sum()
    np.testing.assert_allclose(centre, (row, column), atol=0.6)


@pytest.mark.parametrize("bands", [1, 2, 4, 16])
@pytest.mark.parametrize("crop_first", [False, True])
def test_bands_are_resized_by_themselves_and_keep_their_order(bands, crop_first):
    image = noise(50, 71, bands)
    mean, std = tuple(np.linspace(0.1, 0.9, bands)), tuple(np.linspace(0.2, 0.5, bands))
    how = Preprocessing(resize_size=40, crop_size=(32, 24), mean=mean, std=std, crop_first=crop_first)
    found = preprocess(image, how)
    assert (found.tensor.shape, found.picture.shape) == ((bands, 32, 24), (32, 24, bands))
    for band in range(bands):
        alone = Preprocessing(
            resize_size=40,
            crop_size=(32, 24),
            mean=mean[band : band + 1] * 3,
            std=std[band : band + 1] * 3,
            crop_first=crop_first,
        )
        grey = np.repeat(image[:, :, band : band + 1], 3, axis=2)
        np.testing.assert_array_equal(found.tensor[band], preprocess(grey, alone).tensor[0])


def test_area_averages_many_bands():
    how = Preprocessing(resize_size=4, crop_size=4, mean=(0,) * 6, std=(1,) * 6, interpolation="area", crop_first=True)
    image = noise(16, 16, 6)
    average = image.reshape(4, 4, 4, 4, 6).mean(axis=(1, 3))
    assert np.abs(preprocess(image, how).picture - average).max() <= 0.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("input=384x192", {"resize_size": (438, 219), "crop_size": (384, 192)}),
        ("input=112", {"resize_size": 128, "crop_size": 112}),
        ("resize=96x48 crop=96x48 crop_mode=squash", {"resize_size": (96, 48), "crop_size": (96, 48)}),
        ("resize=256x256", {"resize_size": 256, "crop_size": 224}),
        ("channels=4 mean=0.5 std=0.25", {"mean": (0.5,) * 4, "std": (0.25,) * 4}),
        ("channels=2 mean=0.1,0.2 std=1", {"mean": (0.1, 0.2), "std": (1.0, 1.0)}),
        ("interpolation=lanczos", {"interpolation": "lanczos"}),
    ],
)
def test_sizes_channels_and_modes_are_read_from_text(text, expected):
    how, _ = said_over(text, PLAIN, "")
    assert {name: getattr(how, name) for name in expected} == expected
    assert Preprocessing.from_json(how.to_json()) == how


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("input=384 crop=224", "names the crop twice"),
        ("input=1x2x3", "must be whole numbers, or pairs"),
        ("input=300x", "is no number"),
        ("crop=300x100", "crop_size not the larger"),
        ("channels=4", r"has 4 channels and 3 values of mean, valid are 1 to 16 channels, and mean= with a value for"),
        ("channels=17 mean=0 std=1", "has 17 channels and 1 values of mean, valid are 1 to 16"),
        ("channels=0 mean=0 std=1", "has 0 channels"),
        ("channels=2 mean=0,0,0", "has 2 channels and 3 values of mean"),
        ("crop_mode=fit", "crop_mode 'fit' is not one of center, squash, border"),
        (
            "crop_mode=squash crop_first=1",
            r"crop_mode .squash. is not one of center \(the others go without crop_first\)",
        ),
    ],
)
def test_sizes_channels_and_modes_that_do_not_exist_are_refused(text, said):
    with pytest.raises(ModelError, match=said) as refused:
        said_over(text, PLAIN, "")
    assert "\n" not in str(refused.value)


def test_squares_of_three_channels_are_described_as_before():
    assert PLAIN.to_json() == (
        '{"resize_size": 256, "crop_size": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], '
        '"interpolation": "bilinear", "crop_first": false}'
    )


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            {"resize_size": (96, 48), "crop_size": (80, 40)},
            "resized to cover 96x48 (bilinear, antialiased), centre crop of",
        ),
        ({"resize_size": 96, "crop_size": 80, "crop_mode": "squash"}, "both sides resized to 96x96 (bilinear,"),
        ({"resize_size": 96, "crop_size": 80, "crop_mode": "border"}, "resized to fit into 96x96 (bilinear, anti"),
        (
            {"resize_size": 96, "crop_size": (80, 40), "crop_first": True},
            "centre rectangle of the ratio 80x40 of 80/96 of",
        ),
    ],
)
def test_rectangles_and_modes_are_said_in_words(how, said):
    assert Preprocessing(mean=MEAN, std=STD, **how).describe().startswith(said)
