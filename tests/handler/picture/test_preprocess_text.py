from dataclasses import replace

import pytest

from handler.errors import ModelError
from handler.picture.preprocess import Preprocessing
from handler.picture.preprocess_text import read_flag, said_over

KNOWN = Preprocessing(
    resize_size=232, crop_size=224, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), interpolation="bicubic"
)


def test_what_is_said_goes_over_what_is_known_and_the_rest_stays():
    how, origin = said_over("resize=256", KNOWN, "as the checkpoint says")
    assert how == Preprocessing(
        resize_size=256, crop_size=224, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), interpolation="bicubic"
    )
    assert origin == "resize as said, the rest as the checkpoint says"
    assert said_over("resize=256 crop=128", KNOWN, "elsewhere")[1] == "resize, crop as said, the rest elsewhere"


def test_every_field_can_be_said_with_blanks_where_one_likes():
    text = "  resize = 72 crop=64  mean=0.5, 0.5 ,0.5 std=.25,.25,.25 interpolation=area crop_first=true "
    expected = Preprocessing(
        resize_size=72,
        crop_size=64,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        interpolation="area",
        crop_first=True,
    )
    assert said_over(text, None, "") == (expected, "as said")
    assert said_over(text, KNOWN, "elsewhere") == (expected, "as said")


@pytest.mark.parametrize(
    ("said", "known", "mean", "std"),
    [
        ("mean=0.5 std=0.25", None, (0.5,) * 3, (0.25,) * 3),
        ("mean=0.5 std=0.25 channels=1", None, (0.5,), (0.25,)),
        ("mean=0.5 std=1,2", None, (0.5,) * 2, (1, 2)),
        ("mean=0.5 std=0.25", KNOWN, (0.5,) * 3, (0.25,) * 3),
        ("mean=0.5", KNOWN, (0.5,) * 3, KNOWN.std),
        ("mean=0.5 std=0.25 channels=1", KNOWN, (0.5,), (0.25,)),
        ("std=2", replace(KNOWN, mean=(0.5,), std=(1,)), (0.5,), (2,)),
    ],
)
def test_one_value_counts_for_all_channels_of_which_there_are_three_unless_something_else_says(said, known, mean, std):
    how, _ = said_over(f"resize=72 crop=64 {said}", known, "")
    assert (how.mean, how.std) == (mean, std)


def test_what_has_no_default_is_enough():
    expected = Preprocessing(resize_size=72, crop_size=64, mean=(0, 0, 0), std=(1, 1, 1))
    assert said_over("resize=72 crop=64 mean=0,0,0 std=1,1,1", None, "") == (expected, "as said")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("size=256", "names 'size', valid are resize=256 crop=224"),
        ("256", "names '256', valid are resize="),
        ("crop=64 crop=32", "names 'crop' twice, valid are"),
        (
            "crop=300",
            r"\(232, 300\) must be whole numbers, or pairs of height and width, crop_size not the larger; valid are",
        ),
        ("crop=-1", "must be whole numbers"),
        ("crop=2.5", r"preprocessing='crop=2.5': crop=2.5 is no number, valid are"),
        (
            "mean=0.5,0.5",
            "has 2 channels and 3 values of std, valid are 1 to 16 channels, and std= with a value for each",
        ),
        ("std=0,1,1", "std above 0"),
        ("mean=a,b,c", "mean=a,b,c is no number"),
        ("mean=nan,0,0", "must have a number for each channel, 1 to 16"),
        ("interpolation=area", "area goes with crop_first"),
        (
            "crop_first=perhaps",
            "preprocessing='crop_first=perhaps': crop_first=perhaps is neither true nor false, valid are true, 1",
        ),
    ],
)
def test_what_is_no_preprocessing_is_refused_in_a_line(text, said):
    with pytest.raises(ModelError, match=said) as caught:
        said_over(text, KNOWN, "")
    assert "\n" not in str(caught.value)


def test_what_nothing_says_is_named():
    with pytest.raises(ModelError, match="lacks mean, std, which nothing else says"):
        said_over("resize=256 crop=224", None, "")


@pytest.mark.parametrize(("text", "value"), [("1", True), ("TRUE", True), (" 0 ", False), ("false", False)])
def test_a_flag_has_four_spellings(text, value):
    assert read_flag(text, "TRANSFORM_INPUT") is value
