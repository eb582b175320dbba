"""Archives that are opened without PyTorch, and those that are refused."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest
import yaml

from handler.archive import CARD_NAME, Unpacked, check_defaults, open_service, unpacked
from handler.errors import ModelError, Unprocessable
from handler.graphs.session import GraphSession
from handler.graphs.shared_weights import Prepared
from handler.protocol.options import Options
from handler.protocol.row import Row
from tests.support.engines import CARD, BrightnessEngine
from tests.support.serving import ONE, ROOT

DEFAULTS = {"minWorkers": 1, "explain": {"engine": "auto"}}


@pytest.fixture
def archive(shapes_graphs, tmp_path):
    """An archive in a folder of its own, which may be changed."""
    folder = tmp_path / "archive"
    shutil.copytree(shapes_graphs, folder)
    return Unpacked(folder=folder, name="shapes", version="1.0", config=DEFAULTS)


def test_an_archive_says_its_name_version_and_settings(shapes_archive):
    with unpacked(shapes_archive) as found:
        assert (found.name, found.version) == ("shapes", "1.0")
        assert found.config == yaml.safe_load((ROOT / "handler/model-config.yaml").read_text(encoding="utf-8"))
        folder = found.folder
        assert (folder / CARD_NAME).is_file()
    assert not folder.exists()


def test_the_service_needs_its_folder_no_longer(archive):
    service, card = open_service(archive)
    shutil.rmtree(archive.folder)
    (answer,) = service.answer_batch([Row(fields={"data": ONE.read_bytes(), "maps": "gradcam"})])
    content = json.loads(answer.body)
    assert content["predictions"][0]["label"] == "star"
    assert content["model"] == {
        "name": card.name,
        "version": "1.0",
        "architecture": "shufflenet_v2_x0_5",
        "engine": "onnx",
    }


def test_the_card_is_that_of_the_graphs(archive):
    _, card = open_service(archive)
    assert list(card.graphs) == ["prediction", "gradcam", "explanation"]
    assert card.default_layer == "conv5"
    assert "saliency" not in card.maps
    assert re.fullmatch("[0-9a-f]{64}", card.weights_sha256)


@pytest.mark.parametrize("busy", [False, True])
def test_runs_that_overlap_go_to_a_session_of_one_thread(archive, monkeypatch, busy):
    sessions, opened = {}, Prepared.session

    def open_session(prepared, threads):
        session = opened(prepared, threads)
        sessions[id(session)] = threads, session
        return session

    monkeypatch.setattr(Prepared, "session", open_session)
    config = {"explain": {"threads": 3}}
    open_service(replace(archive, config=config), lambda: busy)
    assert sorted(threads for threads, _ in sessions.values()) == [1, 1, 1, 3, 3, 3]


@pytest.mark.parametrize("busy", [False, True])
def test_a_run_takes_one_thread_while_others_are_due(archive, monkeypatch, busy):
    used, infer = [], GraphSession.infer
    monkeypatch.setattr(GraphSession, "infer", lambda graph, *args: used.append(graph.threads) or infer(graph, *args))
    service, _ = open_service(replace(archive, config={"explain": {"threads": 3}}), lambda: busy)
    service.answer_batch([Row(fields={"data": ONE.read_bytes(), "maps": "none"})])
    assert set(used) == {1 if busy else 3}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"explain": {"engine": "torch"}},
            "shapes needs PyTorch, for it was packed without graphs; valid are archives",
        ),
        ({"explain": {"colour": "red"}}, "colour"),
        ({"explain": {"defaults": {"layer": "stage4"}}}, "model-config.yaml: explain.defaults: the ONNX graphs do not"),
        ({"explain": {"defaults": {"target": "zebra"}}}, "explain.defaults: target 'zebra' is no label"),
        ({"explain": {"defaults": {"maps": ["saliency"]}}}, "explain.defaults: saliency"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(archive, config, said):
    with pytest.raises(ModelError, match=re.escape(said)):
        open_service(replace(archive, config=config))


def test_an_archive_without_a_card_is_refused(archive):
    (archive.folder / CARD_NAME).unlink()
    with pytest.raises(ModelError, match="shapes needs PyTorch, for it was packed without graphs"):
        open_service(archive)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"layers": {}, "preprocessing": {}}'])
def test_a_card_of_another_form_is_refused(archive, text):
    (archive.folder / CARD_NAME).write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match="the card of shapes cannot be read"):
        open_service(archive)


@pytest.mark.parametrize("field", ["name", "labels", "layers", "preprocessing", "default_layer"])
def test_a_card_that_lacks_a_field_is_refused(archive, field):
    content = json.loads((archive.folder / CARD_NAME).read_text(encoding="utf-8"))
    del content[field]
    (archive.folder / CARD_NAME).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelError, match="the card of shapes cannot be read"):
        open_service(archive)


def test_a_card_with_a_field_of_a_later_version_is_refused(archive):
    content = json.loads((archive.folder / CARD_NAME).read_text(encoding="utf-8"))
    (archive.folder / CARD_NAME).write_text(json.dumps({**content, "later": 1}), encoding="utf-8")
    with pytest.raises(ModelError, match="the card of shapes cannot be read"):
        open_service(archive)


@pytest.mark.parametrize("name", ["model.onnx", "model.gradcam.onnx", "model.explain.onnx"])
@pytest.mark.parametrize("change", ["replaced", "cut", "missing"])
def test_graphs_that_are_not_those_that_were_packed_are_refused(archive, name, change):
    path = archive.folder / name
    if change == "missing":
        path.unlink()
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        digest = json.loads((archive.folder / CARD_NAME).read_text(encoding="utf-8"))
        digest["graphs"] = {kind: "0" * 64 for kind in digest["graphs"]}
        (archive.folder / CARD_NAME).write_text(json.dumps(digest), encoding="utf-8")
        name = "was changed since it was packed; pack the archive anew"
    with pytest.raises(ModelError, match=re.escape(name)):
        open_service(archive)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (None, "is no TorchServe archive of this project: BadZipFile"),
        ({}, "FileNotFoundError"),
        ({"MAR-INF/MANIFEST.json": "{"}, "JSONDecodeError"),
        ({"MAR-INF/MANIFEST.json": "[]"}, "TypeError"),
        ({"MAR-INF/MANIFEST.json": '{"model": {}}'}, "KeyError"),
        ({"MAR-INF/MANIFEST.json": '{"model": {"modelName": "m", "configFile": "none"}}'}, "FileNotFoundError"),
        (
            {
                "MAR-INF/MANIFEST.json": '{"model": {"modelName": "m", "configFile": "c", "modelVersion": "1"}}',
                "c": "{",
            },
            "Parser",
        ),
    ],
)
def test_what_is_no_archive_is_refused(tmp_path, files, said):
    path = tmp_path / "a.mar"
    if files is None:
        path.write_text("no archive", encoding="utf-8")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)
    with pytest.raises(ModelError, match=said) as refused, unpacked(path):
        pass
    assert "a.mar is no TorchServe archive of this project" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_missing_archive_is_told(tmp_path):
    with (
        pytest.raises(ModelError, match="a.mar does not exist; `make archive` writes archives"),
        unpacked(tmp_path / "a.mar"),
    ):
        pass


class Refusing(BrightnessEngine):
    def run(self, inputs, targets, needs):
        if needs.guided:
            raise Unprocessable("no gradient here")
        return super().run(inputs + 0.5, targets, needs)  # which is not too dark


def test_defaults_are_tried_on_a_picture_of_zeros():
    engine = Refusing()
    check_defaults(Options(maps=("gradcam",)), CARD, engine)
    assert engine.batches == [1]
    with pytest.raises(ModelError, match="model-config.yaml: explain.defaults: no gradient here"):
        check_defaults(Options(maps=("guided_backprop",)), CARD, engine)


_OPEN = """
import sys
from pathlib import Path
from handler.archive import open_service, unpacked
from handler.protocol.row import Row
with unpacked(Path(sys.argv[1])) as archive:
    service, _ = open_service(archive)
(answer,) = service.answer_batch([Row(fields={"data": Path(sys.argv[2]).read_bytes()})])
print(answer.status, sorted({"torch", "torchvision", "ts"} & set(sys.modules)))
"""


def test_neither_opening_nor_answering_loads_torch(shapes_archive):
    done = subprocess.run(
        [sys.executable, "-c", _OPEN, str(shapes_archive), str(ONE)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "200 []\n", done.stderr
