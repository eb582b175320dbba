"""The package of examples/browser, in Chromium and in Node, against Python: preprocessing, targets, maps, errors."""

import base64
import struct
import sys
import unicodedata
import zlib

import cv2
import numpy as np
import pytest

import handler
from handler.errors import RequestError
from handler.explanation.methods import ATTENTION_METHODS
from handler.graphs import description as kinds
from handler.picture.preprocess import Preprocessing, preprocess
from tests.support.exports import EXPORTERS
from tests.support.graphs import describe, write_graph
from tests.support.javascript import Browser, Node, array_of, chromium, pixels, served, text_of, tree
from tests.support.models import random_classifier
from tests.support.serving import ONE, TWO

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
METHODS = ["gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "gradcam_elementwise"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tree(tmp_path_factory)


@pytest.fixture(scope="module", params=["node", "browser"])
def runtime(request, files):
    if request.param == "node":
        yield Node(files)
        return
    with served(files) as address, chromium() as browser:
        page = browser.new_page()
        page.goto(f"{address}/examples/shapes/one.jpg")
        yield Browser(files, page)


def noise(height, width, seed=0, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def photograph(height, width):
    """A drawn picture of any size, smooth and with edges."""
    return cv2.resize(cv2.imread(str(TWO), cv2.IMREAD_COLOR_RGB), (width, height), interpolation=cv2.INTER_AREA)


PICTURES = {
    "photograph": photograph(480, 640),
    "small": photograph(97, 131),
    "large": photograph(1203, 901),
    "noise": noise(301, 250),
    "narrow": noise(31, 500),
    "tiny": noise(20, 17),
    "one pixel": noise(1, 1),
    "one line": noise(1, 50),
}
SETTINGS = {
    "bilinear": Preprocessing(resize_size=256, crop_size=224, **IMAGENET),
    "bicubic": Preprocessing(resize_size=73, crop_size=64, interpolation="bicubic", **IMAGENET),
    "lanczos": Preprocessing(resize_size=97, crop_size=96, interpolation="lanczos", **IMAGENET),
    "hamming": Preprocessing(resize_size=64, crop_size=64, interpolation="hamming", **IMAGENET),
    "box": Preprocessing(resize_size=99, crop_size=64, interpolation="box", **IMAGENET),
    "nearest": Preprocessing(resize_size=75, crop_size=64, interpolation="nearest", **IMAGENET),
    "rectangle": Preprocessing(resize_size=(96, 160), crop_size=(80, 151), interpolation="bicubic", **IMAGENET),
    "squash": Preprocessing(resize_size=(96, 75), crop_size=(80, 64), crop_mode="squash", **IMAGENET),
    "border": Preprocessing(resize_size=96, crop_size=95, crop_mode="border", **IMAGENET),
    "crop first": Preprocessing(
        resize_size=256, crop_size=224, interpolation="bicubic", crop_first=True, mean=(0.5,) * 3, std=(0.25,) * 3
    ),
    "area": Preprocessing(resize_size=64, crop_size=64, interpolation="area", crop_first=True, **IMAGENET),
    "area, a share": Preprocessing(resize_size=73, crop_size=64, interpolation="area", crop_first=True, **IMAGENET),
}


@pytest.mark.parametrize("picture", PICTURES)
def test_preprocessing_is_pythons(runtime, picture):
    pictures = {**PICTURES, "enlarged": photograph(40, 50)}
    settings = {name: how.to_dict() for name, how in SETTINGS.items()}
    question = {"picture": pixels(pictures[picture]), "settings": list(settings.values())}
    found = runtime.ask("return ask.preprocessed(given)", **question)
    for (name, how), seen in zip(SETTINGS.items(), found, strict=True):
        wanted = preprocess(pictures[picture], how)
        made = np.frombuffer(base64.b64decode(seen["picture"]), np.uint8).reshape(wanted.picture.shape)
        tensor = np.frombuffer(base64.b64decode(seen["tensor"]), np.float32).reshape(wanted.tensor.shape)
        difference = np.abs(made.astype(int) - wanted.picture).max()
        assert difference <= (1 if "area" in name else 0), name  # Pillow's filters are computed as Pillow does
        assert np.abs(tensor - wanted.tensor).max() <= 1.001 * difference / 255 / min(how.std), name
        assert seen["image"] == [*wanted.crop.image]
        np.testing.assert_allclose(seen["crop"], wanted.crop.box, rtol=1e-12)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_of_other_channels_become_what_the_network_takes(runtime, channels):
    grey = Preprocessing(resize_size=20, crop_size=16, mean=(0.5,), std=(0.5,))
    colour = Preprocessing(resize_size=20, crop_size=16, **IMAGENET)
    given = noise(33, 21, channels=channels)
    rgb = given[:, :, :3] if channels > 1 else given.repeat(3, axis=2)
    luma = cv2.LUT(given, np.arange(256, dtype=np.uint8)).reshape(33, 21, 1) if channels == 1 else _as_grey(rgb)
    question = {"picture": pixels(given), "settings": [grey.to_dict(), colour.to_dict()]}
    found = runtime.ask("return ask.preprocessed(given)", **question)
    for seen, picture, how in zip(found, (luma, rgb), (grey, colour), strict=True):
        wanted = preprocess(np.ascontiguousarray(picture), how).picture
        assert base64.b64decode(seen["picture"]) == wanted.tobytes()


def _as_grey(rgb):
    from handler.picture.bands import in_colours

    return in_colours(np.ascontiguousarray(rgb), 1)


def test_labels_are_alike_where_they_are_for_python(runtime):
    """Labels of each letter that both languages know: those that one folds together the other does, too."""
    from handler.protocol.model_card import _folded

    letters = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "L"]
    letters += [" Tench , Tinca  tinca", "tench,Tinca  tinca", "Cafe\u0301", "café", "STRASSE", "straße", "ΣΑΣ", "σας"]
    found = runtime.ask("return ask.foldedLabels(given.letters)", letters=letters)
    ours, theirs = {}, {}
    for letter, fold in zip(letters, found, strict=True):
        ours.setdefault(_folded(letter), []).append(letter)
        theirs.setdefault(fold, []).append(letter)
    assert sorted(ours.values()) == sorted(theirs.values())


@pytest.fixture(scope="module")
def graphs(whole_graphs, tmp_path_factory):
    """Graphs by name: the embedded model's, and ResNet-18's and MobileNetV2's with random weights."""
    found = {"shapes": whole_graphs / "model.explain.onnx", "prediction": whole_graphs / "model.onnx"}
    found["shapes, gradcam"] = whole_graphs / "model.gradcam.onnx"
    for name in ("resnet18", "mobilenet_v2"):
        found[name] = tmp_path_factory.mktemp(name) / "model.explain.onnx"
        EXPORTERS[kinds.KIND_EXPLANATION](random_classifier(name), found[name])
    return found


def answers(runtime, graph, questions, **options):
    """The package's answers about pictures, each a picture and options."""
    body = (
        "const model = await ask.opened(pack, given.graph, given.options); if (model.error) return [model];"
        "const found = await ask.answers(pack, model, given.questions); await model.release(); return found;"
    )
    said = [{"picture": picture, "options": given} for picture, given in questions]
    return runtime.ask(body, graph=runtime.address(graph), questions=said, options={"device": "wasm", **options})


def assert_alike(found, wanted):
    """Holds an answer of the package to a result of Python's: labels, probabilities, scores, maps."""
    assert "error" not in found, found
    expected = wanted.to_dict()
    assert [one["label"] for one in found["predictions"]] == [one["label"] for one in expected["predictions"]]
    for one, other in zip(found["predictions"], expected["predictions"], strict=True):
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)
    assert found["view"] == expected["view"]
    assert len(found["explanations"]) == len(wanted.explanations)
    largest = float(np.abs(wanted.logits).max())
    for one, other, drawn in zip(found["explanations"], expected["explanations"], wanted.explanations, strict=True):
        for classes in ("target", "contrast"):
            assert (classes in one) == (classes in other)
            if classes in one:
                assert (one[classes]["index"], one[classes]["label"]) == (
                    other[classes]["index"],
                    other[classes]["label"],
                )
                assert one[classes]["probability"] == pytest.approx(other[classes]["probability"], abs=1e-4)
                assert one[classes]["logit"] == pytest.approx(other[classes]["logit"], abs=1e-4 * largest)
        assert [one.get(name) for name in ("method", "layer", "against")] == [
            other.get(name) for name in ("method", "layer", "against")
        ]
        assert [*one["maps"]] == [*drawn.maps]
        for name, made in one["maps"].items():
            values, scale = drawn.maps[name].values, 1 if name == "gradcam" else np.abs(drawn.maps[name].values).max()
            assert made["shape"] == [*values.shape]
            assert np.abs(array_of(made["data"]) - values).max() <= 1e-3 * max(scale, 1e-12), name
            np.testing.assert_allclose(made["max"], drawn.maps[name].maximum, rtol=1e-3)
            lowest = made["min"] if name == "gradcam" else 0
            np.testing.assert_allclose(lowest, drawn.maps[name].minimum, atol=1e-3 * np.max(made["max"]))
            assert made["degenerate"] == drawn.maps[name].degenerate
            assert made.get("coverage") == drawn.maps[name].coverage


TARGETS = [
    {},
    {"target": 3},
    {"target": "{label}"},
    {"target": " {LABEL},7,top"},
    {"target": "-{label}"},
    {"target": ["top", 0], "contrast": "{label}"},
    {"contrast": "second", "maps": "gradcam"},
    {"maps": "none", "top_k": 2},
    {"size": "layer", "target": 8},
    *({"method": method, "target": [1, 5], "maps": ["gradcam"]} for method in METHODS),
]


@pytest.mark.parametrize("name", ["shapes", "resnet18", "mobilenet_v2"])
def test_maps_scores_and_labels_are_pythons(runtime, graphs, name):
    model = handler.load(graphs[name])
    label = model.card.labels[6]

    def filled(value):
        named = isinstance(value, str)
        return value.replace("{label}", label).replace("{LABEL}", label.upper()) if named else value

    options = [{key: filled(value) for key, value in said.items()} for said in TARGETS]
    for picture in (cv2.imread(str(ONE), cv2.IMREAD_COLOR_RGB), photograph(333, 250)):
        found = answers(runtime, graphs[name], [(pixels(picture), said) for said in options])
        for said, answer in zip(options, found, strict=True):
            if said.get("contrast") == label and model.predict(picture, 1)[0].label == label:
                with pytest.raises(RequestError) as refused:  # the top class held against itself
                    model.explain(picture, **said)
                assert answer["error"]["code"] == refused.value.status
                assert answer["error"]["message"] == str(refused.value)
            else:
                assert_alike(answer, model.explain(picture, **said))


@pytest.mark.parametrize("kind", [kinds.KIND_SALIENCY, kinds.KIND_LAYERS, kinds.KIND_ATTENTION, kinds.KIND_GRADCAM])
def test_graphs_of_all_kinds_are_read(runtime, tmp_path, kind):
    further = {"further_layers": ("first",)} if kind == kinds.KIND_LAYERS else {}
    graph = write_graph(tmp_path, describe(kind, coverage="", **further))
    model, picture = handler.load(graph), noise(9, 7)
    options = {
        kinds.KIND_SALIENCY: [{}, {"maps": "all", "target": "green"}],
        kinds.KIND_LAYERS: [{}, {"layer": "first"}, {"layer": ["last", "first"], "method": "layercam"}],
        kinds.KIND_ATTENTION: [{"method": name} for name in ATTENTION_METHODS],
        kinds.KIND_GRADCAM: [{"target": "blue"}],
    }[kind]
    found = answers(runtime, graph, [(pixels(picture), said) for said in options])
    for said, answer in zip(options, found, strict=True):
        assert_alike(answer, model.explain(picture, **said))


def test_networks_with_sigmoids_have_their_probabilities(runtime, tmp_path):
    graph, picture = write_graph(tmp_path, describe(kinds.KIND_PREDICTION, head="sigmoid")), noise(9, 7)
    (found,) = answers(runtime, graph, [(pixels(picture), {"maps": "none"})])
    wanted = handler.load(graph).explain(picture, maps="none")
    assert_alike(found, wanted)
    assert found["model"]["activation"] == wanted.to_dict()["model"]["activation"] == "sigmoid"


def test_mistakes_are_refused_with_the_servers_codes_and_what_is_valid(runtime, graphs):
    model, picture = handler.load(graphs["shapes"]), noise(9, 7)
    mistakes = [
        {"target": "hart"},
        {"target": 10},
        {"target": "-3"},
        {"target": []},
        {"target": "1,2,3,4,5,6,7,8,9,0,1"},
        {"contrast": "hart"},
        {"target": "heart", "contrast": "heart"},
        {"maps": "saliency"},
        {"layer": "stage9"},
        {"top_k": 0},
        {"top_k": 11},
        {"size": "huge"},
        {"seeed": 1},
    ]
    found = answers(runtime, graphs["shapes"], [(pixels(picture), said) for said in mistakes])
    for said, answer in zip(mistakes, found, strict=True):
        with pytest.raises(RequestError) as wanted:
            model.explain(picture, **said)
        error = answer["error"]
        assert (error["name"], error["code"]) == ("ExplainError", wanted.value.status), said
        assert "valid" in error["message"], error
    assert found[0]["error"]["message"] == str(pytest.raises(RequestError, model.explain, picture, target="hart").value)


def test_what_is_no_picture_is_refused_as_the_server_does(runtime, graphs):
    model = handler.load(graphs["shapes"])
    header = cv2.imencode(".png", noise(2, 2))[1].tobytes()

    def sized(width, height):
        chunk = b"IHDR" + struct.pack(">II", width, height) + header[24:29]
        return header[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + header[33:]

    huge, long = sized(9_000, 9_000), sized(70_000, 2)
    wide = cv2.imencode(".jpg", noise(8, 8))[1].tobytes()
    place = wide.index(b"\xff\xc0") + 5
    wide = wide[:place] + (9_000).to_bytes(2, "big") * 2 + wide[place + 4 :]
    broken = cv2.imencode(".png", noise(64, 64))[1].tobytes()[:300]
    files = {"text": b"no picture at all", "empty": b"", "huge": huge, "long": long, "wide": wide, "broken": broken}
    found = answers(runtime, graphs["shapes"], [(text_of(data), {}) for data in files.values()])
    for (name, data), answer in zip(files.items(), found, strict=True):
        with pytest.raises(RequestError) as wanted:
            model.explain(data)
        error = answer["error"]
        assert (error["type"], error["code"]) == (type(wanted.value).__name__, wanted.value.status), (name, error)
        if name in ("huge", "long", "wide"):
            assert error["message"] == str(wanted.value)


def test_a_picture_for_which_values_are_not_finite_is_refused(runtime, tmp_path):
    how = Preprocessing(resize_size=2, crop_size=2, mean=(0.0,) * 3, std=(1e-39,) * 3)
    graph = write_graph(tmp_path, describe(kinds.KIND_GRADCAM, preprocessing=how))
    (found,) = answers(runtime, graph, [(pixels(np.full((2, 2, 3), 255, np.uint8)), {})])
    assert (found["error"]["type"], found["error"]["code"]) == ("NotFinite", 422)


def test_what_is_no_graph_of_this_project_is_refused(runtime, graphs, tmp_path):
    foreign = tmp_path / "foreign.onnx"
    import onnx

    model = onnx.load(graphs["prediction"])
    del model.metadata_props[:]
    onnx.save(model, foreign)
    data = {
        "no ONNX graph": [
            b"<!DOCTYPE html><html></html>",
            b"",
            ONE.read_bytes(),
            graphs["shapes"].read_bytes()[:100_000],
        ],
        "does not say its kind": [foreign.read_bytes()],
    }
    for message, contents in data.items():
        for content in contents:
            body = "return ask.opened(pack, {bytes: given.bytes}, {device: 'wasm'})"
            error = runtime.ask(body, bytes=text_of(content))["error"]
            assert error["code"] == 500
            assert message in error["message"]
            assert "make" in error["message"]


def test_a_graph_of_predictions_predicts_and_refuses_maps(runtime, graphs):
    picture = pixels(photograph(100, 100))
    asked = [(picture, {}), (picture, {"maps": "none"}), (picture, {"maps": "gradcam"})]
    *predicted, refused = answers(runtime, graphs["prediction"], asked)
    wanted = handler.load(graphs["prediction"]).explain(photograph(100, 100), maps="none")
    for one in predicted:
        assert_alike(one, wanted)
    assert refused["error"]["code"] == 422
    assert "of the kind prediction" in refused["error"]["message"]


def test_explanations_may_be_asked_for_at_once_and_given_up(runtime, graphs):
    body = """
        const model = await ask.opened(pack, given.graph, {device: "wasm"});
        const picture = {data: new Uint8Array(48).fill(99), width: 4, height: 4, channels: 3};
        const both = await Promise.all([1, 2].map((target) => model.explain(picture, {target})));
        const why = await model.explain(picture, {signal: AbortSignal.abort("enough")}).catch((error) => error);
        const after = await model.predict(picture, 1);
        return {targets: both.map((one) => one.explanations[0].target.index), why, after: after.length};
    """
    found = runtime.ask(body, graph=runtime.address(graphs["shapes"]))
    assert found == {"targets": [1, 2], "why": "enough", "after": 1}
