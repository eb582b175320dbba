"""Archives hold each weight once, and say which bytes these are."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from export.packing.shared_weights import WEIGHTS_NAME, share_weights
from handler.archive import CARD_NAME, Unpacked, open_service
from handler.errors import ModelError
from handler.graphs.description import KIND_EXPLANATION, KIND_GRADCAM, KIND_PREDICTION
from handler.graphs.session import GraphSession, find_graphs, hashed
from handler.loading import CHECKPOINT_NAME, choose_engine
from handler.protocol.row import Row
from tests.support.graphs import describe, make_graph
from tests.support.serving import ONE

INPUTS = {"target": np.array([-1, 3])}


def places(path: Path) -> dict[str, tuple[str, int, int]]:
    """For each tensor outside of the graph its file, offset and length."""
    graph = onnx.load(path, load_external_data=False).graph
    entries = {one.name: {entry.key: entry.value for entry in one.external_data} for one in graph.initializer}
    return {name: (at["location"], int(at["offset"]), int(at["length"])) for name, at in entries.items() if at}


def alone(path: Path) -> bytes:
    """The graph's content with the weights inside, as graphs of older archives have them."""
    model = onnx.load(path)
    for entry in [entry for entry in model.metadata_props if entry.key == "files"]:
        model.metadata_props.remove(entry)
    return model.SerializeToString()


@pytest.fixture
def archive(shapes_graphs, tmp_path):
    """An archive in a folder of its own, which may be changed."""
    folder = shutil.copytree(shapes_graphs, tmp_path / "archive")
    return Unpacked(folder=folder, name="shapes", version="1.0", config={"explain": {"engine": "auto"}})


def repack(folder: Path) -> None:
    """Lets the card say that the graphs are those that were packed."""
    card = json.loads((folder / CARD_NAME).read_text(encoding="utf-8"))
    card["graphs"] = {kind: hashed(path) for kind, path in find_graphs(folder).items()}
    (folder / CARD_NAME).write_text(json.dumps(card), encoding="utf-8")


def test_an_archive_holds_each_weight_once(shapes_graphs):
    contents: dict[bytes, set] = {}
    for path in find_graphs(shapes_graphs).values():
        assert all(len(one.raw_data) < 256 for one in onnx.load(path, load_external_data=False).graph.initializer)
        for file, offset, length in places(path).values():
            content = (shapes_graphs / file).read_bytes()[offset : offset + length]
            contents.setdefault(content, set()).add((file, offset))
    assert all(len(found) == 1 for found in contents.values())
    sizes = {path.name: path.stat().st_size for path in shapes_graphs.iterdir() if path.is_file()}
    in_checkpoint = sum(len(content) for content, found in contents.items() if (CHECKPOINT_NAME in next(iter(found))))
    assert in_checkpoint > 0.9 * sizes[CHECKPOINT_NAME]
    assert sizes[WEIGHTS_NAME] < 0.25 * sizes[CHECKPOINT_NAME]  # kernels of the backward passes


def test_graphs_answer_as_those_with_weights_of_their_own(shapes_graphs):
    pictures = np.random.default_rng(0).standard_normal((2, 3, 320, 320)).astype(np.float32)
    for kind, path in find_graphs(shapes_graphs).items():
        given = {"input": pictures, **({} if kind == KIND_PREDICTION else INPUTS)}
        expected = onnxruntime.InferenceSession(alone(path), providers=["CPUExecutionProvider"])
        outputs = [output.name for output in expected.get_outputs()]
        for shared in (False, True):
            found = GraphSession.open(path, kind, threads=1, shared=shared).infer(given, outputs)
            for values, right in zip(found, expected.run(outputs, given), strict=True):
                np.testing.assert_allclose(values, right, atol=1e-6 * np.abs(right).max())


def test_further_targets_of_a_picture_share_one_half_of_a_graph_without_weights(shapes_graphs):
    graph = GraphSession.open(find_graphs(shapes_graphs)[KIND_GRADCAM], KIND_GRADCAM, threads=1, shared=True)
    picture = np.random.default_rng(0).standard_normal((1, 3, 320, 320)).astype(np.float32)
    found = graph.infer_targets(picture, {"target": np.array([1, 3])}, ["gradcam"])[0]
    assert graph._halves is not None
    expected = graph.infer({"input": picture.repeat(2, axis=0), "target": np.array([1, 3])}, ["gradcam"])[0]
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


def _flip(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


@pytest.mark.parametrize("name", [CHECKPOINT_NAME, WEIGHTS_NAME])
@pytest.mark.parametrize("spoil", [_flip, lambda content: content[:-5000], None])
def test_weights_that_are_not_those_that_were_packed_are_refused_at_start(archive, name, spoil):
    path = archive.folder / name
    content = path.read_bytes()
    path.unlink()
    if spoil:
        path.write_bytes(spoil(content))
    with pytest.raises(
        ModelError, match=rf"{name} of .* is missing or was changed|External (initializer|data)"
    ) as refused:
        open_service(archive)
    assert len(str(refused.value).splitlines()) == 1


def test_with_pytorch_weights_that_are_not_those_that_were_packed_are_refused_too(archive, shapes):
    path = archive.folder / WEIGHTS_NAME
    path.write_bytes(_flip(path.read_bytes()))
    with pytest.raises(ModelError, match=rf"{WEIGHTS_NAME} of .* is missing or was changed"):
        choose_engine("auto", archive.folder, shapes, 1)


@pytest.mark.parametrize("location", ["../outside", "{folder}/../outside", "inside"])
def test_weights_outside_of_the_archive_are_refused(archive, location):
    path = find_graphs(archive.folder)[KIND_PREDICTION]
    outside = archive.folder.parent / "outside"
    shutil.copy(archive.folder / CHECKPOINT_NAME, outside)
    (archive.folder / "inside").symlink_to(outside)
    model = onnx.load(path, load_external_data=False)
    for entry in (entry for one in model.graph.initializer for entry in one.external_data):
        if entry.key == "location" and entry.value == CHECKPOINT_NAME:
            entry.value = location.format(folder=archive.folder)
    path.write_bytes(model.SerializeToString())
    repack(archive.folder)
    with pytest.raises(ModelError, match=r"graph .*model\.onnx cannot be loaded") as refused:
        open_service(archive)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["../outside", "model-config.yaml/.."])
def test_names_of_weights_are_those_of_files_beside_the_graph(archive, name):
    path = find_graphs(archive.folder)[KIND_PREDICTION]
    model = onnx.load(path, load_external_data=False)
    next(entry for entry in model.metadata_props if entry.key == "files").value = json.dumps({name: "0" * 64})
    path.write_bytes(model.SerializeToString())
    repack(archive.folder)
    with pytest.raises(ModelError, match="is missing or was changed since it was packed"):
        open_service(archive)


def test_archives_whose_graphs_hold_their_weights_are_served(archive):
    for path in find_graphs(archive.folder).values():
        path.write_bytes(alone(path))
    repack(archive.folder)
    (archive.folder / WEIGHTS_NAME).unlink()
    service, _ = open_service(archive)
    (answer,) = service.answer_batch([Row(fields={"data": ONE.read_bytes()})])
    assert json.loads(answer.body)["predictions"][0]["label"] == "star"


def test_tensors_of_any_type_stay_what_they_are(tmp_path):
    random = np.random.default_rng(0)
    tensors = {
        "float": random.standard_normal((9, 30)).astype(np.float32),
        "half": random.standard_normal(200).astype(np.float16),
        "other": random.standard_normal(199).astype(np.float32),
        "whole": np.arange(77),
        "small": random.standard_normal(3).astype(np.float32),
    }
    save_file({name: torch.tensor(tensors[name]) for name in ("float", "half")}, tmp_path / CHECKPOINT_NAME, {"a": "b"})
    for kind in (KIND_PREDICTION, KIND_GRADCAM, KIND_EXPLANATION):
        model = make_graph(describe(kind))
        model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in tensors.items())
        typed = helper.make_tensor("typed", TensorProto.FLOAT, [100], [1.5] * 100)  # not in bytes
        model.graph.initializer.append(typed)
        onnx.save(model, tmp_path / {KIND_PREDICTION: "model.onnx"}.get(kind, f"model.{kind[:7]}.onnx"))
    share_weights(tmp_path)
    assert (tmp_path / WEIGHTS_NAME).stat().st_size < 199 * 4 + 77 * 8 + 2 * 64
    for path in find_graphs(tmp_path).values():
        assert {name: place[0] for name, place in places(path).items()} == {
            **dict.fromkeys(("float", "half"), CHECKPOINT_NAME),
            **dict.fromkeys(("other", "whole"), WEIGHTS_NAME),
        }
        found = {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
        for name, values in tensors.items():
            np.testing.assert_array_equal(found[name], values)
        assert found["typed"].tolist() == [1.5] * 100
        GraphSession.open(path)
