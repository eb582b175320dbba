"""Which files travel, and that an archive runs with them alone."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from export.__main__ import main
from export.packing import sources as source_packing
from export.packing.archive import write_archive
from export.packing.sources import pack_sources
from handler.errors import ModelError
from handler.model.makers import maker_of
from handler.model.sources import find_checkpoint, load_classifier
from tests.support.serving import CHECKPOINT

# what a worker does, in a process that knows the unpacked archive and nothing else: no folder, no PYTHONPATH
_ANSWER = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from handler.archive import Unpacked
from handler.loading import load_service
from handler.protocol.row import Row
import numpy as np
service = load_service(Unpacked(folder=Path(sys.argv[1]), name="own", version="1.0", config={}))
row = {"data": Path(sys.argv[2]).read_bytes(), "maps": "all", "encoding": "list"}
(answer,) = service.answer_batch([Row(fields=row)])
(card,) = service.answer_batch([Row(fields={}, describes=True)])
import ownnet
print(json.dumps([json.loads(answer.body), json.loads(card.body), ownnet.__file__]))
"""


def packed(stage, architecture="ownnet.net:Network", further=()):
    said = []
    pack_sources(architecture, [*maker_of(architecture).sources(architecture), *further], stage, said.append)
    return {str(path.relative_to(stage)) for path in stage.rglob("*") if path.is_file()}, said


@pytest.mark.usefixtures("ownnet")
def test_an_archive_answers_where_its_source_is_not_installed(tmp_path):
    said = []
    archive = write_archive(
        find_checkpoint("ownnet.net:Network"), tmp_path / "store", "own", report=said.append, sidecar=True
    )
    assert not any("goes without" in line or "not in the archive" in line for line in said)
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path / "unpacked")
        assert not any("__pycache__" in name for name in content.namelist())
    picture = tmp_path / "a.png"
    picture.write_bytes(_png())
    command = [sys.executable, "-I", "-c", _ANSWER, str(tmp_path / "unpacked"), str(picture)]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer, card, came_from = json.loads(done.stdout.splitlines()[-1])
    assert came_from.startswith(str(tmp_path / "unpacked"))
    assert answer["model"]["architecture"] == "ownnet.net:Network"
    assert set(answer["explanations"][0]["maps"]) == {"gradcam", "guided_backprop", "guided_gradcam", "saliency"}
    assert card["labels"] == ["red", "green", "blue"]
    assert card["guided_coverage"] == "2 of 2 activations"
    assert card["engines"]["graphs"] == ["prediction", "gradcam", "explanation"]
    classifier = load_classifier("ownnet.net:Network")
    with torch.inference_mode():
        logits = classifier.module(torch.from_numpy(_seen(picture, classifier)))[0]
    expected = {classifier.labels[k]: float(p) for k, p in enumerate(logits.softmax(0))}
    assert {one["label"]: one["probability"] for one in answer["predictions"]} == pytest.approx(expected, abs=1e-5)


def _png() -> bytes:
    from handler.rendering.render import encode_png

    return encode_png(np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8))


def _seen(picture, classifier):
    from handler.picture.decode import decode
    from handler.picture.preprocess import preprocess

    return preprocess(decode(picture.read_bytes()), classifier.preprocessing).tensor[None]


def test_the_whole_package_travels_data_included_rubbish_not(ownnet, tmp_path):
    (ownnet / "__pycache__").mkdir(exist_ok=True)
    (ownnet / "__pycache__/net.pyc").touch()
    (ownnet / ".git").mkdir()
    (ownnet / ".git/config").touch()
    expected = {"__init__.py", "net.py", "labels.txt", "blocks/__init__.py", "blocks/pair.py"}
    files, said = packed(tmp_path / "stage")
    assert files == {f"ownnet/{name}" for name in expected}
    assert "packing 5 source files" in said[0]


def test_of_a_larger_package_only_the_innermost_and_the_way_to_it(importable, tmp_path):
    inner = importable / "large/models/small"
    inner.mkdir(parents=True)
    for name in ("__init__.py", "data.py", "models/__init__.py", "models/other.py", "models/small/net.py"):
        (importable / "large" / name).touch()
    files, _ = packed(tmp_path / "stage", "large.models.small.net:network")
    assert files == {
        "large/__init__.py",
        "large/models/__init__.py",
        "large/models/small/net.py",
        "large/models/small/__init__.py",  # not there, but with it no other package of this name can go before
    }
    files, _ = packed(tmp_path / "other", "large.models.small.net:network", ["large.data"])
    assert "large/data.py" in files
    assert "large/models/other.py" not in files


def test_a_factory_in_a_packages_own_file_takes_the_package(ownnet, tmp_path):
    (ownnet / "__init__.py").write_text("def network(): ...")
    assert "ownnet/blocks/pair.py" in packed(tmp_path / "stage", "ownnet:network")[0]


def test_a_module_without_a_package_is_one_file(importable, tmp_path):
    (importable / "alone.py").touch()
    (importable / "unrelated.py").touch()
    assert packed(tmp_path / "stage", "alone:network")[0] == {"alone.py"}


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("handler.model.classifier:load_classifier", "handler is this project's own name"),
        ("torchvision.models:resnet18", "it would replace the server's own torchvision"),
        ("json:loads", "it would replace the server's own json"),
        ("sympy.core:Basic", "the server's own sympy"),
        ("nowhere.at.all:network", "cannot be imported"),
    ],
)
def test_names_that_the_server_needs_for_others_are_refused(tmp_path, architecture, said):
    with pytest.raises(ModelError, match=said):
        packed(tmp_path, architecture)


@pytest.mark.usefixtures("ownnet")
@pytest.mark.parametrize("name", ["torch", "handler", "cv2", "nowhere"])
def test_so_are_further_packages_of_such_names(tmp_path, name):
    with pytest.raises(ModelError, match=f"{name} cannot be packed"):
        packed(tmp_path, further=[name])


def test_what_is_no_source_is_refused_with_its_size(ownnet, tmp_path, monkeypatch):
    monkeypatch.setattr(source_packing, "_MOST_BYTES", 100_000)
    (ownnet / "weights.bin").write_bytes(bytes(3_000_000))
    with pytest.raises(ModelError, match=r"would take 3 MB, ownnet/weights.bin alone 3 MB; valid are at most 0 MB"):
        packed(tmp_path / "stage")
    assert not (tmp_path / "stage").exists()


def test_a_linked_file_travels_as_its_content_and_a_linked_folder_not(ownnet, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/more.txt").write_text("more")
    (ownnet / "more.txt").symlink_to(tmp_path / "elsewhere/more.txt")
    packed(tmp_path / "stage")
    assert (tmp_path / "stage/ownnet/more.txt").read_text() == "more"
    assert not (tmp_path / "stage/ownnet/more.txt").is_symlink()
    (ownnet / "folder").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="link to a folder"):
        packed(tmp_path / "again")


def test_source_that_lacks_a_part_is_refused_when_it_is_packed(importable, ownnet, tmp_path):
    (importable / "helping.py").write_text("width = 8")
    (ownnet / "net.py").write_text("import helping\n" + (ownnet / "net.py").read_text())
    checkpoint = find_checkpoint("ownnet.net:Network")
    with pytest.raises(ModelError, match=r"No module named 'helping'.*name what is missing \(pack=package\)"):
        write_archive(checkpoint, tmp_path / "store", "own", sidecar=False)
    assert list((tmp_path / "store").iterdir()) == []
    archive = write_archive(checkpoint, tmp_path / "store", "own", sidecar=False, pack=["helping"])
    with zipfile.ZipFile(archive) as content:
        assert "helping.py" in content.namelist()


def test_a_library_that_the_server_may_lack_is_named(ownnet, tmp_path):
    (ownnet / "net.py").write_text("import captum\n" + (ownnet / "net.py").read_text())
    said = []
    checkpoint = find_checkpoint("ownnet.net:Network")
    write_archive(checkpoint, tmp_path / "store", "own", sidecar=False, report=said.append)
    (line,) = [line for line in said if line.startswith("not in the archive")]
    assert "install it on the server or name it in pack=" in line
    assert "captum" in line


def test_an_archive_is_made_although_a_graph_cannot(ownnet, tmp_path):
    branch = "        if float(x.detach().sum()) > 1e9:\n            x = -x\n"
    run = "        x = self.pair(x)\n"
    (ownnet / "net.py").write_text((ownnet / "net.py").read_text().replace(run, branch + run))
    said = []
    archive = write_archive(find_checkpoint("ownnet.net:Network"), tmp_path / "store", "own", report=said.append)
    assert any(line.startswith("the archive goes without") for line in said)
    with zipfile.ZipFile(archive) as content:
        assert "model.explain.onnx" not in content.namelist()


def test_torchvisions_architectures_need_no_source(tmp_path):
    with pytest.raises(ModelError, match="pack= is for code of your own"):
        write_archive(find_checkpoint(checkpoint=CHECKPOINT), tmp_path, "shapes", sidecar=False, pack=["yaml"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--model", "resnet18", "--arch", "ownnet.net:Network"],
            "network, --model resnet18, or your own, --arch package.module:factory",
        ),
        (["--arch", "resnet18"], "'resnet18' is no code, valid is --arch package.module:factory"),
    ],
)
@pytest.mark.parametrize("command", ["archive", "prediction", "explanation", "gradcam", "verify"])
def test_the_command_line_wants_one_or_the_other(command, arguments, said, capsys):
    assert main([command, *(["x.onnx"] if command == "verify" else []), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_make_is_told_its_variables(monkeypatch, capsys):
    monkeypatch.setenv("MAKELEVEL", "1")
    assert main(["archive", "--model", "resnet18"]) == 2
    assert "torchvision's weights, WEIGHTS=DEFAULT, or a file, CHECKPOINT=" in capsys.readouterr().err


@pytest.mark.usefixtures("ownnet")
def test_graphs_of_ones_own_are_exported_and_verified_by_the_command_line(tmp_path, capsys):
    arguments = ["--arch", "ownnet.net:Network"]
    assert main(["explanation", *arguments, "--name", "own", "--store", str(tmp_path)]) == 0
    assert "ownnet.net:Network, 3 classes" in capsys.readouterr().out
    assert main(["prediction", *arguments, "--name", "own", "--store", str(tmp_path)]) == 0
    assert main(["verify", str(tmp_path / "own.onnx"), *arguments]) == 0
