"""Erasing and blurring regions of the picture in Chromium: stale answers, memory, and screen readers' sentences."""

import pytest

from tests.page.test_order import choose, explained
from tests.support.browsing import needs_chromium
from tests.support.serving import TWO

pytestmark = [pytest.mark.server, needs_chromium]

# what is announced to screen readers, in order
LISTENING = """() => {
  window.told = [];
  const live = "[aria-live=polite], [role=status], [role=alert]";
  new MutationObserver((changes) => {
    const regions = changes.map(({ target }) => (target.closest ? target : target.parentElement)?.closest(live));
    window.told.push(...new Set(regions.filter(Boolean).map((one) => one.textContent).filter(Boolean)));
  }).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""


def changed(tab):
    tab.page.locator("#region-told", has_text="after the change").wait_for()


def test_no_file_is_written_before_a_region_is_changed_and_one_that_cannot_be_is_told(tab):
    tab.page.evaluate(
        "() => { window.writes = 0; const give = (done) => { window.writes += 1; done(null) };"
        "HTMLCanvasElement.prototype.toBlob = give }"
    )
    choose(tab, TWO)
    explained(tab, "heart")
    assert tab.page.evaluate("window.writes") == 0
    for name in ("Erase", "PNG of all figures"):
        tab.page.get_by_role("button", name=name).click()
        tab.page.locator("#problem", has_text="The browser cannot write a picture this large").wait_for()
        tab.page.locator("#problem").evaluate("(one) => (one.textContent = '')")


def test_changes_keep_no_bitmaps(tab):
    tab.page.evaluate(
        "() => { const { createImageBitmap } = window; const { close } = ImageBitmap.prototype;"
        "window.open = new Set();"
        "window.createImageBitmap = async (...how) => {"
        " const made = await createImageBitmap(...how); window.open.add(made); return made };"
        "ImageBitmap.prototype.close = function () { window.open.delete(this); close.call(this) } }"
    )
    for _ in range(2):
        choose(tab, TWO)
        explained(tab, "heart")
        for _ in range(3):
            tab.page.get_by_role("button", name="Blur").click()
            changed(tab)
        assert tab.page.evaluate("window.open.size") == 1


def test_screen_readers_are_told_in_a_sentence_each_and_keep_their_place(tab):
    choose(tab, TWO)
    explained(tab, "heart")
    tab.page.evaluate(LISTENING)
    tab.page.locator("#region").focus()
    tab.page.keyboard.press("ArrowRight")
    tab.page.keyboard.press("e")
    changed(tab)
    told = tab.page.evaluate("window.told.splice(0)")
    assert told[:2] == ["Region: left 37 %, top 35 %, width 30 %, height 30 %.", "Asking about the changed picture"]
    assert told[-1].startswith("heart: ")
    assert max(len(text) for text in told) < 80
    tab.page.locator("#region-test button", has_text="Undo").focus()
    tab.page.keyboard.press("Enter")
    assert tab.page.locator("#region").evaluate("(one) => one === document.activeElement")

    tab.page.locator("#other").fill("other")
    tab.page.locator("#other").press("Enter")
    tab.page.locator("#compare-results table").wait_for()
    told = tab.page.evaluate("window.told.splice(0)")
    assert told[-2] == "Asking other"
    assert told[-1].startswith("shapes 1.0: heart ")
    assert len(told[-1]) < 80

    for kind, place in {"bar": 1, "not": 2}.items():
        one = tab.page.locator(f"#classes .{kind}").nth(place)
        one.focus()
        tab.page.keyboard.press("Enter")
        tab.page.locator(f"#classes li:nth-child({place + 1}) .{kind}[aria-pressed=true]").first.wait_for()
        assert one.evaluate("(one) => one === document.activeElement"), kind


def test_how_maps_are_shown_draws_no_detail_anew(tab):
    choose(tab, TWO)
    explained(tab, "heart")
    tab.page.evaluate(
        "() => { const { prototype } = CanvasRenderingContext2D; const { putImageData } = prototype; window.drawn = [];"
        "prototype.putImageData = function (...how) {"
        " window.drawn.push(this.canvas); return putImageData.apply(this, how) } }"
    )
    tab.page.locator("#weight").fill("0.25")
    tab.page.evaluate("new Promise(requestAnimationFrame)")
    drawn = "window.drawn.map((one) => one.closest('article').querySelector('h3').textContent)"
    assert set(tab.page.evaluate(drawn)) == {"Grad-CAM"}
