"""The page of a running server, in Chromium: what a visitor does and sees."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from export.__main__ import main
from handler.graphs.description import KIND_EXPLANATION
from handler.page.compose import page
from tests.support.browsing import proxy_before
from tests.support.graphs import describe, write_graph
from tests.support.light import light_server
from tests.support.serving import ONE
from tests.support.tools import tool

pytestmark = [pytest.mark.server, pytest.mark.skipif(tool("chromium") is None, reason="no chromium on the PATH")]


def give(tab, sample="two shapes"):
    tab.page.get_by_role("button", name=sample).click()
    tab.page.locator("#status", has_text="figures about").wait_for()


def violations(page):
    from axe_playwright_python.sync_playwright import Axe

    return [(one["id"], one["nodes"][0]["html"][:200]) for one in Axe().run(page).response["violations"]]


def test_a_sample_is_predicted_and_explained(tab):
    give(tab)
    assert tab.page.locator("#status").inner_text().startswith("heart ")
    titles = tab.page.locator("#figures h3").all_inner_texts()
    assert titles == ["Grad-CAM", "Guided backprop", "Guided Grad-CAM"]
    assert tab.page.url.endswith("#sample=two")


def test_a_click_on_a_class_explains_it_and_another_is_held_against_it(tab):
    give(tab)
    tab.page.locator("#classes .bar", has_text="arrow").click()
    tab.page.locator("#figures .badge", has_text="evidence for arrow").wait_for()
    tab.page.get_by_role("button", name="and not heart").first.click()
    tab.page.locator("#figures .badge", has_text="evidence for arrow and not heart").wait_for()


def test_erasing_a_region_by_keyboard_changes_the_scores(tab):
    give(tab)
    tab.page.locator("#region").focus()
    for _ in range(14):
        tab.page.keyboard.press("ArrowUp")
        tab.page.keyboard.press("ArrowLeft")
    tab.page.keyboard.press("e")
    row = tab.page.locator("#region-results tbody tr").first
    row.wait_for()
    before, after, _ = row.locator("td").all_inner_texts()
    assert row.locator("th").inner_text() == "heart"
    assert before != after
    assert tab.page.locator("#region-results canvas[role=application]").count() == 2
    tab.page.keyboard.press("u")
    tab.page.locator("#region-results table").wait_for(state="detached")


def test_arrow_keys_read_values_off_a_figure(tab):
    give(tab)
    tab.page.locator("#figures canvas[tabindex]").first.focus()
    tab.page.keyboard.press("ArrowRight")
    told = tab.page.locator("#figures output").first.inner_text()
    assert re.match(r"x \d+, y \d+: value [\d.]+ \(unscaled [\d.e-]+\); heart [\d.]+ %, score -?[\d.]+", told)


def test_another_model_answers_about_the_same_picture(tab):
    give(tab)
    tab.page.locator("#other").fill("other/2.0")
    tab.page.get_by_role("button", name="Compare").click()
    table = tab.page.locator("#compare-results table")
    table.wait_for()
    assert "other 2.0" in table.inner_text()


def test_a_link_brings_the_same_options(visit, server):
    tab = visit(f"{server.address}/#sample=two&target=arrow&method=gradcam,layercam&trust=true&receipt=true")
    tab.page.locator("#beside .receipt").nth(1).wait_for()
    assert "evidence for arrow" in tab.page.locator("#figures").inner_text()
    assert "LayerCAM" in tab.page.locator("#figures").inner_text()
    assert "deletion AUC" in tab.page.locator("#beside").inner_text()
    assert tab.complaints == []


def test_what_a_link_says_wrong_is_told_and_asked_nowhere(visit, server):
    tab = visit(f"{server.address}/predictions/shapes#sample=two&other=../../v2&colours=foo&toString=1")
    tab.page.locator("#status", has_text="3 figures about").wait_for()
    told = tab.page.locator("#link-problem").inner_text()
    assert told.endswith("is read without it: other=../../v2; colours=foo; toString=1.")
    assert {url.partition("#")[0] for url in tab.requests if url.startswith("http")} == {
        f"{server.address}/predictions/shapes"
    }
    assert tab.complaints == []


def test_on_a_phone_a_tap_is_answered_where_it_is_seen(visit, server):
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    with proxy_before(server.address) as proxy:
        tab = visit(f"{proxy.address}/predictions/shapes", **phone)

        def is_seen(place):
            box = tab.page.locator(place).bounding_box()
            return box["y"] >= 0 and box["y"] + box["height"] <= 740

        proxy.delay = 1
        tab.page.get_by_role("button", name="two shapes").tap()
        tab.page.locator(".progress").wait_for()
        assert is_seen(".progress")
        tab.page.locator("#status", has_text="figures about").wait_for()
        assert is_seen("#status")
        tab.page.locator("#classes .bar").nth(2).tap()
        assert is_seen(".progress")
        proxy.broken = (502, "<html>")
        tab.page.locator("#region-test button", has_text="Erase").tap()
        tab.page.locator("#problem", has_text="The proxy").wait_for()
        assert is_seen("#problem")
        tab.page.locator("#figures canvas").first.tap()
        assert tab.page.locator("#figures output").first.inner_text().startswith("x ")
        box = tab.page.locator("#region").bounding_box()
        assert box["x"] + box["width"] < 360 - 48  # where a finger scrolls


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_and_a_phone_needs_no_sideways_scroll(visit, server, scheme):
    tab = visit(f"{server.address}/predictions/shapes", color_scheme=scheme, viewport={"width": 360, "height": 800})
    assert violations(tab.page) == []
    give(tab)
    assert violations(tab.page) == []
    assert tab.page.evaluate("document.documentElement.scrollWidth") == 360


def test_a_file_that_is_no_picture_is_refused_in_a_sentence(visit, server):
    tab = visit(f"{server.address}/predictions/shapes")
    tab.page.locator("#choose").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"})
    tab.page.locator("#problem", has_text="picture").wait_for()
    assert tab.page.locator("#maps").is_hidden()


def test_a_slow_server_is_given_up_and_a_proxys_page_becomes_a_sentence(visit, server):
    with proxy_before(server.address) as proxy:
        proxy.delay = 3
        tab = visit(f"{proxy.address}/predictions/shapes#timeout=1&sample=one")
        tab.page.get_by_label("Waiting for the answer").wait_for()
        tab.page.locator("#problem", has_text="No answer came in 1 seconds").wait_for()
        proxy.delay, proxy.broken = 0, (502, "<html>")
        tab.page.get_by_role("button", name="two shapes").click()
        tab.page.locator("#problem", has_text="The proxy before the server got no answer").wait_for()


def test_a_server_that_goes_away_is_told(visit, shapes_archive, tmp_path):
    with light_server([shapes_archive], "shapes", tmp_path) as server:
        tab = visit(f"{server.address}/predictions/shapes")
        give(tab)
        server.stop()
        tab.page.locator("#classes .bar", has_text="arrow").click()
        tab.page.locator("#problem", has_text="The server did not answer").wait_for()


def test_with_a_token_the_page_tells_nothing_before_it_is_given(visit, shapes_archive, tmp_path):
    token = tmp_path / "token"
    token.write_text("secret")
    with light_server([shapes_archive], "shapes", tmp_path, "--token-file", str(token)) as server:
        answer = server.get("/predictions/shapes", headers={"Accept": "text/html"})
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert "crescent" not in answer.text
        tab = visit(f"{server.address}/predictions/shapes")
        assert violations(tab.page) == []
        pages = len(tab.requests)
        for given, said in {"ключ": "no token has such letters", "wrong": "This token is wrong.", "secret": ""}.items():
            tab.page.locator("#token").fill(given)
            tab.page.get_by_role("button", name="Open").dblclick()
            if said:
                tab.page.locator(".problem", has_text=said).wait_for()
        give(tab)
        assert len(tab.requests) == pages + 3  # pressed twice, each is asked once
        tab.page.evaluate("location.hash = '#sample=two&target=arrow'")  # the token is still known
        tab.page.locator("#figures .badge", has_text="evidence for arrow").wait_for()
        tab.page.evaluate("location.hash = '#sample=two'")
        tab.page.locator("#figures .badge", has_text="evidence for heart").wait_for()
        tab.saved("Save this picture", tmp_path)
        for name, start in {"As curl": ["bash", "-ec"], "In Python": [sys.executable, "-c"]}.items():
            command = [*start, tab.page.get_by_label(name, exact=True).inner_text()]
            subprocess.run(command, cwd=tmp_path, env={**os.environ, "TOKEN": "secret"}, check=True)
        assert json.loads((tmp_path / "answer.json").read_text())["predictions"][0]["label"] == "heart"


def test_a_saved_report_needs_no_server(visit, server, tmp_path):
    import base64

    options = {"maps": "all", "encoding": "npy", "trust": "true"}
    answer = server.post("/predictions/shapes", files={"data": ONE.read_bytes()}, data=options).json()
    shown = f"data:image/jpeg;base64,{base64.b64encode(ONE.read_bytes()).decode()}"
    content = {
        "card": server.get("/models/shapes").json(),
        "answers": [{"name": name, "picture": shown, "answer": answer} for name in ("a.jpg", "b.jpg")],
        "static": True,
    }
    (tmp_path / "report.html").write_bytes(page(content))
    tab = visit((tmp_path / "report.html").as_uri())
    tab.page.locator("#picture-1 article").nth(2).wait_for()
    assert tab.page.locator("#asking").count() == 0
    assert violations(tab.page) == []
    assert tab.complaints == []


HOSTILE = ["</script><img src=x onerror=alert(1)>", "\"' onload='alert(2)' \u202egnp.🦊", "חתול"]
PROBE = """async () => {
  const told = [];
  const all = new Promise((resolve) => addEventListener("securitypolicyviolation", ({ effectiveDirective }) => {
    told.push(effectiveDirective);
    if (told.length === 6) resolve();
  }));
  const add = (tag, said) => document.body.append(Object.assign(document.createElement(tag), said));
  add("script", { textContent: "window.ran = true" });
  add("script", { src: "http://127.0.0.1:9/" });
  add("style", { textContent: "body { display: none }" });
  add("img", { src: "http://127.0.0.1:9/" });
  add("iframe", { src: "http://127.0.0.1:9/" });
  await fetch("http://127.0.0.1:9/").catch(() => {});
  await all;
  return [told.sort(), Boolean(window.ran), getComputedStyle(document.body).display];
}"""
OVERTAKEN = """() => [...document.querySelectorAll("bdi")].filter((name) => {
  const after = document.createRange();
  const next = name.nextSibling ?? name.parentNode.nextSibling;
  if (!next) return false;
  after.selectNode(next);
  const [left, right] = [name, after].map((one) => one.getBoundingClientRect());
  return left.top === right.top && right.left < left.right - 1;
}).map((name) => name.textContent)"""


def test_names_and_classes_in_reports_are_text_and_the_policy_holds(visit, tmp_path, monkeypatch):
    """Names of files and classes that would be markup, or turn what stands behind them."""
    monkeypatch.chdir(tmp_path)
    graph = write_graph(tmp_path, describe(KIND_EXPLANATION, coverage="5 of 5 activations", labels=HOSTILE))
    for band, name in enumerate(HOSTILE):
        pixels = np.full((2, 2, 3), 60, np.uint8)
        pixels[..., band] = 255
        path = tmp_path / f"in/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (tmp_path / "in/<b>bad</b>").mkdir(parents=True)
    (tmp_path / "in/<b>bad</b>/<i>.png").write_bytes(b"no picture")
    assert main(["report", "in", "--model", str(graph), "--target", "0,1,2", "--out", "out"]) == 2
    gallery = visit((tmp_path / "out/index.html").as_uri())
    assert gallery.page.locator(".gallery li").count() == 4
    assert gallery.page.evaluate(OVERTAKEN) == []
    addresses = [link.evaluate("({ href }) => href") for link in gallery.page.locator(".gallery a").all()]
    told = gallery.page.locator(".gallery").inner_text()
    for name in (*HOSTILE, "<b>bad</b>/<i>.png"):
        assert name in told
    for address in addresses:
        tab = visit(address)
        tab.page.locator("#picture-1 article").nth(2).wait_for()
        assert tab.page.title().startswith("model")
        assert tab.page.locator("#picture-1 h2").inner_text() in [f"in/{name}.png" for name in HOSTILE]
        for name in HOSTILE:
            assert name in tab.page.locator("#picture-1").inner_text()
        assert tab.page.locator("img, b, i, iframe, script[src]").count() == 0
        assert tab.complaints == []
        assert tab.elsewhere == []
        kinds = ["connect-src", "frame-src", "img-src", "script-src-elem", "script-src-elem", "style-src-elem"]
        assert tab.page.evaluate(PROBE) == [kinds, False, "block"]
    assert gallery.complaints == []
    assert gallery.page.evaluate(PROBE)[1] is False


def test_other_clients_get_the_names_at_the_root(server):
    assert server.get("/").json() == {"models": ["shapes", "other"]}
