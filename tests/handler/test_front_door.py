"""``handler.load`` and ``handler.wrap``: what a program in Python sees."""

import hashlib
import io
import json
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import nn
from torchvision.models import resnet18

import handler
from export.packing.archive import DEFAULT_CONFIG
from handler.client.model import GraphModel
from handler.errors import BadRequest, ModelError, RequestError
from handler.picture.decode import decode
from handler.picture.preprocess import Preprocessing, preprocess
from tests.support.serving import CHECKPOINT, ONE, ROOT, repacked

SIDE = 64


@pytest.fixture(scope="module")
def from_checkpoint():
    return handler.load(CHECKPOINT)


@pytest.fixture(scope="module")
def from_graph(shapes_graphs):
    return handler.load(shapes_graphs / "model.explain.onnx")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return resnet18(num_classes=5).eval()


def test_the_example_of_the_documentation(from_checkpoint, tmp_path):
    found = from_checkpoint.explain(ONE, target="heart", maps=["gradcam"])
    assert found.predictions[0].label == "star"
    assert found.explanations[0].target.label == "heart"
    assert found.explanations[0].maps["gradcam"].values.shape == found.canvas.seen.picture.shape[:2]
    files = found.save(tmp_path / "out")
    assert [path.name for path in files] == ["sheet.png", f"{found.explanations[0].target.index}_gradcam.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(files[1])), found.draw())
    with pytest.raises(FileExistsError, match=r"sheet\.png is there already"):
        found.save(tmp_path / "out")
    assert found.save(tmp_path / "out", overwrite=True) == files


def test_checkpoint_archive_and_graph_find_the_same(from_checkpoint, from_graph, shapes_archive):
    models = from_checkpoint, from_graph, handler.load(shapes_archive)
    expected, *others = (model.explain(ONE, target=["top", "heart"], maps=["gradcam"]) for model in models)
    assert [found.model["engine"] for found in (expected, *others)] == ["torch", "onnx", "onnx"]
    assert [found.model["name"] for found in (expected, *others)] == ["shapes", "model", "shapes"]
    assert [found.model["version"] for found in (expected, others[1])] == ["checkpoint", "1.0"]
    for found in others:
        np.testing.assert_allclose(found.logits, expected.logits, rtol=0, atol=3e-5)
        for one, other in zip(found.explanations, expected.explanations, strict=True):
            assert one.target.label == other.target.label
            np.testing.assert_allclose(one.maps["gradcam"].values, other.maps["gradcam"].values, rtol=0, atol=1e-5)


def test_the_receipts_of_checkpoint_archive_and_graph_name_the_same_weights_and_their_own_graphs(
    from_checkpoint, from_graph, shapes_archive, shapes_graphs
):
    models = from_checkpoint, from_graph, handler.load(shapes_archive)
    checkpoint, graph, archive = (model.explain(ONE, maps="none").receipt() for model in models)
    files = {
        kind: shapes_graphs / name
        for kind, name in {
            "prediction": "model.onnx",
            "gradcam": "model.gradcam.onnx",
            "explanation": "model.explain.onnx",
        }.items()
    }
    hashes = {kind: hashlib.sha256(path.read_bytes()).hexdigest() for kind, path in files.items()}
    assert checkpoint["weights_sha256"] == graph["weights_sha256"] == archive["weights_sha256"]
    assert len(checkpoint["weights_sha256"]) == 64
    assert archive["graphs"] == hashes
    assert graph["graphs"] == {"explanation": hashes["explanation"]}
    assert checkpoint["graphs"] == {}
    assert [set(one["versions"]) & {"torch", "onnxruntime"} for one in (checkpoint, graph, archive)] == [
        *({"torch"}, {"onnxruntime"}, {"onnxruntime"}),
    ]
    for engine, one in {"torch": checkpoint, "onnx": graph}.items():
        assert one["model"]["engine"] == engine


def test_the_weights_of_a_network_in_memory_may_change_and_have_no_hash(network):
    model = handler.wrap(network, preprocessing="resize=64 crop=64 mean=0,0,0 std=1,1,1")
    assert model.explain(ONE, maps="none").receipt()["weights_sha256"] is None


def test_a_picture_is_the_same_in_every_form(from_graph):
    pixels = decode(ONE.read_bytes())
    forms = [str(ONE), ONE, ONE.read_bytes(), pixels, Image.fromarray(pixels)]
    expected, *others = (from_graph.explain(form, maps="gradcam") for form in forms)
    for found in others:
        np.testing.assert_array_equal(found.logits, expected.logits)
        np.testing.assert_array_equal(found.draw(), expected.draw())


@pytest.mark.parametrize("picture", [pytest.param(np.zeros((8, 8), np.uint8), id="grey"), np.zeros((4, 4, 3)), 7, b""])
def test_what_is_no_picture_is_refused_with_what_is(from_graph, picture):
    with pytest.raises(RequestError, match=r"valid are|bytes"):
        from_graph.explain(picture)


def test_a_batch_has_a_target_for_each_picture(from_graph):
    pixels = decode(ONE.read_bytes())
    found = from_graph.explain_batch([pixels, pixels[:, ::-1]], targets=["heart", "top"], maps="gradcam")
    assert [one.explanations[0].target.label for one in found] == ["heart", found[1].predictions[0].label]
    alone = from_graph.explain(pixels[:, ::-1], maps="gradcam")
    np.testing.assert_allclose(found[1].logits, alone.logits, rtol=0, atol=1e-5)
    with pytest.raises(BadRequest, match="1 targets for 2 pictures"):
        from_graph.explain_batch([pixels, pixels], targets=["heart"])


@pytest.mark.parametrize("size", ["layer", "input", "image"])
def test_the_sheet_has_the_size_that_the_network_saw(from_graph, size):
    found = from_graph.explain(ONE, size=size)
    expected = from_graph.explain(ONE).sheet()
    np.testing.assert_array_equal(found.sheet(), expected)
    assert 'src="data:image/png;base64,' in found._repr_html_()


def test_a_prediction_graph_predicts_alone(shapes_graphs):
    model = handler.load(shapes_graphs / "model.onnx")
    assert model.explain(ONE).explanations == []
    assert model.predict(ONE, 1)[0].label == "star"
    with pytest.raises(RequestError, match="this graph holds no maps"):
        model.explain(ONE, maps="gradcam")


def test_five_classes_are_told_or_all_if_there_are_fewer(tmp_path):
    from tests.support.graphs import describe, write_graph

    model = GraphModel(write_graph(tmp_path, describe()))
    assert len(model.predict(np.zeros((4, 4, 3), np.uint8))) == 3


def test_a_graph_is_loaded_without_torch(shapes_graphs):
    code = (
        f"import sys, handler; model = handler.load({str(shapes_graphs / 'model.explain.onnx')!r})\n"
        f"assert model.explain({str(ONE)!r}).predictions[0].label == 'star'; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gone.onnx", "does not exist"),
        ("gone.mar", "does not exist"),
        ("gone.safetensors", "does not exist"),
        ("bad.mar", "is no TorchServe archive of this project"),
        ("bad.onnx", "cannot be loaded by ONNX Runtime"),
        ("bad.pth", "bad.pth"),
    ],
)
def test_what_cannot_be_loaded_is_told(tmp_path, name, said):
    if name.startswith("bad"):
        (tmp_path / name).write_bytes(b"<html>")
    with pytest.raises((ModelError, OSError), match=said) as refused:
        handler.load(tmp_path / name)
    assert "\n" not in str(refused.value)


def test_what_is_said_of_a_checkpoint_reaches_it():
    with pytest.raises(ModelError, match="scores 10 classes, but there are 2 labels"):
        handler.load(CHECKPOINT, labels=["a", "b"])
    with pytest.raises(ModelError, match="shufflenet_v2_x0_5, not of resnet18"):
        handler.load(CHECKPOINT, architecture="resnet18")


def test_the_state_dict_that_is_meant_can_be_said(from_checkpoint, tmp_path):
    with safe_open(CHECKPOINT, framework="pt") as file:
        told = file.metadata()
    state, how = load_file(CHECKPOINT), Preprocessing.from_json(told["preprocessing"])
    still = {name: torch.zeros_like(value) for name, value in state.items()}
    torch.save({"generator": still, "classifier": state}, tmp_path / "a.pth")
    said = {"architecture": told["architecture"], "labels": json.loads(told["labels"]), "preprocessing": how}
    with pytest.raises(ModelError, match="holds the state dicts generator, classifier; valid is state="):
        handler.load(tmp_path / "a.pth", **said)
    found = handler.load(tmp_path / "a.pth", state="classifier", **said).predict(ONE)
    assert found == from_checkpoint.predict(ONE)
    with pytest.raises(ModelError, match="says this itself: state cannot be given with a file .mar"):
        handler.load(tmp_path / "a.mar", state="classifier")


def test_tensors_are_explained_as_a_batch_and_alone(network):
    model = handler.wrap(network, layer="layer4")
    batch = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    found = model.explain(batch, target=[2], maps=["gradcam", "guided_backprop"])
    assert [one.explanations[0].target.index for one in found] == [2, 2, 2]
    alone = model.explain(batch[1], target=2, maps=["gradcam"])
    expected = network(batch)
    for one, scores in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.logits, scores.detach().numpy(), rtol=1e-4, atol=1e-5)
    maps = found[1].explanations[0].maps["gradcam"], alone.explanations[0].maps["gradcam"]
    np.testing.assert_allclose(maps[0].values, maps[1].values, rtol=0, atol=1e-5)


def test_a_network_is_left_as_it_is(network):
    def state():
        return (
            {name: value.clone() for name, value in network.state_dict().items()},
            [parameter.requires_grad for parameter in network.parameters()],
            [parameter.grad for parameter in network.parameters()],
            [len(part._forward_hooks) + len(part._backward_hooks) for part in network.modules()],
            [type(part) for part in network.modules()],
        )

    before = state()
    assert all(before[1])
    handler.wrap(network, preprocessing=f"resize={SIDE} crop={SIDE} mean=0,0,0 std=1,1,1").explain(ONE)
    with pytest.raises(RequestError, match="no label"):
        handler.wrap(network).explain(torch.zeros(3, SIDE, SIDE), target="zebra")
    after = state()
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:] == after[1:]


def test_layers_are_named_by_path_or_module(network):
    tensor = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    by_path, by_module = (
        handler.wrap(network, layer=layer).explain(tensor, maps=["gradcam"])
        for layer in (["layer3", "layer4"], [network.layer3, network.layer4])
    )
    np.testing.assert_array_equal(by_path.draw(), by_module.draw())
    assert by_path.explanations[0].layers == ("layer3", "layer4")
    for layer, said in (
        ("fc", "layer 'fc' has no map"),
        ("gone", "there is no such module"),
        (nn.ReLU(), "no module of"),
    ):
        with pytest.raises(ModelError, match=said):
            handler.wrap(network, layer=layer).explain(tensor)


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (ONE, "needs preprocessing="),
        (torch.zeros(17, SIDE, SIDE), "1 to 16 channels"),
        (torch.zeros(3, 0, SIDE), "1 to 16 channels"),
        (torch.zeros(3, SIDE, SIDE, dtype=torch.uint8), "float"),
    ],
)
def test_what_a_wrapped_network_cannot_take_is_refused(network, picture, said):
    with pytest.raises(RequestError, match=said):
        handler.wrap(network).explain(picture)


def test_a_network_in_training_mode_is_refused():
    with pytest.raises(ModelError, match=r"training mode; call eval\(\) first"):
        handler.wrap(resnet18(num_classes=5))


def test_labels_must_be_as_many_as_scores(network):
    with pytest.raises(ModelError, match="scores 5 classes, but there are 2 labels"):
        handler.wrap(network, labels=["a", "b"]).explain(torch.zeros(3, SIDE, SIDE))


def test_pictures_are_prepared_as_said(network):
    how = handler.Preprocessing(
        resize_size=SIDE + 8, crop_size=SIDE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    found = handler.wrap(network, preprocessing=how).explain(ONE, maps=["gradcam"])
    seen = preprocess(decode(ONE.read_bytes()), how)
    tensor = handler.wrap(network, preprocessing=how).explain(torch.from_numpy(seen.tensor), maps=["gradcam"])
    np.testing.assert_array_equal(found.logits, tensor.logits)
    np.testing.assert_allclose(tensor.canvas.seen.picture, seen.picture, atol=1)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"MAR-INF/MANIFEST.json": b"[]"}, "is no TorchServe archive of this project: TypeError"),
        ({"MAR-INF/MANIFEST.json": b"{"}, "is no TorchServe archive of this project: JSONDecodeError"),
        ({"model-config.yaml": b""}, "is no TorchServe archive of this project: TypeError"),
        ({"model.safetensors": None}, r"model\.safetensors does not exist"),
    ],
    ids=["no object", "no JSON", "empty settings", "no weights"],
)
def test_what_is_no_archive_of_this_project_is_told(shapes_archive, tmp_path, changed, said):
    with zipfile.ZipFile(shapes_archive) as whole, zipfile.ZipFile(tmp_path / "a.mar", "w") as altered:
        for name in whole.namelist():
            content = changed.get(name, whole.read(name))
            if content is not None:
                altered.writestr(name, content)
    with pytest.raises(ModelError, match=said):
        handler.load(tmp_path / "a.mar")


def test_an_archives_settings_choose_its_engine(shapes_archive, tmp_path):
    config = DEFAULT_CONFIG.read_text(encoding="utf-8").replace("engine: auto", "engine: torch")
    repacked(shapes_archive, tmp_path / "a.mar", config)
    assert handler.load(tmp_path / "a.mar").explain(ONE, maps="none").model["engine"] == "torch"


def test_an_archive_does_not_run_code_that_it_names(shapes_archive, tmp_path):
    state = load_file(CHECKPOINT)
    with safe_open(CHECKPOINT, "pt") as checkpoint:
        metadata = {**checkpoint.metadata(), "architecture": "tests.support.models:explode"}
    with zipfile.ZipFile(shapes_archive) as whole, zipfile.ZipFile(tmp_path / "a.mar", "w") as altered:
        for name in whole.namelist():
            altered.writestr(name, save(state, metadata) if name == "model.safetensors" else whole.read(name))
    with pytest.raises(ModelError, match="is of tests.support.models:explode; valid is architecture='tests"):
        handler.load(tmp_path / "a.mar")
    with pytest.raises(ModelError, match="the archive is of shufflenet_v2_x0_5"):
        handler.load(shapes_archive, architecture="resnet18")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"layer": 2}, "the layer 2 is no module of the network"),
        ({"labels": {0: "a"}}, "valid is a list of texts"),
        ({"labels": [1, 2]}, "valid is a list of texts"),
        ({"preprocessing": 64}, "valid is a Preprocessing or its text"),
    ],
)
def test_arguments_of_another_type_are_refused(network, said, message):
    with pytest.raises(ModelError, match=message):
        handler.wrap(network, **said)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (None, "NoneType is no network"),
        (nn.Conv2d(3, 4, 3).half().eval(), "weights of torch.float16, valid is float32"),
        (nn.Conv2d(3, 4, 3, device="meta").eval(), "has no weights"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), "no layer with a map"),
    ],
)
def test_what_is_no_network_is_refused(module, message):
    with pytest.raises(ModelError, match=message):
        handler.wrap(module, preprocessing="resize=32 crop=32 mean=0,0,0 std=1,1,1")


def test_a_network_that_goes_back_to_training_is_refused_and_its_statistics_stay(network):
    model = handler.wrap(network)
    model.explain(torch.zeros(3, SIDE, SIDE))
    before = network.bn1.running_mean.clone()
    network.train()
    try:
        with pytest.raises(ModelError, match="training mode"):
            model.explain(torch.ones(3, SIDE, SIDE))
    finally:
        network.eval()
    assert torch.equal(network.bn1.running_mean, before)


def test_threads_with_tensors_of_several_sizes_take_turns(network):
    model = handler.wrap(network)
    tensors = [torch.randn(3, side, side) for side in (SIDE, SIDE + 32) * 4]
    expected = [handler.wrap(network).explain(tensor, target=1).logits for tensor in tensors]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda tensor: model.explain(tensor, target=1).logits, tensors))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_batch_is_predicted_row_by_row_and_may_be_empty(network):
    batch = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    model = handler.wrap(network)
    assert [model.predict(row) for row in batch] == model.predict(batch)
    assert model.explain(batch[:0]) == []


def test_pictures_may_come_from_a_generator_and_options_from_numpy(from_checkpoint):
    results = from_checkpoint.explain_batch(
        (ONE for _ in range(2)), targets=np.array([1, 2]), top_k=np.int64(3), maps=["gradcam"]
    )
    assert [result.explanations[0].target.index for result in results] == [1, 2]
    assert [len(result.predictions) for result in results] == [3, 3]


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV", "RGBX", "P", "1", "L", "LA", "RGBA", "RGBa", "La"])
def test_pillow_images_of_every_mode_are_read(from_checkpoint, mode):
    picture = Image.open(ONE)
    if mode in ("RGBa", "La"):
        picture = picture.convert(mode.upper())
    assert len(from_checkpoint.predict(picture.convert(mode))) == 5


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Image.new("I", (8, 8)), "nothing says which are black"),
        (Image.new("F", (8, 8)), "nothing says which are black"),
        (Image.new("RGB", (0, 0)), "0x0 pixels"),
        (Image.open(io.BytesIO(ONE.read_bytes()[:5000])), "truncated"),
    ],
)
def test_pillow_images_without_a_meaning_are_refused(from_checkpoint, picture, message):
    with pytest.raises(RequestError, match=message):
        from_checkpoint.predict(picture)


def test_a_device_that_does_not_exist_is_refused():
    with pytest.raises(ModelError, match="cannot be moved to the device 'nowhere'"):
        handler.load(CHECKPOINT, device="nowhere")


def test_every_kind_of_graph_predicts(shapes_graphs):
    expected = GraphModel(shapes_graphs / "model.onnx").predict(ONE)
    for file in ("model.gradcam.onnx", "model.explain.onnx"):
        found = GraphModel(shapes_graphs / file).predict(ONE)
        assert [prediction.label for prediction in found] == [prediction.label for prediction in expected]
        for one, other in zip(found, expected, strict=True):
            assert one.probability == pytest.approx(other.probability, abs=1e-6)
