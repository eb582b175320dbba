"""The page as one file: what is inside, and what its policy allows."""

import base64
import hashlib
import json
import re
import subprocess
from html.parser import HTMLParser

import pytest

from handler.page import compose
from handler.page.compose import HEADERS, page
from handler.protocol.answer import HTML, JSON, PNG, PROBE
from handler.protocol.request import accepted, parse_row
from handler.protocol.row import Row
from handler.service import Service
from handler.serving.settings import Settings
from tests.handler.test_service import CARD, CHOICE, Options
from tests.support.engines import picture
from tests.support.serving import ROOT
from tests.support.tools import tool

ASSETS = sorted((ROOT / "handler/page").glob("*.js"))
HOSTILE = "</script><img src=x onerror=alert(1)>&amp;\u2028<!--"


class Parts(HTMLParser):
    """The scripts, styles and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self.open = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        self.open = dict(attrs).get("id") or tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag):
        self.open = ""

    def handle_data(self, data):
        self.texts[self.open] = self.texts.get(self.open, "") + data


def content_of(body: bytes) -> dict:
    return json.loads(Parts(body.decode()).texts["content"])


def test_the_content_stays_what_it_is_and_cannot_end_its_script():
    body = page({"card": {"name": "m", "labels": [HOSTILE]}, "answers": []})
    assert content_of(body)["card"]["labels"] == [HOSTILE]
    assert body.count(b"</script>") == 2
    assert b"<img" not in body


def test_the_policy_allows_the_pages_own_style_and_script_alone():
    parts = Parts(page({}).decode())
    policy = HEADERS["Content-Security-Policy"]
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(parts.texts[kind].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in policy
    (meta,) = (value for name, value in parts.attributes if name == "content" and "default-src" in str(value))
    assert policy == f"{meta}; frame-ancestors 'none'"
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; ")


def test_nothing_in_the_page_is_loaded_from_elsewhere_or_written_inline():
    text = page({}).decode()
    assert re.findall(r"https?://[^\s\"'`]+", text) == []
    names = [name for name, _ in Parts(text).attributes]
    assert not [name for name in names if name == "style" or name.startswith("on")]
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|@import|url\(", text)


def test_no_name_at_the_top_of_a_module_is_that_of_another():
    """The modules become one script, where a second declaration would be an error."""
    names = re.findall(
        r"^(?:export )?(?:async )?(?:const|let|class|function)\*? (?:\[(.*?)\]|(\w+))",
        "\n".join(path.read_text(encoding="utf-8") for path in ASSETS),
        re.MULTILINE,
    )
    found = [name for several, one in names for name in (several.split(", ") if several else [one])]
    assert len(found) > 60
    assert sorted({name for name in found if found.count(name) > 1}) == []


def test_the_page_without_a_server_has_the_same_skeleton_but_for_what_it_loads():
    theirs, ours = (
        (ROOT / path).read_text(encoding="utf-8").splitlines()
        for path in ("examples/browser/index.html", "handler/page/page.html")
    )
    own = ['<meta http-equiv="Con', '<link rel="stylesheet', "<title>What the model", '<script type="module"', "<main"]
    assert [start for start in own for line in theirs if line not in ours and line.startswith(start)] == own
    assert len([line for line in theirs if line not in ours]) == len(own)


@pytest.mark.skipif(tool("node") is None, reason="no node on the PATH")
def test_the_joined_script_has_no_imports_and_is_valid(tmp_path):
    script = tmp_path / "page.mjs"
    script.write_text(compose.script(), encoding="utf-8")
    assert not re.search(r"^(import|export)\b", compose.script(), re.MULTILINE)
    subprocess.run([tool("node"), "--check", script], check=True)


@pytest.fixture
def service():
    return Service(CHOICE, CARD, Settings(defaults=Options(maps=("gradcam",))))


BROWSERS = {
    "Chromium": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8",
    "Firefox": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/png,*/*;q=0.8",
    "Safari": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
}


@pytest.mark.parametrize("name", BROWSERS)
def test_a_browser_gets_the_page_with_the_models_card(service, name):
    (answer,) = service.answer_batch([Row(fields={}, accept=BROWSERS[name], models=("tiny/1.0",))])
    assert (answer.status, answer.outcome, answer.content_type) == (200, PROBE, "text/html; charset=utf-8")
    assert answer.headers == HEADERS
    content = content_of(answer.body)
    assert content["card"] == json.loads(json.dumps(CARD.description("test")))
    assert (content["answers"], content["models"]) == ([], ["tiny/1.0"])
    assert content["methods"]["rise"] == {"title": "RISE", "passes": 256, "ofClass": True}


@pytest.mark.parametrize("accept", ["", "*/*", "application/json", "text/html;q=0.5, application/json", "image/png"])
def test_other_clients_are_told_that_a_picture_is_missing(service, accept):
    (answer,) = service.answer_batch([Row(fields={}, accept=accept)])
    assert (answer.status, answer.content_type) == (400, JSON)


def test_a_page_is_no_answer_below_the_models_path(service):
    (answer,) = service.answer_batch([Row(fields={}, accept="text/html", path="gone")])
    assert (answer.status, answer.content_type) == (404, JSON)


def test_of_equal_forms_json_goes_first_and_html_before_pictures():
    assert accepted("text/html, application/json") == JSON
    assert accepted("image/png, text/html") == HTML
    assert accepted("image/png, text/html;q=0.9") == PNG
    assert accepted("text/*") == HTML


def test_several_pictures_have_no_page_so_that_they_are_answered_in_json():
    """Java's HttpURLConnection asks for HTML unless it is told otherwise."""
    java = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"
    body = json.dumps({"instances": [base64.b64encode(picture(9)).decode()]}).encode()
    assert parse_row(Row(fields={"body": body}, accept=java), Options()).accept == JSON
