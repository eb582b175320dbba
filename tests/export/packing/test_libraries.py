"""Archives of networks of timm and Hugging Face: what travels, and what the server must have installed."""

import importlib.metadata
import json
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest
import timm
import torch

from examples.random_weights import enliven
from export.packing.archive import write_archive
from handler.errors import ModelError
from handler.loading import load_archive
from handler.model.classifier import build_network
from handler.model.timm_networks import declare
from tests.zoo.networks import bare, random_network

# the server has neither the library nor what it imports beside torch
_ANSWER = """
import json, sys
hidden = ["huggingface_hub", "transformers", "tqdm"]
sys.modules.update(dict.fromkeys(hidden))
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from handler.archive import Unpacked
from handler.loading import load_service
from handler.protocol.row import Row
service = load_service(Unpacked(folder=Path(sys.argv[1]), name="own", version="1.0", config={}))
(answer,) = service.answer_batch([Row(fields={"body": Path(sys.argv[2]).read_bytes(), "encoding": "list"})])
import timm
print(json.dumps([json.loads(answer.body)["predictions"], timm.__file__]))
"""


@pytest.fixture
def vit():
    """timm's smallest vision transformer, with three classes."""
    found = replace(declare("timm/test_vit"), labels=["cat", "dog", "bird"])
    module = build_network(found).eval()
    enliven(module, torch.randn(4, *found.preprocessing.shape), classes=3)
    return replace(found, state=module.state_dict())


def test_timms_source_travels_and_the_server_needs_nothing(vit, tmp_path):
    said = []
    archive = write_archive(vit, tmp_path / "store", "own", sidecar=False, report=said.append)
    assert any("source files" in line and "timm/models" in line for line in said)
    assert not any("not in the archive" in line for line in said)
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path / "unpacked")
    picture = "examples/shapes/one.jpg"
    command = [sys.executable, "-I", "-c", _ANSWER, str(tmp_path / "unpacked"), picture]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    predictions, came_from = json.loads(done.stdout.splitlines()[-1])
    assert came_from.startswith(str(tmp_path / "unpacked"))
    expected = load_archive(archive).predict(picture)
    assert [one["label"] for one in predictions] == [one.label for one in expected]
    assert timm.__file__ != came_from


def test_transformers_must_be_on_the_server_and_the_line_says_which(tmp_path):
    checkpoint = replace(bare("hf/vit"), state=dict(random_network("hf/vit").module.state_dict()))
    said = []
    archive = write_archive(checkpoint, tmp_path / "store", "own", sidecar=False, report=said.append)
    version = importlib.metadata.version("transformers")
    assert f"not in the archive, so install it on the server: transformers=={version}" in said
    assert load_archive(archive).card.architecture == "hf/vit"


def test_further_packages_are_for_code_that_travels(tmp_path):
    checkpoint = replace(bare("hf/vit"), state=dict(random_network("hf/vit").module.state_dict()))
    with pytest.raises(ModelError, match="hf/vit needs no source: pack= is for code of your own"):
        write_archive(checkpoint, tmp_path, "own", sidecar=False, pack=["yaml"])
