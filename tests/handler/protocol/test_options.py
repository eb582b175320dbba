import pytest

from handler.errors import BadRequest
from handler.protocol.options import ALL_MAPS, COLORMAPS, Options, Overlay, parse_options

DEFAULTS = Options()


@pytest.mark.parametrize(
    ("given", "field", "expected"),
    [
        ({"target": "281"}, "target", ("281",)),
        ({"target": 281}, "target", (281,)),
        ({"target": b" top, tabby "}, "target", ("top", "tabby")),
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
        ({"colour": "red"}, "unknown option 'colour', valid are target, maps"),
        ({"target": True}, "target True"),
        ({"target": []}, "target is empty"),
        ({"target": [1.5]}, "target 1.5"),
        ({"target": list(range(11))}, "11 targets are too many"),
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


def test_names_are_read_without_regard_to_case_and_dashes():
    assert parse_options({"Top-K": "3"}, DEFAULTS).top_k == 3


def test_an_overlays_parts_keep_the_other_parts_default():
    defaults = Options(overlay=Overlay(0.3, "viridis"))
    assert parse_options({"overlay": 0.7}, defaults).overlay == Overlay(0.7, "viridis")
    assert parse_options({"overlay": "bone"}, defaults).overlay == Overlay(0.3, "bone")


def test_the_colour_maps_are_those_of_cv2():
    assert {"jet", "viridis", "turbo", "bone"} <= set(COLORMAPS)
