import pytest

from handler.errors import BadRequest
from handler.explanation.methods import METHODS
from handler.protocol.options import ALL_MAPS, COLORMAPS, Options, Overlay, parse_options, shown

DEFAULTS = Options()


def nested_lists():
    value = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("given", "field", "expected"),
    [
        ({"target": "281"}, "target", ("281",)),
        ({"target": 281}, "target", (281,)),
        ({"target": b" top, tabby "}, "target", ("top, tabby",)),
        ({"target": [3, "tabby"]}, "target", (3, "tabby")),
        ({"maps": "none"}, "maps", ()),
        ({"maps": "ALL"}, "maps", ALL_MAPS),
        ({"maps": []}, "maps", ()),
        ({"maps": "saliency,gradcam,saliency"}, "maps", ("saliency", "gradcam")),
        ({"maps": ["gradcam"]}, "maps", ("gradcam",)),
        ({"target": list(range(10))}, "target", tuple(range(10))),
        ({"layer": "conv5, stage4.3"}, "layer", ("conv5", "stage4.3")),
        ({"layer": "a,b,c,d,e,f,g,h"}, "layer", tuple("abcdefgh")),
        ({"top_k": "7"}, "top_k", 7),
        ({"top_k": 7}, "top_k", 7),
        ({"trust": True}, "trust", True),
        ({"trust": False}, "trust", False),
        ({"trust": b" True "}, "trust", True),
        ({"trust": "false"}, "trust", False),
        ({"size": "Image"}, "size", "image"),
        ({"encoding": "npy"}, "encoding", "npy"),
        ({"overlay": "0.25"}, "overlay", Overlay(0.25, "jet")),
        ({"overlay": "Viridis"}, "overlay", Overlay(0.5, "viridis")),
        ({"overlay": [0, "bone"]}, "overlay", Overlay(0.0, "bone")),
        ({"overlay": 1}, "overlay", Overlay(1.0, "jet")),
    ],
)
def test_values_are_read_from_text_bytes_and_json(given, field, expected):
    assert getattr(parse_options(given, DEFAULTS), field) == expected


def test_what_is_not_given_keeps_its_default():
    defaults = Options(top_k=2, encoding="list")
    assert parse_options({"size": "layer"}, defaults) == Options(top_k=2, encoding="list", size="layer")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"colour": "red"}, "unknown option 'colour', valid are target, contrast, maps"),
        ({"target": True}, "target True"),
        ({"target": []}, "target is empty"),
        ({"target": [1.5]}, "target 1.5"),
        ({"target": "a," * 100 + "a"}, "101 targets are too many"),
        ({"maps": 3}, "map 3 does not exist"),
        ({"maps": "gradcam,,saliency"}, "maps is empty"),
        ({"top_k": "0"}, "top_k '0'"),
        ({"top_k": "-1"}, "top_k '-1'"),
        ({"top_k": 2.0}, "top_k 2.0"),
        ({"top_k": "9" * 5000}, "top_k"),
        ({"size": b"\xff"}, "size is not valid UTF-8"),
        ({"encoding": None}, "encoding None does not exist"),
        ({"overlay": "0.2,0.9"}, "overlay '0.2,0.9'"),
        ({"overlay": "jet,bone"}, "overlay"),
        ({"overlay": "inf"}, "overlay 'inf'"),
        ({"overlay": True}, "overlay True"),
        ({"overlay": 10**400}, "overlay"),
        ({"layer": [1]}, "layer [1] is not valid, valid are auto or 1 to 8 module paths"),
        ({"layer": ""}, "layer is empty, valid are auto or module paths"),
        ({"layer": "a,b,c,d,e,f,g,h,i"}, "valid are auto or 1 to 8 module paths"),
    ],
)
def test_what_is_not_valid_is_refused(given, said):
    with pytest.raises(BadRequest) as refusal:
        parse_options(given, DEFAULTS)
    assert said in str(refusal.value)
    assert len(str(refusal.value)) < 600


TARGETS = "valid are top, a class index, a label, or a list of these"
MAPS = "gradcam, guided_backprop, guided_gradcam, saliency"
OVERLAYS = f"valid are an image weight of 0 to 1, a colour map out of {', '.join(COLORMAPS)}, or both"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"Colour": "red"},
            "unknown option 'Colour', valid are target, contrast, maps, method, seed, passes, layer, top_k, smooth, "
            "trust, size, encoding, overlay",
        ),
        ({"target": ""}, f"target is empty, {TARGETS}"),
        ({"target": [None]}, f"target None is not valid, {TARGETS}"),
        ({"target": list(range(101))}, "101 targets are too many, valid are 1 to 10"),
        ({"contrast": True}, "contrast True is not valid, valid are none, second, a class index or a label"),
        (
            {"contrast": ["second"]},
            "contrast ['second'] is not valid, valid are none, second, a class index or a label",
        ),
        ({"contrast": " "}, "contrast '' is not valid, valid are none, second, a class index or a label"),
        ({"maps": "heat"}, f"map 'heat' does not exist, valid are {MAPS}, all, none"),
        ({"maps": ""}, f"maps is empty, valid are {MAPS}, all, none"),
        ({"maps": "all,gradcam"}, f"maps all and none stand alone, valid are one of them or a list of {MAPS}"),
        ({"maps": "gradcam,none"}, f"maps all and none stand alone, valid are one of them or a list of {MAPS}"),
        ({"method": "lime"}, f"method 'lime' does not exist, valid are auto, {', '.join(METHODS)}"),
        ({"layer": ["a", 1]}, "layer ['a', 1] is not valid, valid are auto or 1 to 8 module paths"),
        ({"top_k": True}, "top_k True is not valid, valid are 1 to the number of classes"),
        ({"top_k": "1" * 11}, "top_k '11111111111' is not valid, valid are 1 to the number of classes"),
        *(
            ({"trust": given}, f"trust {str(given)!r} does not exist, valid are true, false")
            for given in ("yes", "", 1, None, [True])
        ),
        ({"size": "huge"}, "size 'huge' does not exist, valid are layer, input, image"),
        ({"encoding": "gif"}, "encoding 'gif' does not exist, valid are png, jpeg, webp, npy, list, tensor"),
        ({"overlay": ""}, f"overlay is empty, {OVERLAYS}"),
        ({"overlay": 1.5}, f"overlay 1.5 is not valid, {OVERLAYS}"),
        ({"overlay": -0.5}, f"overlay -0.5 is not valid, {OVERLAYS}"),
        ({"overlay": [None]}, f"overlay [None] is not valid, {OVERLAYS}"),
        ({"size": b"\xff"}, "option size is not valid UTF-8"),
    ],
    ids=str,
)
def test_a_refusal_says_what_is_valid(given, said):
    with pytest.raises(BadRequest) as refused:
        parse_options(given, DEFAULTS)
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x" * 78, f"'{'x' * 78}'"),
        ("x" * 79, f"'{'x' * 76}…"),
        (10**5000, "a number of thousands of digits"),
        (nested_lists(), "a value nested too deeply"),
    ],
    ids=["80 characters", "81 characters", "digits", "nested"],
)
def test_a_clients_value_is_shown_in_few_characters(value, text):
    assert shown(value) == text


@pytest.mark.parametrize(("text", "number"), [("1", 1), (" 123456789 ", 123_456_789), (b"1", 1)])
def test_a_number_of_predictions_is_read_from_text(text, number):
    assert parse_options({"top_k": text}, DEFAULTS).top_k == number


def test_names_are_read_without_regard_to_case_and_dashes():
    assert parse_options({"Top-K": "3"}, DEFAULTS).top_k == 3


def test_an_overlays_parts_keep_the_other_parts_default():
    defaults = Options(overlay=Overlay(0.3, "viridis"))
    assert parse_options({"overlay": 0.7}, defaults).overlay == Overlay(0.7, "viridis")
    assert parse_options({"overlay": "bone"}, defaults).overlay == Overlay(0.3, "bone")


def test_the_colour_maps_are_those_of_cv2():
    assert {"jet", "viridis", "turbo", "bone"} <= set(COLORMAPS)
