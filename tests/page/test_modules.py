"""The page's modules by themselves, in Node, against what Python computes."""

import base64
import io
import json
import subprocess
from typing import Any

import cv2
import numpy as np
import pytest

from handler.picture.preprocess import Crop
from handler.picture.projection import onto_upload
from handler.rendering.render import deprocess, encode_npy
from tests.support.serving import ROOT
from tests.support.tools import tool

pytestmark = pytest.mark.skipif(tool("node") is None, reason="no node on the PATH")

CARD = {
    "name": "shapes",
    "labels": ["heart", "arrow, x", "7", "ring", "ring"],
    "maps": ["gradcam", "guided_backprop", "guided_gradcam", "saliency"],
    "method": "gradcam",
    "methods": {"gradcam": "", "rise": ""},
}


def node(code: str, given: Any = None) -> Any:
    """What the code returns, which can ``load`` the page's modules, and has ``given``."""
    folder = (ROOT / "handler/page").as_uri()
    wrapped = (
        f"const load = (name) => import('{folder}/' + name + '.js');\n"
        "const given = JSON.parse(await new Promise((done) => { let text = '';"
        "process.stdin.on('data', (part) => (text += part)).on('end', () => done(text)); }));\n"
        f"const made = await (async () => {{ {code} }})();\nconsole.log(JSON.stringify(made));"
    )
    command = [tool("node"), "--input-type=module", "--eval", wrapped]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("path", sorted((ROOT / "handler/page").glob("*.js")), ids=lambda path: path.stem)
def test_a_module_can_be_imported_without_a_document(path):
    if path.stem != "live":  # where the composed page begins
        assert node(f"return Object.keys(await load('{path.stem}'))")


@pytest.mark.parametrize("name", ["viridis", "cividis", "jet"])
def test_colours_are_opencvs_within_a_level(name):
    made = node("return [...(await load('colours')).colourTable(given)]", name)
    indices = np.arange(256, dtype=np.uint8)[:, None]
    known = cv2.applyColorMap(indices, getattr(cv2, f"COLORMAP_{name.upper()}"))[:, 0, ::-1]
    assert np.abs(np.reshape(made, (256, 3)) - known.astype(int)).max() <= 1


@pytest.mark.parametrize("shape", [(3, 5), (4, 2, 3)])
def test_an_array_is_read_as_numpy_wrote_it(shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    read = node(
        "const m = (await load('npy')).readMap({data: given}); return {...m, data: [...m.data]}", encode_npy(values)
    )
    assert (read["height"], read["width"], read["channels"]) == (*shape, 1)[:3]
    assert np.array_equal(np.float32(read["data"]), values.ravel())


@pytest.mark.parametrize("broken", ["text", "float64", "cut"])
def test_what_is_no_array_of_float32_is_refused(broken):
    file = io.BytesIO()
    np.save(file, np.zeros((2, 2), np.float64 if broken == "float64" else np.float32))
    data = {"text": b"no array at all", "float64": file.getvalue(), "cut": file.getvalue()[:-4]}[broken]
    text = base64.b64encode(data).decode()
    said = node("try { (await load('npy')).readMap({data: given}) } catch (error) { return error.message }", text)
    assert (
        said
        == {
            "text": "the map is no .npy file",
            "float64": "the map's numbers are not float32, row by row",
            "cut": "the map's file is truncated",
        }[broken]
    )


@pytest.mark.parametrize("box", [(0, 0, 40, 60), (5.5, 12.25, 33.5, 40.25), (-10, 0, 50, 60)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_map_lies_on_the_picture_as_pythons(box, channels):
    values = np.random.default_rng(1).random((7, 7, channels), np.float32)
    known = onto_upload(values, Crop((40, 60), box)).reshape(40, 60, channels)
    code = (
        "const map = {height: 7, width: 7, channels: given.channels, data: Float32Array.from(given.values)};"
        "return [...(await load('draw')).onFigure(map, given.view, [40, 60])].map((v) => Number.isNaN(v) ? null : v)"
    )
    view = {"image": [40, 60], "crop": box}
    made = np.array(node(code, {"channels": channels, "values": values.ravel().tolist(), "view": view}), float)
    made = made.reshape(known.shape)
    assert np.array_equal(np.isnan(made), np.isnan(known))
    assert np.nanmax(np.abs(made - known)) < 0.02  # OpenCV's places are multiples of 1/32 of a cell


def test_gradients_are_drawn_in_relief_as_pythons():
    values = np.random.default_rng(2).normal(size=(5, 6, 3)).astype(np.float32)
    code = (
        "const map = {height: 5, width: 6, channels: 3, data: Float32Array.from(given)};"
        "const pixels = new Uint8ClampedArray(120); (await load('draw')).relief(pixels, map.data, 3, map);"
        "return [...pixels]"
    )
    made = np.reshape(node(code, values.ravel().tolist()), (5, 6, 4))[:, :, :3]
    assert np.abs(made - deprocess(values).astype(int)).max() <= 1


OPTIONS = {
    "target": 1,
    "contrast": 0,
    "against": True,
    "method": ["rise", "gradcam"],
    "maps": ["saliency"],
    "layer": "stage4.1",
    "trust": True,
    "receipt": True,
    "weight": 0.25,
    "threshold": 0.4,
    "colours": "cividis",
    "other": "m/2",
    "timeout": 9,
    "sample": "two",
}


@pytest.mark.parametrize(
    "changed", [{}, *({name: value} for name, value in OPTIONS.items()), OPTIONS, {"maps": []}, {"target": 4}]
)
def test_a_link_says_all_options_and_nothing_else(changed):
    code = (
        "const {firstOptions, toFragment, fromFragment} = await load('options');"
        "const options = {...firstOptions(given.card), ...given.changed}; const text = toFragment(options, given.card);"
        "return {options, text, read: fromFragment('#' + text, given.card)}"
    )
    made = node(code, {"card": CARD, "changed": changed})
    assert made["read"] == made["options"]
    assert bool(made["text"]) == bool(changed)


@pytest.mark.parametrize(
    "wrong",
    ["target=zebra", "weight=7", "weight=", "method=nothing", "method=toString", "timeout=-1", "unknown=1", "%%"]
    + ["colours=foo", "colours=toString", "sample=toString", "toString=1", "__proto__=1"]
    + [
        f"other={name}"
        for name in ("../../v2", "..%2fv2", "a/..", "./a", "a/b/c", "a%5Cb", "%252e%252e/v2", "//x", "a%0A")
    ],
)
def test_what_a_link_says_wrong_is_left_as_it_is_at_first(wrong):
    code = (
        "const m = await load('options');"
        "return [m.fromFragment('#' + given.wrong, given.card), m.firstOptions(given.card)]"
    )
    read, first = node(code, {"card": CARD, "wrong": wrong})
    assert read == first


@pytest.mark.parametrize(
    ("path", "model", "address"),
    [
        ("/", "", "/predictions/shapes"),
        ("/predictions/shapes", "", "/predictions/shapes"),
        ("/models/under/predictions/shapes/1.0/", "", "/models/under/predictions/shapes/1.0"),
        ("/a/predictions/shapes/1.0", "other/2", "/a/predictions/other/2"),
        ("/", "other", "/predictions/other"),
    ],
)
def test_a_model_is_asked_at_its_address_below_the_same_prefix(path, model, address):
    code = "return (await load('server')).addressOf(given.path, 'shapes', given.model)"
    assert node(code, {"path": path, "model": model}) == address


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (415, '{"code": 415, "message": "the upload is no picture"}', "the upload is no picture"),
        (413, "", "The server takes no picture this large; choose a smaller one."),
        (502, "<html>Bad Gateway", "The proxy before the server got no answer from it; try again in a moment."),
        (503, '{"code": 503}', "The server is busy; try again in a moment."),
        (418, "null", "The server answered with 418 and without a sentence."),
    ],
)
def test_every_refusal_is_a_sentence(status, text, said):
    code = (
        "const {message, status} = (await load('server')).refusal(given.status, given.text); return [status, message]"
    )
    assert node(code, {"status": status, "text": text}) == [status, said]


def test_maps_are_told_apart_as_evidence_and_detail():
    code = (
        "const m = await load('meaning'); const methods = {fem: {title: 'FEM', ofClass: false}};"
        "return given.map(([name, made]) =>"
        " [m.meaningOf(name, made, methods), m.findingOf(name, made, {degenerate: true})])"
    )
    heart = {"target": {"label": "heart"}, "contrast": {"label": "ring"}, "method": "gradcam"}
    made = node(code, [["gradcam", heart], ["guided_backprop", heart], ["gradcam", {**heart, "method": "fem"}]])
    assert [(one["kind"], one["badge"]) for one, _ in made] == [
        ("evidence", "evidence for heart and not ring"),
        ("detail", "detail, no evidence"),
        ("detail", "the same for every class"),
    ]
    assert made[0][1].startswith(
        "Nothing in this picture speaks for heart and not ring here: the map is zero everywhere."
    )
