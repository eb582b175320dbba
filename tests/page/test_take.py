"""What a visitor takes along: files that are really saved, and curl and Python that really run."""

import base64
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.page.test_modules import CARD, node
from tests.support.browsing import needs_chromium
from tests.support.same import assert_same_json
from tests.support.serving import TWO, array_of

pytestmark = [pytest.mark.server, needs_chromium]

ASKED = {  # fragments of links
    "plain": "",
    "several methods": "method=gradcam,layercam,eigencam&maps=",
    "why not": "target=arrow&contrast=heart&layer=conv5",
    "against": "against=true&maps=&trust=true",
    "details alone": "method=&maps=guided_backprop",
}
NAME = """a "picture", of; shapes' $HOME.jpg"""


def shown(visit, server, fragment):
    """A page that shows the answers for a picture with an awkward name."""
    tab = visit(f"{server.address}/predictions/shapes#{fragment}")
    tab.page.locator("#choose").set_input_files({"name": NAME, "mimeType": "image/jpeg", "buffer": TWO.read_bytes()})
    tab.page.locator("#status", has_text="about").wait_for()
    tab.page.locator("#figures:not([aria-busy])").wait_for()
    return tab


def read(text):
    """A JSON text; JavaScript writes 0.0 as 0, so that all numbers become fractions."""
    return json.loads(text, parse_int=float)


def answers_of(path):
    content = read(path.read_text())
    return content if isinstance(content, list) else [content]


def run(command, folder):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("name", ASKED)
def test_curl_and_python_give_what_the_page_shows(visit, server, tmp_path, name):
    tab = shown(visit, server, ASKED[name])
    curl, python = (tab.page.get_by_label(name, exact=True).inner_text() for name in ("As curl", "In Python"))
    wanted = answers_of(tab.saved("JSON", tmp_path))
    tab.saved("Save this picture", tmp_path).rename(tmp_path / NAME)  # browsers replace letters of a file's name
    bars = tab.page.locator("#classes .bars").first.locator(".bar").all_inner_texts()
    percents = node(
        "return given.map((await load('dom')).percent)", [p["probability"] for p in wanted[0]["predictions"]]
    )
    assert [bar.split("\n")[-1] for bar in bars][:5] == percents[:5]
    run(["bash", "-ec", curl], tmp_path)
    names = [one["explanations"][0]["method"] for one in wanted] if len(wanted) > 1 else ["answer"]
    for known, one in zip(names, wanted, strict=True):
        given = read((tmp_path / f"{known}.json").read_text())
        count = len(given["predictions"])
        assert_same_json(known, {**one, "predictions": one["predictions"][:count]}, given)
    printed = run([sys.executable, "-c", python], tmp_path)
    for one in wanted:
        for prediction in one["predictions"][:5]:
            assert f"'label': {prediction['label']!r}, 'probability': {prediction['probability']}" in printed
        for explanation in one["explanations"]:
            for kind, made in explanation["maps"].items():
                assert f"{kind} {array_of(made).shape} {made['max']}" in printed
    assert tab.complaints == []


@pytest.mark.parametrize("label", ["@file", "<file", 'a "b"; type=text/html', "ring's", "é=&+%41"])
def test_no_label_is_more_than_text_for_curl(server, tmp_path, label):
    """The server repeats a label that it does not know."""
    (tmp_path / "two.jpg").write_bytes(TWO.read_bytes())
    code = "return (await load('options')).curlOf([{target: 0, contrast: 'none'}], given.card, given.where)"
    where = {"address": f"{server.address}/predictions/shapes", "file": "two.jpg"}
    run(["bash", "-ec", node(code, {"card": {**CARD, "labels": [label]}, "where": where})], tmp_path)
    said = json.loads((tmp_path / "answer.json").read_text())["message"]
    assert said.startswith(f"target {label!r} is no label")


def test_without_figures_there_is_no_picture_of_them(visit, server):
    tab = visit(f"{server.address}/predictions/shapes#sample=two&method=&maps=")
    tab.page.locator("#status", has_text="0 figures").wait_for()
    assert tab.page.get_by_role("button", name="PNG of all figures").is_disabled()
    tab.page.get_by_role("checkbox", name=re.compile("guided backprop", re.IGNORECASE)).click()
    tab.page.locator("#status", has_text="1 figure").wait_for()
    assert tab.page.get_by_role("button", name="PNG of all figures").is_enabled()


def test_files_are_saved_and_are_what_is_shown(visit, server, tmp_path):
    tab = shown(visit, server, "method=gradcam,layercam")
    tab.page.evaluate(
        "window.addresses = new Set(); const {createObjectURL, revokeObjectURL} = URL;"
        "URL.createObjectURL = (blob) => { const made = createObjectURL(blob); addresses.add(made); return made };"
        "URL.revokeObjectURL = (made) => { addresses.delete(made); revokeObjectURL(made) };"
    )
    tab.page.clock.install()
    picture = {"data": TWO.read_bytes()}
    asked = {"encoding": "npy", "top_k": "10"}

    wanted = answers_of(tab.saved("JSON", tmp_path))
    for one, method in zip(wanted, ("gradcam", "layercam"), strict=True):
        maps = "gradcam,guided_backprop,guided_gradcam" if method == "gradcam" else "gradcam"
        known = server.post("/predictions/shapes", files=picture, data={**asked, "maps": maps, "method": method})
        assert_same_json(method, {**one, "predictions": one["predictions"][:10]}, read(known.text))

    downloads = []
    tab.page.on("download", lambda one: downloads.append(one))
    with tab.page.expect_event("download", lambda one: one.suggested_filename == "layercam.npz"):
        tab.page.get_by_role("button", name="NPZ").click()
    assert [one.suggested_filename for one in downloads] == ["gradcam.npz", "layercam.npz"]
    for one, answer in zip(downloads, wanted, strict=True):
        maps = answer["explanations"][0]["maps"]
        options = {"maps": ",".join(maps), "method": answer["explanations"][0]["method"]}
        known = server.post("/predictions/shapes", files=picture, data=options, headers={"Accept": "application/x-npz"})
        with np.load(one.path()) as arrays, np.load(io.BytesIO(known.content)) as others:
            assert set(arrays.files) == set(others.files)
            assert all(np.array_equal(arrays[name], others[name]) for name in arrays.files)
            assert all(np.array_equal(arrays[name][0], array_of(content)) for name, content in maps.items())

    canvases = tab.page.locator("#figures canvas[role=application]")
    pixels = [pixels_of(canvas) for canvas in canvases.all()]
    sheet = np.asarray(Image.open(tab.saved("PNG of all figures", tmp_path)).convert("RGB"))
    assert len(pixels) == 4
    for place, one in enumerate(pixels):  # side by side, below the title and their own
        assert np.array_equal(sheet[91:571, 24 + 504 * place : 504 + 504 * place], one)
    one = np.asarray(Image.open(tab.saved("Save Grad-CAM as PNG", tmp_path)).convert("RGB"))
    assert np.array_equal(one, pixels[0])
    values = np.load(tab.saved("Save the values of Grad-CAM", tmp_path))
    assert np.array_equal(values, array_of(wanted[0]["explanations"][0]["maps"]["gradcam"]))

    assert tab.page.evaluate("addresses.size") > 0
    tab.page.clock.fast_forward(61_000)
    assert tab.page.evaluate("addresses.size") == 0
    assert tab.complaints == []


def pixels_of(canvas):
    """What a canvas shows."""
    data = base64.b64decode(canvas.evaluate("(canvas) => canvas.toDataURL().split(',')[1]"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
