"""What happens where a visitor is faster than the server: answers that come late, and what is pressed twice."""

import pytest

from tests.support.browsing import needs_chromium
from tests.support.serving import ONE, TWO

pytestmark = [pytest.mark.server, needs_chromium]

# answers, and pictures named slow.jpg, wait until letGo() is called while holds is true
HOLDING = """
const { fetch, createImageBitmap } = window;
window.holds = true;
window.held = [];
const held = () => window.holds && new Promise((go) => window.held.push(go));
window.fetch = async (...asked) => {
  const answer = await fetch(...asked);
  const body = await answer.blob();
  await held();
  return { ok: answer.ok, status: answer.status, headers: answer.headers, blob: async () => body };
};
window.createImageBitmap = async (file, ...how) => {
  if (file.name === "slow.jpg") await held();
  return createImageBitmap(file, ...how);
};
window.waits = async (count) => {
  while (window.held.length < count) await new Promise((next) => setTimeout(next, 5));
};
window.letGo = async () => {
  window.holds = false;
  window.held.splice(0).forEach((go) => go());
  for (let frame = 0; frame < 5; frame += 1) await new Promise((next) => setTimeout(next, 20));
};
"""


@pytest.fixture
def held(tab):
    """The model's page, whose answers wait."""
    tab.page.evaluate(f"() => {{ {HOLDING} }}")
    return tab


def choose(tab, path, name=""):
    tab.page.locator("#choose").set_input_files(
        {"name": name or path.name, "mimeType": "image/jpeg", "buffer": path.read_bytes()}
    )


def waits(tab, count):
    tab.page.evaluate("(count) => window.waits(count)", count)


def explained(tab, label):
    tab.page.locator("#status", has_text="figures about").wait_for()
    assert tab.page.locator("#status").inner_text().startswith(label)
    assert tab.page.locator("#figures article").count() == 3


def test_a_picture_that_is_decoded_late_does_not_replace_a_newer_one(held):
    held.page.evaluate("window.holds = true")
    choose(held, ONE, "slow.jpg")
    waits(held, 1)
    held.page.evaluate("window.holds = false")
    choose(held, TWO)
    explained(held, "heart")
    held.page.evaluate("window.letGo()")
    explained(held, "heart")
    assert held.page.locator("#intake .note").inner_text().startswith("two.jpg")


def test_an_answer_about_an_earlier_picture_is_not_shown(held):
    choose(held, TWO)
    waits(held, 1)
    choose(held, ONE, "slow.jpg")
    waits(held, 2)
    held.page.evaluate("window.holds = false; window.held.shift()()")
    held.page.evaluate("new Promise((next) => setTimeout(next, 50))")
    assert held.page.locator("#maps").is_hidden()
    assert held.page.locator("#status").inner_text() == held.page.locator("#problem").inner_text() == ""
    held.page.evaluate("window.letGo()")
    explained(held, "star")


def explain_and_hold(held):
    """Explains a picture, and holds the answers to later questions back."""
    held.page.evaluate("window.letGo()")
    choose(held, TWO)
    explained(held, "heart")
    held.page.evaluate("window.holds = true")


def test_what_is_asked_beside_waits_for_the_question_about_the_class(held):
    explain_and_hold(held)
    held.page.locator("#classes .bar", has_text="arrow").click()
    waits(held, 1)
    held.page.get_by_role("button", name="NPZ").click()
    with held.page.expect_download() as saved:
        held.page.evaluate("window.letGo()")
    assert saved.value.suggested_filename == "gradcam.npz"
    held.page.locator("#figures .badge", has_text="evidence for arrow").wait_for()


def test_what_is_pressed_twice_is_done_once(tab):
    tab.page.get_by_role("button", name="two shapes").dblclick()
    explained(tab, "heart")
    for name in ("arrow", "heart"):
        tab.page.locator("#classes .bar", has_text=name).first.dblclick()
    tab.page.locator("#figures .badge", has_text="evidence for heart").wait_for()
    tab.page.get_by_role("button", name="one shape").dblclick()
    explained(tab, "star")
    tab.page.locator("#other").fill("other")
    tab.page.get_by_role("button", name="Compare").dblclick()
    tab.page.locator("#compare-results table").wait_for()
    assert tab.page.locator("#compare-results table").count() == 1
    assert tab.page.locator("#problem").inner_text() == ""


def test_the_page_does_not_move_while_it_asks(held):
    sample = held.page.get_by_role("button", name="one shape")
    places = [sample.bounding_box()]
    explain_and_hold(held)
    places.append(sample.bounding_box())
    held.page.locator("#classes .bar", has_text="arrow").click()
    waits(held, 1)
    assert held.page.locator(".progress").is_visible()
    places.append(sample.bounding_box())
    held.page.evaluate("window.letGo()")
    held.page.locator("#figures .badge", has_text="evidence for arrow").wait_for()
    held.page.locator(".progress").wait_for(state="hidden")
    assert [*places, sample.bounding_box()] == [places[0]] * 4


def test_an_undo_ends_the_question_about_what_is_undone(held):
    explain_and_hold(held)
    held.page.get_by_role("button", name="Erase").click()
    waits(held, 1)
    held.page.get_by_role("button", name="Undo").click()
    held.page.evaluate("window.letGo()")
    held.page.locator(".progress").wait_for(state="hidden")
    assert held.page.locator("#region-results").inner_text() == held.page.locator("#region-told").inner_text() == ""


def test_what_is_replaced_does_not_end_the_waiting_and_what_fails_is_taken_back(held):
    explain_and_hold(held)
    for count in (1, 2):
        held.page.locator("#classes .bar").nth(count).click()
        waits(held, count)
    held.page.evaluate("new Promise((next) => setTimeout(next, 50))")
    assert held.page.locator("#figures").get_attribute("aria-busy") == "true"
    answers = {
        "The server did not answer": "throw new TypeError('Failed to fetch')",
        "The page failed; load it again": "return new Response('{', {headers: {'Content-Type': 'application/json'}})",
    }
    for said, answer in answers.items():
        held.page.evaluate(f"() => {{ window.fetch = async () => {{ {answer} }} }}")
        held.page.locator("#classes .bar", has_text="arrow").click()
        held.page.locator("#problem", has_text=said).wait_for()
        held.page.locator("#figures:not([aria-busy])").wait_for()
        assert held.page.locator("#figures .badge").first.inner_text() == "evidence for heart"
        assert held.page.locator("#take .address").inner_text() == held.page.url == held.page.url.partition("#")[0]
