"""The command of examples/node, and how Node decodes files."""

import base64
import json
import subprocess

import cv2
import numpy as np
import pytest

import handler
from handler.picture.decode import decode
from tests.support.javascript import Node, array_of, text_of, tree
from tests.support.pictures import tricky_files
from tests.support.serving import ONE, TWO

FILES = tricky_files()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tree(tmp_path_factory)


@pytest.fixture
def command(files, shapes_graphs):
    """Runs the command on the embedded model's graph."""

    def run(*arguments, graph=shapes_graphs / "model.explain.onnx"):
        said = ["node", "examples/node/explain.js", str(graph), *map(str, arguments)]
        return subprocess.run(said, cwd=files, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.mark.parametrize("name", FILES)
def test_files_are_decoded_as_python_does(files, name):
    seen = Node(files).ask("return ask.decoded(pack.decode, given.file)", file=text_of(FILES[name]))
    pixels = np.frombuffer(base64.b64decode(seen["data"]), np.uint8).reshape(seen["height"], seen["width"], -1)
    wanted = decode(FILES[name])
    assert pixels.shape[:2] == wanted.shape[:2]
    assert np.abs(pixels.astype(int) - wanted).max() <= (2 if name.startswith("JPEG") else 0)


def test_predictions_are_printed_and_maps_written_as_pictures_and_json(command, tmp_path, shapes_graphs):
    done = command(TWO, "--target", "heart,arrow", "--top-k", "2", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["heart", "crescent"]
    names = {f"two.{index}.{name}.png" for index in (6, 8) for name in ("gradcam", "guided_backprop", "guided_gradcam")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"two.json", *names}
    result = handler.load(shapes_graphs / "model.explain.onnx").explain(TWO, target="heart,arrow")
    answer = json.loads((tmp_path / "out/two.json").read_text())
    for one, wanted in zip(answer["explanations"], result.explanations, strict=True):
        assert np.abs(array_of(one["maps"]["gradcam"]["data"]) - wanted.maps["gradcam"].values).max() <= 1e-3
    assert answer["image"] == result.to_dict()["image"]
    drawn = cv2.imread(str(tmp_path / "out/two.6.guided_backprop.png"), cv2.IMREAD_COLOR_RGB)
    assert np.abs(drawn.astype(int) - result.draw(0, "guided_backprop")).max() <= 2
    overlay = cv2.imread(str(tmp_path / "out/two.6.gradcam.png"), cv2.IMREAD_COLOR_RGB)
    assert overlay.shape == (320, 320, 3)


def test_the_answer_is_printed_as_json(command):
    done = command(ONE, "--json", "--maps", "none")
    answer = json.loads(done.stdout)
    assert answer["predictions"][0]["label"] == "star"
    assert answer["explanations"] == []


def test_nothing_is_written_over_a_file_without_leave(command, tmp_path):
    (tmp_path / "one.json").write_text("mine")
    done = command(ONE, "--maps", "gradcam", "--out", tmp_path)
    assert done.returncode == 2
    assert "--overwrite" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]
    assert (tmp_path / "one.json").read_text() == "mine"
    assert command(ONE, "--maps", "gradcam", "--out", tmp_path, "--overwrite").returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"one.json", "one.4.gradcam.png"}


def test_mistakes_are_a_sentence_and_exit_status_2(command, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    wrong = {
        "is no label of this model, valid are circle": command(ONE, "--target", "hart"),
        "not a picture that can be read": command(tmp_path / "text.jpg", "--out", tmp_path / "out"),
        "cannot be read": command(tmp_path / "missing.jpg"),
        "is no ONNX graph": command(ONE, graph=ONE),
        "a graph and a picture are needed": command(),
        "Unknown option": command(ONE, "--targets", "heart"),
        "top_k NaN is not valid": command(ONE, "--top-k", "many"),
    }
    for message, done in wrong.items():
        assert done.returncode == 2, message
        assert done.stdout == ""
        assert message in done.stderr
        assert done.stderr.startswith("error: ")
        assert "    at " not in done.stderr  # no traceback
    assert not (tmp_path / "out").exists()
