"""What the pages say beside their code: links, tables, titles and lists, against what they describe."""

import ast
import re
from dataclasses import fields

import pytest

from handler.explanation.methods import METHODS
from handler.picture.decode import FORMATS, OPTIONAL
from handler.protocol.options import ENCODINGS, MAPS, SIZES, Options
from tests.support.pages import ALL, Page, page
from tests.support.serving import ROOT

FOREIGN = {  # messages of others, on the page of troubles
    "operator torchvision::nms does not exist",
    "ModelVersionNotFound",
    "ServiceUnavailableException",
}


def code(text: str) -> list[str]:
    """What stands in backticks, one or two."""
    return [double or single for double, single in re.findall(r"``(.+?)``(?!`)|`([^`]+)`", text)]


def row(one: Page, first: str) -> list[str]:
    """The cells behind the first in the table's row that begins with it."""
    (found,) = re.findall(rf"^\| {re.escape(first)} \|(.*)\|$", one.text, re.MULTILINE)
    return found.split(" | ")


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_links_lead_to_files_and_anchors(one):
    for file, anchor in one.links:
        target = (one.path.parent / file).resolve() if file else one.path
        assert target.exists(), file
        if anchor:
            assert anchor in Page(target).anchors, f"{file}#{anchor}"


def test_the_readme_is_short_and_begins_with_the_picture():
    readme = page("README.md")
    assert len(readme.text.splitlines()) <= 190  # thirty are the table of methods
    assert readme.links[0] == ("docs/photo.png", "")
    assert {one.name for one in ALL if one.name.startswith("docs/") and "/reference/" not in one.name} <= {
        file for file, _ in readme.links
    }


def test_the_table_of_options_is_the_codes():
    api = page("docs/API.md")
    assert re.findall(r"^\| `(\w+)` \|", api.text.partition("\n## Options")[2].partition("\n## ")[0], re.MULTILINE) == [
        one.name for one in fields(Options)
    ]
    for option, names in {
        "method": METHODS,
        "maps": [*MAPS, "none", "all"],
        "size": SIZES,
        "encoding": [*ENCODINGS, ".npy"],
    }.items():
        assert set(code(row(api, f"`{option}`")[0])) == set(names), option


def test_every_module_stands_in_the_code_map_in_the_row_of_its_folder():
    architecture = page("docs/ARCHITECTURE.md").text
    rooms = dict(re.findall(r"^\| `(\w+/[\w/]*)`[^|]*\|(.*)\|$", architecture, re.MULTILINE))
    folders = ("handler", "export", "deploy/devices", "deploy/light", "deploy/grpc", "deploy/bulk")
    paths = [path for folder in folders for path in ROOT.glob(f"{folder}/**/*.py")]
    for path in paths:
        room = f"{path.parent.relative_to(ROOT)}/"
        assert room in rooms
        where = architecture if room in ("handler/", "export/") else rooms[room]
        assert path.name.startswith("__") or f"`{path.name}`" in where, path
    named = set(re.findall(r"`(\w+\.py)`", " ".join(rooms.values())))
    assert named <= {path.name for path in paths}


def literals() -> set[str]:
    """All pieces of text in the programs, and the Makefile."""
    found = {(ROOT / "Makefile").read_text(encoding="utf-8")}
    for path in [*ROOT.glob("handler/**/*.py"), *ROOT.glob("export/**/*.py"), *ROOT.glob("deploy/*.py")]:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        found |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return found


def test_troubles_have_the_messages_that_appear():
    known = literals()
    titles = [title for title in page("docs/TROUBLESHOOTING.md").titles if "`" in title]
    assert len(titles) >= 12
    for message in [message for title in titles for message in code(title)]:
        pieces = [piece.strip() for piece in message.split("…") if piece.strip()]
        assert message in FOREIGN or all(any(piece in text for text in known) for piece in pieces), message


def test_the_readmes_figures_are_those_of_the_records():
    readme = page("README.md")
    soundness = row(page("docs/SOUNDNESS.md"), "all")
    right, refused, wrong, tracebacks, networks = (cell.strip() for cell in soundness)
    figure, covered, _ = row(readme, "networks whose maps were held to an independent reference")
    assert figure.strip() == f"{right} right, {refused} refused with the reason, none wrong"
    assert (wrong, tracebacks) == ("0", "0")
    assert f"{networks} networks" in covered
    speed = page_of_results()
    assert (
        row(readme, "an explanation's time against pytorch-grad-cam's")[0].strip()
        == f"{1 / speed['explain_speedup_vs_pytorch_grad_cam']:.2f}"
    )
    served = row(readme, "requests per second against a plain handler around pytorch-grad-cam")[0]
    assert served.strip() == f"{speed['served_explain_speedup_vs_naive']:.1f} times"
    load = re.search(
        r"^\| requests \| answered \| lost .*\n.*\n\| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|",
        page("docs/RELIABILITY.md").text,
        re.MULTILINE,
    )
    assert load
    requests, answered, *failed = map(int, load.groups())
    assert failed == [0, 0, 0]
    assert row(readme, "requests answered under load, none lost or crossed")[0].strip() == (
        f"{answered:,} of {requests:,}"
    )


def page_of_results() -> dict[str, float]:
    """The medians of the ratios in benchmarks/RESULTS.md."""
    text = (ROOT / "benchmarks/RESULTS.md").read_text(encoding="utf-8")
    return {name: float(median) for name, median in re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", text, re.MULTILINE)}


def test_the_page_of_requests_names_every_format_that_can_be_read():
    page = (ROOT / "docs/API.md").read_text(encoding="utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith("| 415 |")]
    for kind in {*FORMATS, *OPTIONAL}:
        assert {"WEBP": "WebP", "HEIF": "HEIC"}.get(kind, kind) in row
