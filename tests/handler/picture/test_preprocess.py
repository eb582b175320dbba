import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image
from torchvision.transforms import functional

from handler.picture.preprocess import Crop, Preprocessing, preprocess

ARCHITECTURES = [
    "shufflenet_v2_x2_0",  # bilinear, 232 to 224
    "inception_v3",  # bilinear, 342 to 299
    "vit_b_16",  # bilinear, 256 to 224
    "efficientnet_b0",  # bicubic, 256 to 224
    "efficientnet_b2",  # bicubic, 288 as resized
    "efficientnet_b3",  # bicubic, 320 to 300
]
SIZES = [
    *[(1, 1), (1, 2), (2, 3), (7, 5), (31, 33), (224, 224), (232, 232), (231, 233), (299, 342), (375, 500), (500, 375)],
    *[(641, 481), (100, 799), (799, 100), (31, 250), (250, 31), (3, 500), (500, 3), (97, 1013), (1013, 97)],
]
PLAIN = Preprocessing(resize_size=256, crop_size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
FIELDS = json.loads(PLAIN.to_json())

_RESIZE_WITH_LITTLE_MEMORY = """
import resource, sys
import numpy as np
from handler.picture.preprocess import Crop, Preprocessing, preprocess
image = np.zeros((int(sys.argv[1]), int(sys.argv[2]), 3), np.uint8)
how = Preprocessing(
    resize_size=256, crop_size=224, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bicubic"
)
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 300_000_000,) * 2)
assert preprocess(image, how).picture.shape == (224, 224, 3)
"""


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 10_000 + width).integers(0, 256, (height, width, 3), np.uint8)


def transforms_of(architecture: str):
    """The transforms of the architecture's weights, and the same as our own description."""
    preset = torchvision.models.get_model_weights(architecture).DEFAULT.transforms()
    how = Preprocessing(
        resize_size=preset.resize_size[0],
        crop_size=preset.crop_size[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
    )
    return preset, how


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_torchvisions_transforms_to_the_last_bit(architecture, size):
    preset, how = transforms_of(architecture)
    image = noise(*size)
    found, expected = preprocess(image, how).tensor, preset(Image.fromarray(image)).numpy()
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert np.abs(found - expected).max() == 0.0


def test_nearest_equals_torchvision_too():
    image, how = (
        noise(50, 71),
        Preprocessing(resize_size=20, crop_size=16, mean=(0, 0, 0), std=(1, 1, 1), interpolation="nearest"),
    )
    nearest = functional.InterpolationMode.NEAREST
    expected = functional.center_crop(functional.resize(Image.fromarray(image), 20, nearest), 16)
    np.testing.assert_array_equal(preprocess(image, how).picture, np.asarray(expected))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("size", "resize", "crop"),
    [((2000, 1), 32, 28), ((1, 2000), 32, 28), ((1500, 2), 32, 28), ((2, 1500), 32, 28)]
    + [((600, 1), 256, 224), ((1, 600), 256, 224), ((1200, 2), 256, 224), ((2, 1200), 256, 224)],
)
def test_a_thread_of_a_picture_is_within_a_grey_level_of_the_direct_route(size, resize, crop, interpolation):
    image, how = (
        noise(*size),
        Preprocessing(resize_size=resize, crop_size=crop, mean=(0, 0, 0), std=(1, 1, 1), interpolation=interpolation),
    )
    resized = functional.resize(Image.fromarray(image), resize, functional.InterpolationMode(interpolation))
    direct = np.asarray(functional.center_crop(resized, crop)).astype(int)
    assert np.abs(preprocess(image, how).picture - direct).max() <= 1


@pytest.mark.parametrize("size", [(30_000, 1), (1, 30_000)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_an_endless_picture_takes_little_memory(size):
    """And so little time: resized as a whole it would have 6 GB."""
    done = subprocess.run(
        [sys.executable, "-c", _RESIZE_WITH_LITTLE_MEMORY, *map(str, size)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("size", "resize", "crop", "expected"),
    [
        ((50, 100), 50, 40, (5, 30, 45, 70)),  # not resized: the crop itself
        ((100, 200), 50, 40, (10, 60, 90, 140)),  # halved: 50x100, cropped at (5, 30)
        ((200, 100), 50, 40, (60, 10, 140, 90)),
        ((3, 5), 6, 4, (0.5, 1.5, 2.5, 3.5)),  # doubled: 6x10, cropped at (1, 3)
        ((1, 1), 256, 224, (0.0625, 0.0625, 0.9375, 0.9375)),
        ((7, 7), 7, 2, (2, 2, 4, 4)),  # 2.5 is rounded to the even 2
        ((9, 9), 9, 2, (4, 4, 6, 6)),  # 3.5 is rounded to the even 4
        ((3, 4), 2, 2, (0, 0, 3, 4)),  # 2.67 is cut to 2: one resized pixel is 1.5 high, 2 wide
    ],
)
def test_it_says_where_the_crop_lies_in_the_upload(size, resize, crop, expected):
    found = preprocess(
        noise(*size), Preprocessing(resize_size=resize, crop_size=crop, mean=(0, 0, 0), std=(1, 1, 1))
    ).crop
    assert found.image == size
    np.testing.assert_allclose(found.box, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("size", "resize", "crop", "expected"),
    [
        ((300, 451), 224, 224, (0, 75, 300, 375)),
        ((400, 600), 224, 224, (0, 100, 400, 500)),
        ((300, 451), 256, 224, (19, 94, 281, 356)),  # 262.5 is cut to 262
        ((1, 1), 256, 224, (0, 0, 1, 1)),
        ((3, 2000), 256, 224, (0, 999, 2, 1001)),
    ],
)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "area"])
def test_a_crop_that_comes_first_lies_at_whole_pixels_of_the_upload(size, resize, crop, expected, interpolation):
    how = Preprocessing(
        resize_size=resize, crop_size=crop, mean=(0, 0, 0), std=(1, 1, 1), interpolation=interpolation, crop_first=True
    )
    seen = preprocess(noise(*size), how)
    assert seen.crop.box == expected
    assert seen.picture.shape == (crop, crop, 3)


def test_area_is_the_average_of_what_lies_below():
    image = noise(16, 24)
    seen = preprocess(
        image,
        Preprocessing(resize_size=4, crop_size=4, mean=(0, 0, 0), std=(1, 1, 1), interpolation="area", crop_first=True),
    )
    average = image[:, 4:20].reshape(4, 4, 4, 4, 3).mean(axis=(1, 3))
    assert np.abs(seen.picture - average).max() <= 0.5


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_crop_that_comes_first_is_what_torchvision_makes_of_the_cut_picture(interpolation):
    image, how = (
        noise(90, 131),
        Preprocessing(
            resize_size=32, crop_size=28, mean=(0, 0, 0), std=(1, 1, 1), interpolation=interpolation, crop_first=True
        ),
    )
    cut = Image.fromarray(image).crop((26, 6, 104, 84))  # 78 = 90 * 28 // 32
    expected = functional.resize(cut, [28, 28], functional.InterpolationMode(interpolation))
    seen = preprocess(image, how)
    np.testing.assert_array_equal(seen.picture, np.asarray(expected))
    np.testing.assert_array_equal(seen.tensor, how.normalise(seen.picture))
    assert seen.crop == Crop((90, 131), (6, 26, 84, 104))


def test_view_shows_where_the_picture_was_taken_from():
    image = noise(50, 100)
    seen = preprocess(image, Preprocessing(resize_size=50, crop_size=40, mean=(0, 0, 0), std=(1, 1, 1)))
    np.testing.assert_array_equal(seen.picture, image[5:45, 30:70])
    assert seen.crop.to_dict() == {"image": [50, 100], "crop": [5, 30, 45, 70]}


def test_tensor_is_the_picture_normalised():
    seen = preprocess(
        np.full((4, 4, 3), (255, 0, 51), np.uint8),
        Preprocessing(resize_size=4, crop_size=4, mean=(0.5, 0.5, 0.1), std=(0.5, 0.25, 0.1)),
    )
    np.testing.assert_allclose(seen.tensor[:, 0, 0], [1, -2, 1], rtol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_json_restores_every_field(architecture):
    how = transforms_of(architecture)[1]
    assert Preprocessing.from_json(how.to_json()) == how


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        "{}",
        "3",
        json.dumps({key: value for key, value in FIELDS.items() if key != "mean"}),
        json.dumps({**FIELDS, "colour": "blue"}),
        json.dumps({**FIELDS, "interpolation": "sinc"}),
        json.dumps({**FIELDS, "interpolation": None}),
        json.dumps({**FIELDS, "interpolation": "area"}),
        json.dumps({**FIELDS, "crop_first": 1}),
        json.dumps({**FIELDS, "crop_size": 0}),
        json.dumps({**FIELDS, "crop_size": 257}),
        json.dumps({**FIELDS, "resize_size": -1, "crop_size": -2}),
        json.dumps({**FIELDS, "std": [1, 1, 0]}),
        json.dumps({**FIELDS, "std": [1, 1]}),
        json.dumps({**FIELDS, "mean": [0, 0, 0, 0]}),
        json.dumps({**FIELDS, "resize_size": "256"}),
        json.dumps({**FIELDS, "resize_size": 256.5}),
        json.dumps({**FIELDS, "mean": 0.5}),
        json.dumps({**FIELDS, "mean": ["a", "b", "c"]}),
        json.dumps({**FIELDS, "std": ["a", "b", "c"]}),
        json.dumps({**FIELDS, "std": [float("nan"), 1, 1]}),
        json.dumps({**FIELDS, "mean": [float("nan"), 0, 0]}),
    ],
)
def test_fields_that_are_missing_unknown_or_out_of_range_are_refused(text):
    with pytest.raises(ValueError, match=r"."):
        Preprocessing.from_json(text)


@pytest.mark.parametrize("text", ["[]", '{"size": 3}'])
def test_the_fields_that_there_are_are_named(text):
    with pytest.raises(ValueError, match=r"must be an object with the fields \['crop_first', 'crop_mode', .*, not "):
        Preprocessing.from_json(text)


def test_fields_with_a_default_may_be_missing():
    text = '{"resize_size": 256, "crop_size": 224, "mean": [0, 0, 0], "std": [1, 1, 1]}'
    assert Preprocessing.from_json(text) == Preprocessing(resize_size=256, crop_size=224, mean=(0, 0, 0), std=(1, 1, 1))


def test_says_in_words_what_is_done():
    assert PLAIN.describe() == (
        "shorter side resized to 256 (bilinear, antialiased), centre crop of 224x224, values in [0, 1] minus "
        "[0.485, 0.456, 0.406], divided by [0.229, 0.224, 0.225]"
    )
    first = Preprocessing(
        resize_size=256, crop_size=224, mean=(0, 0, 0), std=(1, 1, 1), interpolation="area", crop_first=True
    )
    assert first.describe().startswith("centre square of 224/256 of its side cropped, resized to 224x224 (area, anti")
    assert Preprocessing.from_json(first.to_json()) == first
    assert (
        replace(first, resize_size=224).describe().startswith("centre square cropped, resized to 224x224 (area, anti")
    )


def test_descriptions_without_the_newer_field_are_read():
    older = {name: value for name, value in FIELDS.items() if name != "crop_first"}
    assert Preprocessing.from_json(json.dumps(older)) == PLAIN
