import base64
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from export.__main__ import main
from handler.autograd.torch_engine import TorchEngine
from handler.client.model import GraphModel
from handler.explanation.maps import make_maps, needs_of
from handler.picture.decode import decode
from handler.picture.preprocess import preprocess
from tests.support.serving import ONE, ROOT, TWO


@pytest.fixture(scope="module")
def model(shapes_graphs):
    return GraphModel(shapes_graphs / "model.explain.onnx")


def test_it_answers_what_the_hooks_find(model, shapes):
    options = {"target": shapes.labels.index("heart"), "encoding": "npy", "top_k": 2}
    answer = model.explain(ONE.read_bytes(), **options).to_dict()
    assert [one["label"] for one in answer["predictions"]][0] == "star"
    assert len(answer["predictions"]) == 2
    (explained,) = answer["explanations"]
    assert explained["target"]["label"] == "heart"
    seen = preprocess(decode(ONE.read_bytes()), shapes.preprocessing)
    wanted = ("gradcam", "guided_backprop", "guided_gradcam")
    needs = needs_of(wanted, [shapes.default_layer])
    evidence = TorchEngine(shapes).run(seen.tensor[None], [[shapes.labels.index("heart")]], needs)
    expected = make_maps(evidence, 0, wanted, "gradcam", at_layer=False)
    assert list(explained["maps"]) == list(wanted)
    for name, one in expected.items():
        found = np.load(io.BytesIO(base64.b64decode(explained["maps"][name]["data"])))
        beyond = np.abs(found - one.values) > 2e-5 * np.abs(one.values).max()
        assert beyond.mean() <= (0.001 if "guided" in name else 0), (
            name
        )  # a ReLU's gate can flip where rounding decides
    assert explained["maps"]["guided_backprop"]["coverage"] == "37 of 37 activations"


def test_the_sheet_has_a_row_for_every_target(model):
    one, two = (model.explain(ONE.read_bytes(), target=target).sheet() for target in ("top", "star,heart"))
    assert two.shape[0] == 2 * one.shape[0]
    assert two.shape[1] == one.shape[1] > 4 * model.description.preprocessing.crop_size


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": "unicorn"}, "is no label of this model"),
        ({"maps": "saliency"}, "this graph holds gradcam, guided_backprop, guided_gradcam"),
        ({"layer": "stage4"}, "has no map"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_is_not_valid_is_refused(model, options, said):
    with pytest.raises(ValueError, match=said):
        model.explain(ONE.read_bytes(), **options)


def test_a_graph_of_gradcam_has_that_alone(shapes_graphs):
    model = GraphModel(shapes_graphs / "model.gradcam.onnx")
    (explained,) = model.explain(ONE.read_bytes()).explanations
    assert list(explained.maps) == ["gradcam"]
    with pytest.raises(ValueError, match="this graph holds gradcam"):
        model.explain(ONE.read_bytes(), maps="guided_backprop")


def test_the_command_draws_without_torch(shapes_graphs, tmp_path):
    graph = shapes_graphs / "model.explain.onnx"
    code = (
        "import sys, export.__main__ as command\n"
        f"status = command.main(['explain', {str(ONE)!r}, '--model', {str(graph)!r}, '--out', {str(tmp_path)!r}])\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
        "sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"wrote {tmp_path / 'one.explained.png'}" in done.stdout
    Image.open(tmp_path / "one.explained.png").verify()


def test_a_picture_that_cannot_be_explained_keeps_no_other_from_it(shapes_graphs, tmp_path, capsys):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(ONE.read_bytes()[:1000])
    command = ["explain", *map(str, (ONE, bad, TWO)), "--model", str(shapes_graphs / "model.gradcam.onnx")]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.err == f"error: {bad}: the JPEG picture is truncated or corrupt and cannot be decoded\n"
    drawn = [tmp_path / "out" / f"{name}.explained.png" for name in ("one", "two")]
    assert said.out.splitlines() == [f"wrote {path}" for path in drawn]
    assert sorted((tmp_path / "out").iterdir()) == drawn


def test_a_class_that_is_not_there_is_told_once(shapes_graphs, tmp_path, capsys):
    command = ["explain", str(ONE), str(TWO), "--model", str(shapes_graphs / "model.gradcam.onnx")]
    assert main([*command, "--target", "unicorn", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: target 'unicorn' is no label of this model, valid are circle")


def test_the_command_tells_mistakes_in_one_line(shapes_graphs, tmp_path, capsys):
    graph = str(shapes_graphs / "model.explain.onnx")
    for arguments, said in [
        (["explain", graph, "--model", graph], "not a picture"),
        (["explain", str(ONE), "--model", graph, "--target", "unicorn"], "no label"),
        (["explain", str(ONE), "--model", str(tmp_path / "gone.onnx")], "does not exist"),
        (
            ["explain", str(ONE), "--model", str(shapes_graphs / "model.onnx")],
            "model.onnx holds predictions only; `shuff",
        ),
    ]:
        assert main([*arguments, "--out", str(tmp_path)]) == 2
        told = capsys.readouterr().err
        assert said in told
        assert told.startswith("error: ")
        assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
