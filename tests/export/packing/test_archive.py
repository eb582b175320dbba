import json
import zipfile

import numpy as np
import pytest
import yaml

import handler
from export.packing.archive import write_archive
from handler.errors import ModelError, Unprocessable
from handler.model.sources import find_checkpoint
from tests.support.serving import CHECKPOINT


@pytest.fixture(scope="module")
def checkpoint():
    return find_checkpoint(checkpoint=CHECKPOINT)


def test_the_archive_holds_package_entry_checkpoint_settings_and_graphs(shapes_archive):
    with zipfile.ZipFile(shapes_archive) as archive:
        names = set(archive.namelist())
        settings = yaml.safe_load(archive.read("model-config.yaml"))
    assert {"torchserve_entry.py", "handler/service.py", "handler/__init__.py", "model.safetensors"} <= names
    assert {"handler/page/main.js", "handler/page/page.css", "handler/page/page.html"} <= names
    assert {"model.onnx", "model.gradcam.onnx", "model.explain.onnx"} <= names
    assert not any("__pycache__" in name or name.startswith("export") for name in names)
    assert settings["explain"]["max_pixels"] == 50_000_000
    assert list(shapes_archive.parent.iterdir()) == [shapes_archive]


def test_the_graphs_can_be_left_out(tmp_path, checkpoint):
    path = write_archive(checkpoint, tmp_path / "store", "shapes", "2.1", sidecar=False)
    with zipfile.ZipFile(path) as archive:
        assert not any(name.endswith(".onnx") for name in archive.namelist())
        manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))
    assert manifest["model"]["handler"] == "torchserve_entry.py"
    assert manifest["model"]["modelVersion"] == "2.1"
    assert list(path.parent.iterdir()) == [path]


def test_graphs_answer_for_the_layers_that_they_are_packed_with(tmp_path, checkpoint):
    store, picture = tmp_path / "store", np.zeros((320, 320, 3), np.uint8)
    with pytest.raises(ModelError, match=r"^layer 'stage9' has no map \(there is no such module\), valid are .*conv5"):
        write_archive(checkpoint, store, "shapes", layers=["stage4", "stage9"])
    assert not store.exists()
    config = tmp_path / "config.yaml"
    config.write_text("explain: {engine: onnx}")
    packed = write_archive(checkpoint, store, "shapes", config=config, layers=["stage4", "conv5", "stage4"])
    model = handler.load(packed)
    found = model.explain(picture, layer=["stage4", "conv5"], maps=["gradcam", "guided_backprop"], target=["top", 1])
    assert found.model["engine"] == "onnx"
    assert [one.layers for one in found.explanations] == [("stage4", "conv5")] * 2
    with pytest.raises(Unprocessable, match="at layers conv5, stage4$"):
        model.explain(picture, layer="stage3")


def test_layers_of_graphs_that_are_left_out_are_refused(tmp_path, checkpoint):
    with pytest.raises(ModelError, match="^layers=stage4 are those of graphs, and this archive has none"):
        write_archive(checkpoint, tmp_path / "store", "shapes", sidecar=False, layers=["stage4"])
    assert not (tmp_path / "store").exists()


def test_an_engine_that_would_lack_its_graphs_is_refused(tmp_path, checkpoint):
    config = tmp_path / "config.yaml"
    config.write_text("explain: {engine: onnx}")
    with pytest.raises(ModelError, match="holds no graph"):
        write_archive(checkpoint, tmp_path / "store", "shapes", config=config, sidecar=False)
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.parametrize("name", ["", "../up", "a b", "-x", "a/b", "x.mar"])
def test_a_name_that_torchserve_would_refuse_is_refused(tmp_path, checkpoint, name):
    with pytest.raises(ModelError, match="is not valid"):
        write_archive(checkpoint, tmp_path, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "explain: {max_pixel: 3}",
        "- a",
        "a: [",
        "explain: {defaults: {maps: heat}}",
        "explain: {defaults: {target: zebra}}",
        "explain: {defaults: {layer: fc}}",
    ],
)
def test_settings_that_cannot_work_leave_the_old_archive(tmp_path, checkpoint, text):
    (tmp_path / "old.mar").write_bytes(b"old")
    config = tmp_path / "config.yaml"
    config.write_text(text)
    with pytest.raises(ModelError):
        write_archive(checkpoint, tmp_path, "old", config=config, sidecar=False)
    assert (tmp_path / "old.mar").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "old.mar"]
