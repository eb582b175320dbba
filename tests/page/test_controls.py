"""The page's controls in Chromium, held to what is computed apart: figures, values, scores, legends and links."""

import base64
import io
import json
import re
from functools import cache

import cv2
import numpy as np
import pytest
from PIL import Image

from handler.picture.preprocess import Preprocessing, preprocess
from handler.picture.projection import onto_upload
from tests.page.test_modules import CARD, node
from tests.page.test_page import violations
from tests.support.browsing import proxy_before
from tests.support.light import light_server
from tests.support.serving import TWO, array_of
from tests.support.tools import tool

pytestmark = [pytest.mark.server, pytest.mark.skipif(tool("chromium") is None, reason="no chromium on the PATH")]

MEAN = (0.485, 0.456, 0.406)  # of the embedded model's preprocessing
FRAME = re.compile(r"([a-z]+): ([\d.]+)%")


@cache
def picture():
    """A picture wider than high, so that the network does not see its sides: uint8 (360, 480, 3)."""
    return np.asarray(Image.open(TWO).convert("RGB"))[60:420]


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def give(tab, pixels, name="given.png"):
    file = {"name": name, "mimeType": "image/png", "buffer": png(pixels)}
    tab.page.locator("#choose").set_input_files(file)
    tab.page.locator("#status", has_text="figures about").wait_for()


def asked(server, pixels, **options):
    """The server's answer about a picture, asked without the page, with maps as arrays."""
    said = {"encoding": "npy", "top_k": "10", "maps": "gradcam", **options}
    answer = server.post("/predictions/shapes", files={"data": png(pixels)}, data=said)
    assert answer.status_code == 200, answer.text
    return answer.json()


def gradcam(answer):
    return answer["explanations"][0]["maps"]["gradcam"]


def drawn(canvas):
    """The pixels of a canvas, (H, W, 3)."""
    data = canvas.evaluate("(one) => one.toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB")).astype(float)


def figure(tab, place=0, within="#figures"):
    return drawn(tab.page.locator(f"{within} canvas[role=application]").nth(place))


def composed(pixels, answer, weight=0.5, threshold=0.0, colours="viridis"):
    """What the figure of an answer must be: the map bilinearly on the upload, the picture below, the unseen hatched."""
    height, width = pixels.shape[:2]
    top, left, bottom, right = answer["view"]["crop"]
    values = array_of(gradcam(answer)).astype(float)

    def places(length, start, stop, cells):
        at = np.clip((np.arange(length) + 0.5 - start) * cells / (stop - start) - 0.5, 0, cells - 1)
        first = at.astype(int)
        return first, np.minimum(first + 1, cells - 1), at - first

    (y, below, down), (x, beside, across) = (
        places(*sides) for sides in ((height, top, bottom, values.shape[0]), (width, left, right, values.shape[1]))
    )
    lines = values[:, x] + across * (values[:, beside] - values[:, x])
    whole = np.float32(lines[y] + down[:, None] * (lines[below] - lines[y]))
    rows, columns = np.arange(height)[:, None], np.arange(width)
    seen = (rows + 0.5 >= top) & (rows + 0.5 < bottom) & (columns + 0.5 >= left) & (columns + 0.5 < right)
    heat = cv2.applyColorMap(np.uint8(255 * whole.astype(float)), getattr(cv2, f"COLORMAP_{colours.upper()}"))[
        :, :, ::-1
    ]
    made = np.where((whole >= threshold)[:, :, None], (1 - weight) * heat + weight * pixels, pixels)
    grey = np.where((rows + columns) % 10 < 2, 190, 0.35 * pixels.mean(2) + 20)
    return np.where(seen[:, :, None], made, grey[:, :, None])


def assert_composed(found, pixels, answer, **looks):
    """Within 2 grey levels: the page's colour maps are within one of OpenCV's, and levels are rounded."""
    assert np.abs(found - composed(pixels, answer, **looks)).max() <= 2


def percent(probability):
    text = f"{100 * probability:.2f}"
    if text == "100.00" and probability < 1:
        return "> 99.99 %"
    return "< 0.01 %" if text == "0.00" and probability > 0 else f"{text} %"


def digits(number):
    """A number with the digits that the page shows."""
    return float(f"{number:.2e}" if number and abs(number) < 1e-3 else f"{number:.4g}")


def frame(tab):
    """The frame's left, top, width and height, in shares of the picture's sides."""
    said = dict(FRAME.findall(tab.page.locator("#region-test .frame").get_attribute("style")))
    return [float(said[side]) / 100 for side in ("left", "top", "width", "height")]


def region(tab):
    """The frame's rows and columns of ``picture``: the pixels whose edges are nearest."""
    left, top, across, down = frame(tab)
    return (
        slice(round(start * side), round((start + extent) * side))
        for start, extent, side in ((top, down, 360), (left, across, 480))
    )


def drag(tab, start, stop, **said):
    """Draws a frame from a point to another, in shares of the picture's sides."""
    tab.page.locator("#region").scroll_into_view_if_needed()
    box = tab.page.locator("#region").bounding_box()
    first, last = ((box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, stop))
    tab.page.mouse.move(*first)
    tab.page.mouse.down(**said)
    tab.page.mouse.move(*last, steps=3)
    tab.page.mouse.up(**said)


def erased(pixels, rows, columns):
    made = pixels.copy()
    made[rows, columns] = np.rint(255 * np.array(MEAN))
    return made


def blurred(pixels, rows, columns):
    """Six cells along the longer side, averaged, and bilinearly between."""
    region = pixels[rows, columns].astype(np.float32)
    height, width = region.shape[:2]
    cells = [round(6 * side / max(height, width)) for side in (width, height)]
    small = cv2.resize(region, cells, interpolation=cv2.INTER_AREA)
    made = pixels.copy()
    made[rows, columns] = np.rint(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))
    return made


def test_a_region_that_the_pointer_draws_is_changed_and_undone(tab, server):
    """The page sends PNG, which is exact: so are the scores."""
    give(tab, picture())
    first = asked(server, picture())
    index = first["predictions"][0]["index"]
    assert_composed(figure(tab), picture(), first)
    np.testing.assert_array_equal(drawn(tab.page.locator("#region")), picture())
    drag(tab, (0.55, 0.9), (0.3, 0.25))
    assert np.abs(np.subtract(frame(tab), (0.3, 0.25, 0.25, 0.65))).max() < 0.01
    rows, columns = region(tab)
    for act, change in {"Erase": erased, "Blur": blurred}.items():
        tab.page.get_by_role("button", name=act, exact=True).click()
        tab.page.locator("#region-results tbody tr").first.wait_for()
        changed, shown = change(picture(), rows, columns), np.uint8(drawn(tab.page.locator("#region")))
        assert np.abs(shown - changed.astype(float)).max() <= (act == "Blur")  # a level, by OpenCV's rounding
        after, own = (asked(server, pixels, target=str(index)) for pixels in (shown, changed))
        for one, other in zip(after["predictions"], own["predictions"], strict=True):
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-3 * (act == "Blur"))
        for place, (answer, pixels) in enumerate([(first, picture()), (after, shown)]):
            assert_composed(figure(tab, place, "#region-results"), pixels, answer)
            said = {one["label"]: percent(one["probability"]) for one in answer["predictions"]}
            for row in tab.page.locator("#region-results tbody tr").all():
                assert row.locator("td").all_inner_texts()[place] == said[row.locator("th").inner_text()]
        assert np.abs(array_of(gradcam(after)) - array_of(gradcam(first))).max() > 0.1
        tab.page.get_by_role("button", name="Undo").click()
        tab.page.locator("#region-results table").wait_for(state="detached")
        np.testing.assert_array_equal(drawn(tab.page.locator("#region")), picture())
    best = tab.page.locator("#classes .bar .number").first.inner_text()
    assert best == percent(first["predictions"][0]["probability"])


# options that the page sends for one method, if nothing was chosen
USUAL = {
    "target": "top",
    "contrast": "none",
    "layer": "auto",
    "trust": False,
    "top_k": 10,
    "size": "input",
    "encoding": "npy",
    "method": "gradcam",
    "maps": ["gradcam", "guided_backprop", "guided_gradcam"],
}
TITLES = ["Grad-CAM", "Guided backprop", "Guided Grad-CAM"]
OF_CLASSES = ("target", "contrast")
TRUST = re.compile("^trust")


def check(name):
    return lambda page: page.get_by_role("checkbox", name=name, exact=True).click()


def press(name):
    return lambda page: page.get_by_role("button", name=name).first.click()


def choose(select, value):
    return lambda page: page.locator(select).select_option(value)


def slide(slider, value):
    return lambda page: page.locator(slider).fill(value)


def enter(field, value):
    def act(page):
        page.locator(field).fill(value)
        page.locator(field).press("Enter")

    return act


# each control: the action, the action that undoes it or None, the link's new part, the first figure's composition
SHOWN = {
    "weight": (slide("#weight", "0.25"), slide("#weight", "0.5"), "weight=0.25", {"weight": 0.25}),
    "threshold": (slide("#threshold", "0.4"), slide("#threshold", "0"), "threshold=0.4", {"threshold": 0.4}),
    "jet": (choose("#colours", "jet"), choose("#colours", "viridis"), "colours=jet", {"colours": "jet"}),
    "cividis": (
        choose("#colours", "cividis"),
        choose("#colours", "viridis"),
        "colours=cividis",
        {"colours": "cividis"},
    ),
    "receipt": (check("receipt"), check("receipt"), "receipt=true", {}),
    "timeout": (enter("#timeout", "60"), enter("#timeout", "120"), "timeout=60", {}),
}
# each control that asks the server again: the action, its undo, the link's new part, the request's unusual options
ASKED = {
    "method": (
        check("LayerCAM"),
        check("LayerCAM"),
        "method=gradcam%2Clayercam",
        {"method": "layercam", "maps": ["gradcam"]},
    ),
    "detail": (check("Guided Grad-CAM"), check("Guided Grad-CAM"), "maps=guided_backprop", {"maps": USUAL["maps"][:2]}),
    "contrast": (press("and not arrow"), press("and not arrow"), "contrast=arrow", {"contrast": 8}),
    "layer": (choose("#layer", "conv5"), choose("#layer", "auto"), "layer=conv5", {"layer": "conv5"}),
    "trust": (check(TRUST), check(TRUST), "trust=true", {"trust": True}),
    "target": (press(re.compile("^arrow")), None, "target=arrow", {"target": 8}),
}
CONTROLS = {
    **{name: (act, back, link, [], looks) for name, (act, back, link, looks) in SHOWN.items()},
    **{name: (act, back, link, [request], {}) for name, (act, back, link, request) in ASKED.items()},
}


def test_each_control_changes_what_it_says_and_nothing_else(tab, server):
    posts = []
    give(tab, picture())
    tab.page.on("request", lambda request: posts.append(request.post_data) if request.method == "POST" else None)
    for summary in ("#asking summary", "#all-classes summary"):
        tab.page.locator(summary).click()
    details, first = figure(tab, 1), asked(server, picture())
    for name, (act, back, link, requests, looks) in CONTROLS.items():
        for said, how in ((link, act), *([("", back)] if back else [])):
            how(tab.page)
            address = re.compile(f"/predictions/shapes{'#' * bool(said)}{re.escape(said)}$")
            tab.page.locator("#take .address", has_text=address).wait_for()
            tab.page.locator("#figures:not([aria-busy])").wait_for()
            if not said:
                continue
            made = [{key: one for key, one in json.loads(body).items() if key != "image"} for body in posts]
            assert made == [{**USUAL, **one} for one in requests], name
            titles = {"method": [*TITLES, "LayerCAM"], "detail": TITLES[:2]}.get(name, TITLES)
            assert tab.page.locator("#figures h3").all_inner_texts() == titles, name
            of_classes = {key: one for request in requests for key, one in request.items() if key in OF_CLASSES}
            answer = asked(server, picture(), **of_classes) if of_classes else first
            tab.page.evaluate("new Promise(requestAnimationFrame)")
            assert_composed(figure(tab), picture(), answer, **looks)
            assert np.array_equal(figure(tab, 1), details) == (not of_classes), name
            assert tab.page.locator("#beside .receipt").count() == (name == "receipt")
            assert tab.page.locator("#beside .trust").count() == (name == "trust")
        posts.clear()
    tab.page.locator("#layer").select_option("conv1")
    tab.page.locator("#problem", has_text="conv5").wait_for()  # which is what the graphs hold
    assert "422" in tab.complaints.pop()


UNSEEN = [
    ("center", 291, 290, 387, 10),
    ("center", 320, 224, 333, 250),
    ("border", 96, 96, 60, 200),
    ("squash", 64, 48, 90, 31),
]


@pytest.mark.skipif(tool("node") is None, reason="no node on the PATH")
def test_what_the_network_saw_is_marked_to_the_pixel():
    """Crops, letterboxes and stretched pictures; of the first, an edge lies within a thousandth of a pixel's centre."""
    given = []
    for mode, resized, side, height, width in UNSEEN:
        how = Preprocessing(resize_size=resized, crop_size=side, mean=MEAN, std=MEAN, crop_mode=mode)
        given.append(preprocess(np.zeros((height, width, 3), np.uint8), how).crop)
    values = np.random.default_rng(3).random((7, 7), np.float32)
    code = (
        "const {onFigure} = await load('draw'); const data = Float32Array.from(given.values);"
        "const of = (view, size) => Array.from(onFigure({height: 7, width: 7, channels: 1, data}, view, size),"
        " (value) => (Number.isNaN(value) ? null : value));"
        "const narrow = of({image: [30000, 3], crop: [14998.5, 0, 15001.5, 3]}, [720, 1]);"
        "return [...given.views.map((view) => of(view, view.image)), narrow]"
    )
    *made, narrow = node(code, {"values": values.ravel().tolist(), "views": [crop.to_dict() for crop in given]})
    for crop, found in zip(given, made, strict=True):
        np.testing.assert_allclose(np.reshape(np.float32(found), crop.image), onto_upload(values, crop), atol=1e-3)
    assert sum(value is not None for value in narrow) == 1  # however small a figure is


NUMBER = re.compile(r"-?\d[\d.]*(?:e[+-]?\d+)?")


def numbers(text):
    return [float(number) for number in NUMBER.findall(text)]


def test_the_values_under_a_pointer_are_the_maps_and_the_legend_has_its_ends(visit, server):
    """CAM has values below 0, which are what its map's 0 stands for; on a screen with two pixels for each of CSS'."""
    tab = visit(f"{server.address}/predictions/shapes#method=cam", device_scale_factor=2, has_touch=True)
    give(tab, picture())
    answer = asked(server, picture(), method="cam", maps="gradcam,guided_backprop")
    top, left, bottom, right = answer["view"]["crop"]
    made, target = gradcam(answer), answer["explanations"][0]["target"]
    assert made["min"] < 0 < made["max"]
    ends = tab.page.locator("#figures .ends").first.locator("span")
    assert [numbers(end) for end in ends.all_inner_texts()] == [[0, digits(made["min"])], [1, digits(made["max"])]]
    assert "Dark: what speaks against it." in tab.page.locator("#figures article").first.inner_text()
    for place, name in enumerate(["gradcam", "guided_backprop"]):
        values = array_of(answer["explanations"][0]["maps"][name])
        article = tab.page.locator("#figures article").nth(place)
        article.locator("canvas[role=application]").scroll_into_view_if_needed()
        box = article.locator("canvas[role=application]").bounding_box()
        for act in (tab.page.mouse.move, tab.page.touchscreen.tap):
            for x, y in ((70.5, 10.5), (240.2, 180.7), (419.4, 349.6), (30.5, 100.5)):
                act(box["x"] + x * box["width"] / 480, box["y"] + y * box["height"] / 360)
                said = article.locator("output").inner_text()
                assert numbers(said)[:2] == [int(x), int(y)]
                if not left <= x < right:
                    assert said.endswith("not seen by the network")
                    continue
                row, column = (
                    int((at - start) * cells / (stop - start))
                    for at, start, stop, cells in ((y, top, bottom, len(values)), (x, left, right, len(values[0])))
                )
                value = np.atleast_1d(values[row, column]).astype(float)
                told = [digits(one) for one in value]
                if name == "gradcam":
                    told.append(digits(made["min"] + value[0] * (made["max"] - made["min"])))
                assert numbers(said)[2:-2] == told
                assert said.endswith(
                    f"; {target['label']} {percent(target['probability'])}, score {digits(target['logit']):g}"
                )


def test_colours_under_transparent_pixels_are_those_that_the_network_sees(tab, server):
    clear = np.dstack([picture(), np.where(np.arange(480) < 240, 0, 255) * np.ones((360, 1))]).astype(np.uint8)
    give(tab, clear)
    answer = asked(server, clear)
    assert answer["predictions"] == asked(server, picture())["predictions"]
    assert_composed(figure(tab), picture(), answer)
    np.testing.assert_array_equal(drawn(tab.page.locator("#region")), picture())


def test_one_pointer_draws_the_frame_and_windows_may_change_their_size(visit, server):
    tab = visit(f"{server.address}/predictions/shapes", viewport={"width": 600, "height": 900}, has_touch=True)
    give(tab, np.asarray(picture()).transpose(1, 0, 2))  # higher than wide
    first = frame(tab)
    drag(tab, (0.1, 0.1), (0.9, 0.9), button="right")
    assert frame(tab) == first
    stage, canvas, box = (
        tab.page.locator(one).bounding_box() for one in ("#region-test .stage", "#region", "#region-test .frame")
    )
    assert stage == canvas
    assert box["x"] == pytest.approx(canvas["x"] + first[0] * canvas["width"], abs=1)

    def at(x, y, finger=0):
        box = tab.page.locator("#region").bounding_box()
        return {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "id": finger}

    fingers = tab.page.context.new_cdp_session(tab.page)
    for kind, *points in (
        ("Start", at(0.2, 0.3)),
        ("Move", at(0.6, 0.7)),
        ("Start", at(0.6, 0.7), at(0.9, 0.1, 1)),
        ("Move", at(0.6, 0.7), at(0.95, 0.05, 1)),
        ("End",),
    ):
        fingers.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    np.testing.assert_allclose(frame(tab), (0.2, 0.3, 0.4, 0.4), atol=0.01)
    begin = at(0.25, 0.25)
    tab.page.mouse.move(begin["x"], begin["y"])
    tab.page.mouse.down()
    tab.page.set_viewport_size({"width": 340, "height": 900})
    tab.page.locator("#region").scroll_into_view_if_needed()
    assert tab.page.locator("#region").bounding_box()["width"] < canvas["width"]
    end = at(0.75, 0.85)
    tab.page.mouse.move(end["x"], end["y"])
    tab.page.mouse.up()
    tab.page.mouse.move(begin["x"], begin["y"])
    np.testing.assert_allclose(frame(tab), (0.25, 0.25, 0.5, 0.6), atol=0.01)


def test_what_was_undone_meanwhile_is_not_shown(visit, server):
    with proxy_before(server.address) as proxy:
        tab = visit(f"{proxy.address}/predictions/shapes")
        give(tab, picture())
        proxy.delay = 1
        with tab.page.expect_response(lambda answer: answer.request.method == "POST"):
            for name in ("Erase", "Undo"):
                tab.page.get_by_role("button", name=name, exact=True).click()
        tab.page.locator(".progress").wait_for(state="hidden")
        tab.page.evaluate("new Promise(requestAnimationFrame)")
        assert tab.page.locator(".progress").is_hidden()  # the changed picture is not asked about
        assert tab.page.locator("#region-results table").count() == 0


LINK = {
    "target": "arrow",
    "contrast": "heart",
    "method": "layercam",
    "maps": "",
    "layer": "conv5",
    "receipt": "true",
    "weight": "0.25",
    "threshold": "0.4",
    "colours": "cividis",
    "other": "other/2.0",
    "timeout": "60",
    "sample": "two",
}
STATE = """() => {
  const checked = (name) => [...document.querySelectorAll(`[name=${name}]:checked`)].map((one) => one.value).join(",");
  const values = ["weight", "threshold", "colours", "layer", "timeout", "other"];
  const flags = ["against", "trust", "receipt"];
  return {
    ...Object.fromEntries(values.map((name) => [name, document.getElementById(name).value])),
    ...Object.fromEntries(flags.map((name) => [name, String(document.getElementById(name).checked)])),
    method: checked("method"),
    maps: checked("maps"),
  };
}"""


def test_a_link_restores_every_control(visit, server):
    link = "&".join(f"{name}={value.replace('/', '%2F')}" for name, value in LINK.items())
    tab = visit(f"{server.address}/predictions/shapes#{link}")
    tab.page.locator("#compare-results table").wait_for()
    known = {"against": "false", "trust": "false", **LINK}
    state = tab.page.evaluate(STATE)
    assert state == {name: known[name] for name in state}
    said = tab.page.locator("#why").inner_text()
    assert said.startswith("Why arrow and not heart?")
    assert tab.page.locator("#figures .badge").all_inner_texts() == ["evidence for arrow and not heart"]
    address = tab.page.locator("#take .address").inner_text()
    assert sorted(address.partition("#")[2].split("&")) == sorted(link.split("&"))
    assert tab.page.locator("#link-problem").inner_text() == ""
    assert tab.complaints == []


NONSENSE = [
    *("zebra=1", "constructor=x", "__proto__=x", "%=", "<b>=x", "layer=stage9", "layer=constructor"),
    *("weight=7", "weight=NaN", "weight=-0.1", "threshold=", "threshold=half", "timeout=0", "timeout=1e9"),
    *("colours=rainbow", "colours=__proto__", "sample=zebra", "sample=constructor", "method=gradcam,nothing"),
    *("maps=<img src=x onerror=alert(1)>", "trust=yes", "receipt=constructor", "target=zebra", "target=second"),
    *("target=-1", "contrast=top", "other=../../metrics", "other=..", "other=<script>alert(1)</script>"),
]


@pytest.mark.skipif(tool("node") is None, reason="no node on the PATH")
def test_what_no_option_of_a_link_can_be_is_named():
    card = {**CARD, "layers": {"conv5": [1, 2, 2]}}
    code = (
        "const m = await load('options'); return given.links.map((link) => {"
        "const invalid = []; const read = m.fromFragment(link, given.card, invalid);"
        "return [invalid, JSON.stringify(read) === JSON.stringify(m.firstOptions(given.card))]; })"
    )
    for link, (invalid, is_first) in zip(NONSENSE, node(code, {"card": card, "links": NONSENSE}), strict=True):
        assert (invalid, is_first) == ([link], True)
    ((invalid, is_first),) = node(code, {"card": card, "links": ["target=heart&contrast=heart"]})
    assert (invalid, is_first) == (["a class that is held against itself"], False)


def test_a_link_with_nonsense_is_harmless_and_the_page_says_so(visit, server):
    tab = visit(f"{server.address}/predictions/shapes")
    first = tab.page.evaluate(STATE)
    elements = tab.page.evaluate("document.querySelectorAll('*').length")
    with tab.page.expect_navigation():  # the page starts anew with another link
        tab.page.evaluate("(link) => { location.hash = link; }", "&".join(reversed(NONSENSE)))
    told = tab.page.locator("#link-problem")
    told.wait_for()
    assert told.inner_text().startswith(
        "This link says what the page cannot take, and is read without it: other=<script>alert(1)</script>; other=..;"
    )
    assert told.inner_text().endswith("; and more.")
    assert tab.page.evaluate(STATE) == first
    assert tab.page.evaluate("document.querySelectorAll('*').length") == elements
    tab.page.get_by_role("button", name="two shapes").click()
    tab.page.locator("#status", has_text="figures about heart").wait_for()
    tab.page.locator("#receipt").check()
    assert told.inner_text() == ""
    assert tab.complaints == []


NETWORK = """import torch
from torch import nn


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 1, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 21_000))


def weights():
    return network().state_dict()
"""


@pytest.fixture
def many(importable, tmp_path):
    """A server with a model of 21,000 classes, of which one is named as the word for the best class."""
    from export.packing.archive import write_archive
    from handler.model.sources import find_checkpoint

    (importable / "manynet.py").write_text(NETWORK)
    labels = [f"some thing {index}" for index in range(20_998)] + ["thing", "top"]
    how = "resize=64 crop=64 mean=0.5,0.5,0.5 std=0.5,0.5,0.5"
    checkpoint = find_checkpoint("manynet:network", labels=labels, preprocessing=how)
    with light_server([write_archive(checkpoint, tmp_path / "store", "many")], "many", tmp_path / "logs") as server:
        yield server


def test_among_21000_classes_one_is_found_by_its_name(visit, many):
    tab = visit(f"{many.address}/predictions/many")
    give(tab, picture())
    best = tab.page.locator("#classes .bar .label").first.inner_text()
    assert best != "top"
    assert tab.page.locator("#figures .badge").first.inner_text() == f"evidence for {best}"
    tab.page.locator("#all-classes summary").click()
    tab.page.locator("#filter").fill("THING")
    count = tab.page.locator("#all-classes [role=status]")
    assert count.inner_text() == "20,999 match, the best 40 are listed"
    assert tab.page.evaluate("document.querySelectorAll('*').length") < 700
    tab.page.locator("#all-classes .bar").first.click()  # the class of this very name, not the first that contains it
    tab.page.locator("#figures .badge", has_text="evidence for thing").first.wait_for()
    assert tab.page.url.endswith("#target=thing")
    assert violations(tab.page) == []
    assert tab.complaints == []


TABBED = """() => [...document.querySelectorAll("button, input, select, summary, [tabindex]")]
  .filter((one) => one.checkVisibility({ visibilityProperty: true }) && !one.disabled && one.tabIndex >= 0).length"""
FOCUSED = """() => { const focused = document.activeElement; focused.dataset.met = "yes";
  return [focused.localName, document.querySelectorAll("[data-met]").length]; }"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_control_is_reached_and_used_by_keyboard_alone(visit, server, scheme):
    tab = visit(
        f"{server.address}/predictions/shapes#receipt=true&zebra=1",
        color_scheme=scheme,
        viewport={"width": 360, "height": 800},
    )
    keys = tab.page.keyboard
    tab.page.get_by_role("button", name="two shapes").focus()
    keys.press("Enter")
    tab.page.locator("#status", has_text="figures about").wait_for()
    assert violations(tab.page) == []  # of the sentence about the link, too
    tab.page.get_by_role("button", name="and not arrow").focus()
    keys.press("Space")
    tab.page.locator("#figures .badge", has_text="evidence for heart and not arrow").wait_for()
    keys.press("Shift+Tab")  # from where the button was, to the class itself
    keys.press("Enter")
    tab.page.locator("#figures .badge", has_text="evidence for arrow").wait_for()
    for summary in tab.page.locator("summary").all():
        summary.focus()
        keys.press("Enter")
    tab.page.locator("#region").focus()
    before = frame(tab)
    for key in ("ArrowRight", "ArrowDown", "Shift+ArrowRight", "Shift+ArrowUp"):
        keys.press(key)
    np.testing.assert_allclose(np.subtract(frame(tab), before), (0.02, 0.02, 0.02, -0.02), atol=1e-9)
    keys.press("b")
    tab.page.locator("#region-results table").wait_for()
    assert violations(tab.page) == []
    assert tab.page.evaluate("document.documentElement.scrollWidth") == 360
    tab.page.locator("#region-x").focus()
    keys.press("Control+A")
    keys.type("95")
    keys.press("Enter")
    assert tab.page.locator("#region-x").input_value() == str(round(100 * frame(tab)[0])) != "95"
    tab.page.locator("h1").click()  # where the round by tabulator keys begins
    expected, met = tab.page.evaluate(TABBED), 0
    for _ in range(expected + 1):
        keys.press("Tab")
        name, count = tab.page.evaluate(FOCUSED)
        if name == "body":
            break
        assert count == met + 1, name  # nothing holds the focus
        met = count
    assert met == expected
