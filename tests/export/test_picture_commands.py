"""What ``predict`` and ``explain`` take, print and write; the graph's class is the picture's main colour."""

import csv
import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from export import picture_commands as commands
from export.__main__ import main
from handler.client.model import GraphModel
from handler.graphs.description import KIND_EXPLANATION
from tests.support.graphs import describe, write_graph

COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}


@pytest.fixture
def graph(tmp_path):
    return write_graph(tmp_path, describe(KIND_EXPLANATION, coverage="5 of 5 activations"))


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A working folder with pictures, a text, and a picture that is broken."""
    folder = tmp_path / "work"
    for name, colour in {
        "a/1.png": "red",
        "a/deep/1.png": "green",
        "b/1.png": "blue",
        "b/2.JPG": "red",
        "b/2.png": "green",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), COLOURS[colour]).save(folder / name)
    (folder / "a/notes.txt").write_text("no picture")
    (folder / "empty").mkdir()
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    monkeypatch.chdir(folder)
    return folder


def run(capsys, *arguments, status=0):
    assert main([*map(str, arguments)]) == status
    return capsys.readouterr()


def printed(said):
    return {path: best[0]["label"] for path, best in json.loads(said.out).items()}


def test_files_folders_and_patterns_are_taken_each_picture_once(graph, pictures, capsys):
    said = run(capsys, "predict", "b/2.png", "a", "a/1.png", "b/*.png", "--model", graph, "--json")
    assert printed(said) == {
        "b/2.png": "green",
        "a/1.png": "red",
        "a/deep/1.png": "green",
        "b/1.png": "blue",
    }
    said = run(capsys, "predict", "**/1.png", "--model", graph, "--json")
    assert [*printed(said)] == ["a/1.png", "a/deep/1.png", "b/1.png"]


def test_standard_input_is_a_picture(graph, pictures, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((pictures / "b/1.png").read_bytes())))
    assert printed(run(capsys, "predict", "-", "a/1.png", "--model", graph, "--json")) == {
        "-": "blue",
        "a/1.png": "red",
    }


def test_each_that_cannot_be_read_is_named_and_keeps_no_other_from_it(graph, pictures, capsys):
    wrong = ["bad.png", "a/notes.txt", "gone.png", "none*.png", "empty"]
    said = run(capsys, "predict", *wrong, "b/1.png", "--model", graph, "--json", status=2)
    assert printed(said) == {"b/1.png": "blue"}
    assert [line.split(": ")[:2] for line in said.err.splitlines()] == [["error", name] for name in wrong]
    assert "holds no picture, valid are JPEG, PNG" in said.err.splitlines()[-1]
    assert run(capsys, "predict", "gone.png", "--model", graph, "--json", status=2).out == "{}\n"


def test_a_table_has_a_line_for_each_class(graph, pictures, capsys):
    said = run(capsys, "predict", "b/1.png", "bad.png", "a/1.png", "--model", graph, "--csv", "--top-k", 2, status=2)
    header, *rows = csv.reader(io.StringIO(said.out))
    assert header == ["image", "index", "label", "probability"]
    assert [row[:3] for row in rows[::2]] == [["b/1.png", "2", "blue"], ["a/1.png", "0", "red"]]
    assert len(rows) == 4
    assert 0 < float(rows[1][3]) < float(rows[0][3]) < 1


def test_a_table_of_explanations_has_a_line_for_each_map(graph, pictures, capsys):
    options = ["--target", "red,blue", "--maps", "gradcam,guided_backprop", "--method", "layercam"]
    said = run(capsys, "explain", "b/1.png", "--model", graph, "--csv", *options)
    assert said.out.startswith("image,index,label,logit,probability,method,layer,map,max,degenerate\n")
    rows = list(csv.DictReader(io.StringIO(said.out)))
    about = [(row["label"], row["map"], row["method"], row["layer"]) for row in rows]
    assert about == [(c, m, "layercam", "last") for c in ("red", "blue") for m in ("gradcam", "guided_backprop")]
    assert not list(pictures.glob("out/*"))


def test_json_is_the_servers_answer_with_the_options_that_were_said(graph, pictures, capsys):
    options = ["--target", "red", "--maps", "gradcam", "--size", "layer", "--encoding", "list", "--method", "hirescam"]
    said = run(capsys, "explain", "b/1.png", "--model", graph, "--json", *options)
    (found,) = json.loads(said.out).values()
    asked = {"target": "red", "maps": "gradcam", "size": "layer", "encoding": "list", "method": "hirescam"}
    expected = GraphModel(graph).explain("b/1.png", **asked).to_dict()
    found.pop("timings_ms")
    expected.pop("timings_ms")
    assert found == json.loads(json.dumps(expected))
    assert not list(pictures.glob("out/*"))


def test_sheets_keep_the_place_of_the_picture_in_its_folder(graph, pictures, capsys):
    run(capsys, "explain", "a", "b/2.png", "--model", graph, "--maps", "gradcam")
    drawn = {str(path.relative_to(pictures / "out")) for path in (pictures / "out").rglob("*.png")}
    assert drawn == {"1.explained.png", "deep/1.explained.png", "2.explained.png"}


def test_a_folders_pictures_of_all_kinds_are_taken_and_hidden_files_are_not(graph, pictures, capsys):
    np.save(pictures / "b/3.npy", np.full((4, 4, 3), COLOURS["green"], np.uint8))
    (pictures / "b/4.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(16))
    for name in ("b/._1.png", "b/.cache/1.png"):
        (pictures / name).parent.mkdir(exist_ok=True)
        (pictures / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    said = run(capsys, "predict", "b", "--model", graph, "--json", status=2)
    assert printed(said) == {"b/1.png": "blue", "b/2.JPG": "red", "b/2.png": "green", "b/3.npy": "green"}
    (line,) = said.err.splitlines()
    assert "b/4.HEIC: " in line
    (pictures / "empty/.hidden.png").write_bytes(b"")
    (pictures / "empty/scan.dcm").write_bytes(bytes(128) + b"DICM")
    assert "empty/scan.dcm: the DICOM file" in run(capsys, "predict", "empty", "--model", graph, status=2).err
    (pictures / "empty/scan.dcm").unlink()
    assert "holds no picture" in run(capsys, "predict", "empty", "--model", graph, status=2).err


@pytest.mark.parametrize(
    ("named", "drawn"),
    [
        (["a", "b"], {"a/1.png", "deep/1", "b/1.png", "2.JPG", "2.png"}),
        (["a/1.png", "b/1.png", "a/deep/1.png"], {"a/1.png", "b/1.png", "a/deep/1.png"}),
        (["b/2.JPG", "b/2.png", "b/1.png"], {"2.JPG", "2.png", "1"}),
        (["b/1.png", "./b/1.png"], {"1"}),
        (["a/deep/../1.png", "b/1.png"], {"a/1.png", "b/1.png"}),
        (["-", "b/1.png"], {"stdin", "1"}),
    ],
)
def test_pictures_of_one_name_do_not_collide(pictures, named, drawn):
    files = commands.picture_files(commands.find_pictures(named), pictures / "out")
    assert {str(one.relative_to(pictures / "out")) for one in files.values()} == {
        f"{one}.explained.png" for one in drawn
    }


def test_no_file_is_replaced_unasked(graph, pictures, capsys):
    kept = pictures / "out/1.explained.png"
    kept.parent.mkdir()
    kept.write_bytes(b"kept")
    said = run(capsys, "explain", "b/2.png", "b/1.png", "--model", graph, status=2)
    assert (
        said.err == "error: out/1.explained.png is there already; give another folder with --out, or say --overwrite\n"
    )
    assert (kept.read_bytes(), len(list(kept.parent.iterdir()))) == (b"kept", 1)
    run(capsys, "explain", "b/2.png", "b/1.png", "--model", graph, "--overwrite")
    Image.open(kept).verify()


def test_sheets_are_not_taken_for_pictures_of_the_folder(graph, pictures, capsys):
    for _ in range(2):
        said = run(capsys, "explain", "b", "--model", graph, "--out", "b", "--overwrite")
        assert len(said.out.splitlines()) == 3


@pytest.mark.parametrize("option", [["--size", "layer"], ["--encoding", "npy"], ["--csv", "--size", "layer"]])
def test_what_a_sheet_does_not_have_is_refused(graph, pictures, capsys, option):
    said = run(capsys, "explain", "b/1.png", "--model", graph, *option, status=2)
    assert said.err.startswith("error: --size and --encoding are of the maps that --json prints")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_how_far_it_is_and_a_file_does_not(graph, pictures, capsys, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["predict", "b", "bad.png", "--model", str(graph), "--csv"]) == 2
    said = terminal.getvalue()
    assert "[##########          ] 2/4 b/2.png" in said
    assert "\r\033[Kerror: bad.png: " in said
    assert said.endswith("\n")
    terminal.truncate(0)
    assert main(["predict", "b/1.png", "--model", str(graph)]) == 0
    assert "[" not in terminal.getvalue()


def test_a_reader_that_went_away_ends_the_work(graph, pictures, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(GraphModel, "predict", lambda *_: asked.append(1) or [])

    def closed(*said, file=None, **how):
        if file is None:
            raise BrokenPipeError(32, "Broken pipe")
        builtin(*said, file=file, **how)

    builtin = print
    monkeypatch.setattr("builtins.print", closed)
    assert main(["predict", "b", "--model", str(graph)]) == 2
    assert capsys.readouterr().err == "error: [Errno 32] Broken pipe\n"
    assert len(asked) == 1


def test_arrays_of_a_picture_are_those_of_the_model(graph, pictures, capsys):
    said = run(capsys, "explain", "b/1.png", "--model", graph, "--json", "--maps", "gradcam", "--encoding", "list")
    (found,) = json.loads(said.out).values()
    expected = GraphModel(graph).explain("b/1.png", maps="gradcam").explanations[0].maps["gradcam"].values
    np.testing.assert_allclose(found["explanations"][0]["maps"]["gradcam"]["data"], expected, rtol=1e-6)
