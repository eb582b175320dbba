"""What ``report`` writes: a page about each picture, and a gallery of all; the graph's class is the main colour."""

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
import pytest
from PIL import Image

from export.__main__ import main
from handler.client.model import GraphModel
from handler.graphs.description import KIND_EXPLANATION, KIND_PREDICTION
from tests.support.graphs import describe, write_graph
from tests.support.serving import ROOT
from tests.support.tools import tool

LABEL = "</script><b>🦊"
COLOURS = {"sure.png": (250, 0, 0), "unsure.png": (120, 118, 0), "deep/a # b %.png": (0, 0, 90)}


@pytest.fixture
def graph(tmp_path):
    return write_graph(
        tmp_path, describe(KIND_EXPLANATION, coverage="5 of 5 activations", labels=[LABEL, "green", "blue"])
    )


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A working folder with three pictures and one that is broken."""
    folder = tmp_path / "work"
    for name, colour in COLOURS.items():
        (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((4, 4, 3), colour, np.uint8)
        pixels[0, 0] //= 2
        Image.fromarray(pixels).save(folder / "in" / name)
    (folder / "in/bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "empty").mkdir()
    monkeypatch.chdir(folder)
    return folder


def run(capsys, *arguments, status=0):
    assert main(["report", *map(str, arguments)]) == status
    return capsys.readouterr()


def content(path):
    (text,) = re.findall(r'id="content">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    return json.loads(text)


def test_a_gallery_lists_the_most_doubtful_first_and_what_failed_last(graph, pictures, capsys):
    said = run(capsys, "in", "--model", graph, status=2)
    rows = content(pictures / "out/index.html")["gallery"]
    assert [row.get("name") for row in rows] == ["in/unsure.png", "in/deep/a # b %.png", "in/sure.png", None]
    assert rows[-1]["error"].startswith("in/bad.png: ")
    assert f"error: {rows[-1]['error']}" in said.err
    assert said.out.splitlines()[-1] == "wrote out/index.html"
    for row in rows[:-1]:
        found = GraphModel(graph).explain(row["name"], maps="none")
        best, second = sorted(found.probabilities.tolist(), reverse=True)[:2]
        assert row["doubt"] == pytest.approx(1 - (best - second), abs=1e-6)
        assert (row["label"], row["probability"]) == (found.predictions[0].label, pytest.approx(best))
        assert row["thumbnail"].startswith("data:image/jpeg;base64,")
    assert rows[2]["label"] == LABEL


def test_each_page_holds_the_answer_and_the_gallery_leads_to_it(graph, pictures, capsys):
    run(capsys, "in", "--model", graph, "--maps", "all", "--target", "green", status=2)
    for row in content(pictures / "out/index.html")["gallery"][:-1]:
        page = content(pictures / "out" / unquote(row["page"]))
        (one,) = page["answers"]
        expected = GraphModel(graph).explain(row["name"], maps="all", target="green", encoding="npy").to_dict()
        answer = one["answer"]
        answer.pop("timings_ms")
        expected.pop("timings_ms")
        assert answer == json.loads(json.dumps(expected))
        assert (one["name"], page["static"]) == (row["name"], True)
    assert "<b>" not in (pictures / "out/index.html").read_text(encoding="utf-8")


def test_thumbnails_have_the_colours_of_the_pages(graph, pictures, capsys):
    run(capsys, "in/unsure.png", "--model", graph, "--target", "green")
    (row,) = content(pictures / "out/index.html")["gallery"]
    with Image.open(io.BytesIO(base64.b64decode(row["thumbnail"].partition(",")[2]))) as image:
        seen = np.asarray(image.convert("RGB")).astype(int)
    wanted = GraphModel(graph).explain("in/unsure.png", target="green", maps="gradcam", overlay="viridis").draw()
    assert np.abs(seen - wanted).max() < 30  # JPEG
    jet = GraphModel(graph).explain("in/unsure.png", target="green", maps="gradcam", overlay="jet").draw()
    assert np.abs(seen - jet).max() > 60


def test_a_name_that_is_no_text_stops_nothing(graph, pictures):
    (pictures / "in/bad.png").unlink()
    name = os.fsdecode(b"\xff.png")
    (pictures / "in/sure.png").rename(pictures / "in" / name)
    done = subprocess.run(
        [sys.executable, "-m", "export", "report", pictures / "in", "--model", graph, "--out", pictures / "out"],
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},  # as in most locales
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\udcff.html" in done.stdout
    rows = content(pictures / "out/index.html")["gallery"]
    assert len(rows) == 3
    assert all((pictures / "out" / os.fsdecode(unquote_to_bytes(row["page"]))).exists() for row in rows)


def test_an_interruption_leaves_whole_pages_and_the_next_run_says_what_to_do(graph, pictures):
    for number in range(40):
        shutil.copy(pictures / "in/sure.png", pictures / f"in/{number}.png")
    command = [sys.executable, "-m", "export", "report", pictures / "in", "--model", graph, "--out", pictures / "out"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as running:
        running.stdout.readline()
        running.send_signal(signal.SIGINT)
        told = running.communicate()[1]
    assert (running.returncode, told) == (130, b"interrupted: no file was left half written\n")
    written = [path for path in pictures.glob("out/**/*") if path.is_file()]
    assert 0 < len(written) < 43
    assert all(content(path)["answers"] for path in written)
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "give another folder with --out, or say --overwrite" in again.stderr


def test_trust_is_told_where_it_is_asked_for(graph, pictures, capsys):
    run(capsys, "in/sure.png", "--model", graph)
    assert content(pictures / "out/index.html")["gallery"][0]["trust"] == []
    run(capsys, "in/sure.png", "--model", graph, "--trust", "--overwrite")
    (row,) = content(pictures / "out/index.html")["gallery"]
    (answer,) = content(pictures / "out/pictures/sure.html")["answers"]
    assert row["trust"] == [answer["answer"]["explanations"][0]["trust"]["sentence"]]


def test_predictions_alone_make_a_gallery_too(graph, pictures, capsys):
    run(capsys, "in/sure.png", "--model", graph, "--maps", "none")
    assert content(pictures / "out/pictures/sure.html")["answers"][0]["answer"]["explanations"] == []


@pytest.mark.parametrize("kept", ["out/index.html", "out/pictures/unsure.html", "out"])
def test_no_file_is_replaced_unasked(graph, pictures, capsys, kept):
    (pictures / kept).parent.mkdir(parents=True, exist_ok=True)
    (pictures / kept).write_bytes(b"kept")
    said = run(capsys, "in", "--model", graph, status=2)
    assert said.err == f"error: {kept} is there already; give another folder with --out, or say --overwrite\n"
    assert [path for path in pictures.glob("out/**/*") if path.is_file()] in ([pictures / kept], [])
    assert (pictures / kept).read_bytes() == b"kept"


def test_other_files_of_the_folder_stay(graph, pictures, capsys):
    (pictures / "out").mkdir()
    (pictures / "out/mine.txt").write_bytes(b"kept")
    run(capsys, "in/sure.png", "--model", graph)
    run(capsys, "in/sure.png", "--model", graph, "--overwrite")
    assert sorted(path.name for path in pictures.glob("out/**/*")) == [
        "index.html",
        "mine.txt",
        "pictures",
        "sure.html",
    ]


def test_nothing_is_written_where_there_is_nothing_to_show(graph, pictures, capsys):
    said = run(capsys, "empty", "gone.png", "in/bad.png", "--model", graph, status=2)
    assert [line.split(": ")[1] for line in said.err.splitlines()] == ["empty", "gone.png", "in/bad.png"]
    assert not (pictures / "out").exists()


@pytest.mark.parametrize("option", [["--target", "zebra"], ["--maps", "heat"], ["--method", "magic"]])
def test_a_wrong_option_is_told_before_the_first_picture(graph, pictures, capsys, option):
    said = run(capsys, "in", "--model", graph, *option, status=2)
    assert said.err.count("\n") == 1
    assert not (pictures / "out").exists()


def test_a_graph_of_predictions_has_no_report(pictures, tmp_path, capsys):
    plain = write_graph(tmp_path, describe(KIND_PREDICTION))
    assert "holds predictions only" in run(capsys, "in", "--model", plain, status=2).err


@pytest.mark.skipif(tool("chromium") is None, reason="no chromium on the PATH")
def test_the_gallery_and_a_page_open_from_the_disk_in_a_browser(graph, pictures, capsys, tmp_path):
    run(capsys, "in", "--model", graph, "--target", "green", status=2)
    shown = {}
    for name in ("index.html", "pictures/sure.html"):
        chromium = [
            tool("chromium"),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            "--v=0",
        ]
        done = subprocess.run(
            [*chromium, f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=4000", "--dump-dom"]
            + [(pictures / "out" / name).as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert "CONSOLE" not in done.stderr
        shown[name] = re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)
    escaped = LABEL.replace("<", "&lt;").replace(">", "&gt;")
    assert all(escaped in text for text in shown.values())
    assert "4 of 4 shown; 1 could not be read." in shown["index.html"]
    assert 'href="pictures/deep/a%20%23%20b%20%25.html"' in shown["index.html"]
    assert "evidence for green" in shown["pictures/sure.html"]
