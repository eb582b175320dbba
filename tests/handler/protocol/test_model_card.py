"""What a card tells clients, and how it reads their options."""

import json
import re
from dataclasses import fields, replace

import pytest

from handler.errors import BadRequest, Unprocessable
from handler.explanation.class_weights import SECOND, Mixture
from handler.explanation.evidence import TOP
from handler.explanation.methods import METHODS
from handler.picture.preprocess import Preprocessing
from handler.protocol.model_card import ModelCard
from handler.protocol.options import ALL_MAPS, Options, parse_options

CARD = ModelCard(
    name="m",
    version="2",
    architecture="tiny",
    labels=["cat", "Dog", "dog", "Bird", "3", "top"],
    preprocessing=Preprocessing(resize_size=9, crop_size=8, mean=(0, 0, 0), std=(1, 1, 1)),
    default_layer="stage.2",
    layers={"stage.1.conv": (4, 4, 4), "stage.1": (4, 4, 4), "stage.2": (8, 2, 2)},
    guided_coverage="5 of 5 activations",
    refusals={"saliency": "there is no graph of it"},
    layer_rule="the last layer with cells",
    refused_layers={"head": "it has no cells"},
)


def test_the_description_tells_all_that_can_be_asked_for():
    assert CARD.description("onnx") == {
        "name": "m",
        "version": "2",
        "architecture": "tiny",
        "engine": "onnx",
        "labels": CARD.labels,
        "input": {"size": [8, 8], "preprocessing": CARD.preprocessing.describe()},
        "layer": "stage.2",
        "layer_rule": "the last layer with cells",
        "layers": {"stage.1.conv": [4, 4, 4], "stage.1": [4, 4, 4], "stage.2": [8, 2, 2]},
        "method": "gradcam",
        "methods": {name: method.summary for name, method in METHODS.items()},
        "maps": ["gradcam", "guided_backprop", "guided_gradcam"],
        "guided_coverage": "5 of 5 activations",
        "activation": "softmax",
        "one_by_one": None,
        "sizes": ["layer", "input", "image"],
        "encodings": ["png", "jpeg", "webp", "npy", "list", "tensor"],
    }
    assert replace(CARD, alone="it adds up its batch").description("onnx")["one_by_one"] == "it adds up its batch"


@pytest.mark.parametrize(("asked", "method"), [("auto", "layercam"), ("gradcam", "gradcam")])
def test_auto_is_the_models_default_method(asked, method):
    assert replace(CARD, default_method="layercam").resolved(Options(method=asked, seed=3)) == Options(
        method=method, seed=3
    )


@pytest.mark.parametrize(
    ("asked", "refused", "maps"),
    [
        (None, (), ("gradcam", "guided_backprop", "guided_gradcam")),
        (None, ("guided_gradcam",), ("gradcam", "guided_backprop")),
        (ALL_MAPS, (), ("gradcam", "guided_backprop", "guided_gradcam", "saliency")),
        (ALL_MAPS, ("gradcam",), ("guided_backprop", "guided_gradcam", "saliency")),
        (("saliency", "gradcam"), (), ("saliency", "gradcam")),
        ((), (), ()),
    ],
)
def test_the_maps_are_those_that_can_be_made(asked, refused, maps):
    card = replace(CARD, refusals=dict.fromkeys(refused, "why"))
    assert card.map_names(Options(maps=asked)) == maps


def test_a_map_that_cannot_be_made_is_refused_with_the_reason():
    with pytest.raises(Unprocessable, match="^saliency: there is no graph of it$"):
        CARD.map_names(Options(maps=("gradcam", "saliency")))


@pytest.mark.parametrize(
    ("target", "index"),
    [(0, 0), (5, 5), ("0", 0), ("5", 5), ("3", 4), ("cat", 0), ("CAT", 0), ("bIRD", 3), ("Dog", 1), ("top", 5)],
)
def test_a_class_is_named_by_index_or_label_and_labels_go_first(target, index):
    assert CARD.targets(Options(target=(target, 1))) == [Mixture(target=index), Mixture(target=1)]


@pytest.mark.parametrize(
    ("target", "mixture"),
    [
        ("-cat", Mixture(target=0, against=True)),
        ("- CAT", Mixture(target=0, against=True)),
        ("-3", Mixture(target=4, against=True)),  # there is a class with the label 3
        ("-top", Mixture(target=5, against=True)),  # and one with the label top
    ],
)
def test_a_minus_asks_for_the_evidence_against_a_label(target, mixture):
    assert CARD.targets(Options(target=(target,))) == [mixture]


WITH_COMMAS = replace(CARD, labels=["tench, Tinca tinca", "кошка", " a ", "b", "c, d, b", "d"])


@pytest.mark.parametrize(
    ("asked", "classes"),
    [
        ("tench, Tinca tinca", [0]),
        ("TENCH,tinca tinca ", [0]),
        ("b, tench, Tinca tinca,кошка", [3, 0, 1]),
        ("c, d, b", [4]),  # the longest label goes first
        ("d, b", [5, 3]),
        ("a,top,3", [2, TOP, 3]),
        (["tench, Tinca tinca", "b"], [0, 3]),
        (["d", "b"], [5, 3]),
    ],
)
def test_commas_divide_a_text_where_they_are_no_part_of_a_label(asked, classes):
    targets = WITH_COMMAS.targets(parse_options({"target": asked}, Options()))
    assert targets == [Mixture(target=index) for index in classes]
    (against,) = WITH_COMMAS.targets(parse_options({"target": "-tench, Tinca tinca"}, Options()))
    assert against == Mixture(target=0, against=True)


@pytest.mark.parametrize(
    ("label", "asked"),
    [
        ("a,, b", "a,, b"),
        (",", ","),
        ("tench,", "tench,"),
        ("a, b", ["a, b"]),
        ("caf\u00e9", "CAFE\u0301"),
        ("e\u0301t\u00e9", "\u00e9te\u0301"),
        ("\U0001f431 cat", "\U0001f431 CAT"),
    ],
)
def test_the_whole_text_is_tried_before_it_is_divided_in_any_script(label, asked):
    card = replace(CARD, labels=["a", "b", label])
    assert [mixture.target for mixture in card.targets(parse_options({"target": asked}, Options()))] == [2]
    if isinstance(asked, str):
        assert card.targets(parse_options({"target": asked.encode(), "contrast": b"a"}, Options()))[0].target == 2


@pytest.mark.parametrize("asked", [["d"] * 11, ",".join("d" * 11)])
def test_too_many_targets_are_refused(asked):
    with pytest.raises(BadRequest, match="^11 targets are too many, valid are 1 to 10$"):
        WITH_COMMAS.targets(parse_options({"target": asked}, Options()))


def test_a_label_may_begin_with_a_minus():
    card = replace(CARD, labels=["-cat", "cat"])
    assert card.targets(Options(target=("-cat",))) == [Mixture(target=0)]


@pytest.mark.parametrize(
    ("contrast", "index"),
    [("none", None), ("None", None), ("second", SECOND), ("top", 5), ("cat", 0), ("3", 4), (2, 2), ("2", 2)],
)
def test_a_contrast_is_a_word_or_a_class(contrast, index):
    assert CARD.targets(Options(target=(1,), contrast=contrast)) == [Mixture(target=1, contrast=index)]


@pytest.mark.parametrize(
    ("contrast", "said"),
    [
        (1, "contrast 1 is the target, valid are none, second and others"),
        ("lion", "contrast 'lion' is no label of this model, valid are cat, "),
        (6, "contrast 6 is not a class index, valid are 0 to 5"),
        (-2, "contrast -2 is not a class index, valid are 0 to 5"),
    ],
)
def test_a_contrast_that_is_no_other_class_is_refused(contrast, said):
    with pytest.raises(BadRequest, match=re.escape(said)):
        CARD.targets(Options(target=(0, 1), contrast=contrast))


@pytest.mark.parametrize("options", [Options(contrast="second"), Options(method="finercam")])
def test_a_contrast_needs_two_classes(options):
    with pytest.raises(BadRequest, match="one class"):
        replace(CARD, labels=["cat"]).targets(options)


@pytest.mark.parametrize("target", ["top", "TOP"])
def test_top_is_the_best_class_unless_it_is_a_label(target):
    assert replace(CARD, labels=["cat", "dog"]).class_index(target) == TOP


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (6, "target 6 is not a class index, valid are 0 to 5"),
        (-1, "target -1 is not a class index, valid are 0 to 5"),
        ("6", "target 6 is not a class index, valid are 0 to 5"),
        ("-1", "target -1 is not a class index, valid are 0 to 5"),
        ("DOG", r"target 'DOG' names the classes \[1, 2\]; give the index of one"),
        ("1234567890", "target '1234567890' is no label of this model, valid are cat, Dog, dog, Bird, 3, top$"),
        ("mouse", "target 'mouse' is no label of this model"),
        ("m" * 99, f"target '{'m' * 80}' is no label"),
    ],
)
def test_a_class_that_there_is_not_is_refused_by_what_there_is(target, said):
    with pytest.raises(BadRequest, match=f"^{said}"):
        CARD.class_index(target)


@pytest.mark.parametrize(("count", "more"), [(20, ""), (21, " and 1 more (the model's description lists all)")])
def test_few_labels_are_listed(count, more):
    labels = [f"class {place}" for place in range(count)]
    with pytest.raises(BadRequest) as refused:
        replace(CARD, labels=labels).class_index("cat")
    assert str(refused.value).endswith(f"valid are {', '.join(labels[:20])}{more}")


@pytest.mark.parametrize(
    ("layer", "paths"),
    [
        (("auto",), ["stage.2"]),
        (("AUTO", "stage.2"), ["stage.2"]),
        (("stage.1", "auto", "stage.1"), ["stage.1", "stage.2"]),
    ],
)
def test_layers_are_named_by_path_each_once(layer, paths):
    assert CARD.layer_paths(Options(layer=layer)) == paths


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (
            "head",
            r"layer 'head' has no map in tiny \(it has no cells\), valid are auto, stage\.1, stage\.2, stage\.1\.conv$",
        ),
        ("h" * 99, f"layer '{'h' * 80}' has no map in tiny, valid are"),
    ],
)
def test_a_layer_without_a_map_is_refused_and_the_outermost_layers_named_first(layer, said):
    with pytest.raises(BadRequest, match=f"^{said}"):
        CARD.layer_paths(Options(layer=(layer,)))


def test_there_are_as_many_predictions_as_classes():
    for count in (None, 1, 6):
        CARD.check(Options(top_k=count))
    with pytest.raises(BadRequest, match="^top_k 7 is not valid, valid are 1 to 6$"):
        CARD.check(Options(top_k=7))


FULL = ModelCard(
    name="m ü☃",
    version="2.1",
    architecture="tiny",
    labels=["cat", "naïve, as, is", '"quoted"\n'],
    preprocessing=Preprocessing(
        resize_size=(12, 9),
        crop_size=(10, 8),
        mean=(0.1, 0.2, 0.3, 0.4),
        std=(0.5, 1.0, 2.0, 0.3),
        interpolation="bicubic",
        crop_mode="squash",
    ),
    default_layer="stage.2",
    layers={"stage.2": (8, 2, 2), "stage.1": (4, 4, 4)},
    guided_coverage="5 of 5 activations",
    refusals={"saliency": "there is no graph of it"},
    refused_attention="it has none",
    layer_rule="the last layer with cells",
    default_method="layercam",
    head="sigmoid",
    scores="the first output",
    refused_layers={"head": "it has no cells"},
    alone="it adds up its batch",
    precision="int8; against float32: the same",
    weights_sha256="ab" * 32,
    graphs={"prediction": "cd" * 32, "gradcam": "ef" * 32},
)


@pytest.mark.parametrize("card", [CARD, FULL], ids=["of defaults", "of all fields"])
def test_a_card_is_read_back_as_it_was_written(card):
    read = ModelCard.from_json(card.to_json())
    assert read == card
    assert list(read.layers) == list(card.layers)
    assert {path: type(shape) for path, shape in read.layers.items()} == dict.fromkeys(card.layers, tuple)
    assert read.description("onnx") == card.description("onnx")


def test_the_card_of_all_fields_leaves_none_at_its_default():
    needed = {"name", "version", "architecture", "labels", "preprocessing", "default_layer", "layers"}
    values = {one.name: one for one in fields(ModelCard) if one.name not in needed}
    assert all(getattr(FULL, name) != getattr(CARD_OF_DEFAULTS, name) for name in values)


CARD_OF_DEFAULTS = ModelCard(
    name="m",
    version="1",
    architecture="a",
    labels=["x"],
    preprocessing=CARD.preprocessing,
    default_layer="c",
    layers={"c": (1, 2, 2)},
)


@pytest.mark.parametrize(
    "changes",
    [{"layers": None}, {"layers": [1]}, {"preprocessing": {}}, {"preprocessing": {"resize_size": 1}}, {"later": 1}],
)
def test_what_is_no_card_is_not_read(changes):
    text = json.dumps({**json.loads(FULL.to_json()), **changes})
    with pytest.raises((AttributeError, KeyError, TypeError, ValueError)):
        ModelCard.from_json(text)
