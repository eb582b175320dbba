"""Graphs that take pictures as they are: their input beside that of ``preprocess``, their scores beside PyTorch's."""

import re
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import scipy
import torch
from onnx import TensorProto, helper
from PIL import Image
from torch import nn
from torchvision.transforms import functional

import handler
from deploy.devices.forms import Form
from deploy.devices.pictures import take_pictures
from export.__main__ import main
from export.graphs import exporters
from export.graphs.exporters import export_graph
from handler.errors import ModelError
from handler.graphs.session import GraphSession
from handler.model.checkpoint import Checkpoint, write_checkpoint
from handler.picture.preprocess import Preprocessing, preprocess
from tests.support.graphs import describe, make_graph
from tests.support.models import random_classifier, tiny_classifier

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
FILTERS = "nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"
HOWS = {
    **{name: Preprocessing(resize_size=72, crop_size=64, interpolation=name, **IMAGENET) for name in FILTERS},
    **{
        f"{name}, crop first": Preprocessing(
            resize_size=73, crop_size=64, interpolation=name, crop_first=True, **IMAGENET
        )
        for name in (*FILTERS, "area")
    },
    "ImageNet": Preprocessing(resize_size=256, crop_size=224, **IMAGENET),
    "EfficientNet-B2": Preprocessing(resize_size=288, crop_size=288, interpolation="bicubic", **IMAGENET),
    "squash": Preprocessing(resize_size=64, crop_size=57, interpolation="bicubic", crop_mode="squash", **IMAGENET),
    "border": Preprocessing(resize_size=60, crop_size=60, interpolation="bicubic", crop_mode="border", **IMAGENET),
    "border, cut": Preprocessing(resize_size=(90, 61), crop_size=(80, 61), crop_mode="border", **IMAGENET),
    "covered": Preprocessing(resize_size=(64, 35), crop_size=(50, 35), interpolation="lanczos", **IMAGENET),
    "covered, crop first": Preprocessing(
        resize_size=(64, 35), crop_size=(50, 33), interpolation="area", crop_first=True, **IMAGENET
    ),
    "grey": Preprocessing(resize_size=40, crop_size=33, mean=(0.5,), std=(0.25,)),
    "five bands": Preprocessing(resize_size=40, crop_size=33, mean=(0.5,) * 5, std=(0.25,) * 5),
}
# a pixel, strips, what is resized to its own size, what has ties, what Pillow 13 resizes vertically first
SIZES = [(1, 1), (1, 90), (90, 1), (64, 64), (72, 96), (375, 500), (500, 375), (144, 108), (600, 150), (3, 2)]


def picture_of(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Noise, in half of the pictures of black and white alone, beside which filters overshoot."""
    rng = np.random.default_rng([height, width, seed])
    noise = rng.integers(0, 256, (height, width, channels), np.uint8)
    return noise if (height + width) % 2 else np.where(noise > 127, np.uint8(255), np.uint8(0))


def open_input(how: Preprocessing) -> onnxruntime.InferenceSession:
    """A graph whose output ``seen`` is its input."""
    seen = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *how.shape]) for name in ("input", "seen")]
    graph = helper.make_graph([helper.make_node("Identity", ["input"], ["seen"])], "seen", seen[:1], seen[1:])
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    model = take_pictures(plain, how)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in plain.graph.input] == ["input"]
    return onnxruntime.InferenceSession(model.SerializeToString())


def assert_equal(session: onnxruntime.InferenceSession, how: Preprocessing, picture: np.ndarray) -> None:
    expected = preprocess(picture, how)
    seen, crop = session.run(["seen", "crop"], {"picture": picture})
    assert (seen.dtype, seen.shape) == (np.float32, (1, *how.shape))
    levels = (seen[0].transpose(1, 2, 0) * np.array(how.std) + how.mean) * 255
    assert np.abs(levels - np.rint(levels)).max() < 0.01
    equal = how.interpolation in ("nearest", "bicubic", "lanczos")
    assert np.abs(np.rint(levels) - expected.picture).max() <= (0 if equal else 1), picture.shape
    same = np.rint(levels).astype(np.uint8) == expected.picture
    assert np.array_equal(seen[0][same.transpose(2, 0, 1)], expected.tensor[same.transpose(2, 0, 1)])
    top, left, bottom, right = expected.crop.box
    np.testing.assert_allclose(crop, [left, top, right - left, bottom - top], rtol=1e-6, atol=1e-6 * max(picture.shape))
    assert crop.dtype == np.float32


@pytest.mark.parametrize("name", HOWS)
def test_the_input_is_within_one_grey_level(name):
    how = HOWS[name]
    session = open_input(how)
    sizes = np.random.default_rng(len(name)).integers(1, 400, (12, 2)).tolist()
    for height, width in [*SIZES, *sizes]:
        assert_equal(session, how, picture_of(height, width, how.channels))


@pytest.mark.parametrize("size", [(2500, 3500), (1, 30000), (40000, 1)])
def test_large_pictures_and_long_strips_too(size):
    how = HOWS["ImageNet"]
    assert_equal(open_input(how), how, picture_of(*size))


def test_other_inputs_are_refused_in_words():
    session = open_input(HOWS["bilinear"])
    for picture, words in (
        (picture_of(5, 6).astype(np.float32), "Actual: (tensor(float)) , expected: (tensor(uint8))"),
        (picture_of(5, 6, 4), "Got: 4 Expected: 3"),
        (picture_of(5, 6)[None], "Invalid rank for input: picture Got: 4 Expected: 3"),
    ):
        with pytest.raises(Exception, match=re.escape(words)):
            session.run(None, {"picture": picture})
    model = make_graph(describe(), inputs=["activations"], outputs=["logits"])
    with pytest.raises(ModelError, match="has the inputs activations, needed are input"):
        take_pictures(model, HOWS["bilinear"])


@pytest.mark.parametrize("architecture", ["shufflenet_v2_x0_5", "mobilenet_v3_small"])
def test_scores_are_those_of_torchvisions_transforms_and_pytorch(architecture, tmp_path):
    classifier, checkpoint = random_classifier(architecture), tmp_path / "a.safetensors"
    how, state = classifier.preprocessing, classifier.module.state_dict()
    labels = classifier.labels
    write_checkpoint(checkpoint, Checkpoint(architecture=architecture, labels=labels, preprocessing=how, state=state))
    source = ["--checkpoint", str(checkpoint)]
    assert main(["prediction", *source, "--store", str(tmp_path / "store"), "--name", "a", "--pictures"]) == 0
    (path,) = (tmp_path / "store").iterdir()
    assert path.name == "a.pictures.onnx"
    session = onnxruntime.InferenceSession(path)
    for height, width in ((72, 130), (90, 72), (230, 190)):  # the last is resized, so that pixels may be a level off
        smooth = Image.fromarray(picture_of(9, 8)).resize((width, height), Image.Resampling.BICUBIC)
        resized = functional.center_crop(functional.resize(smooth, how.resize_size), how.crop_size)
        inputs = functional.normalize(functional.to_tensor(resized), how.mean, how.std)
        with torch.no_grad():
            expected = classifier.module(inputs[None]).numpy()
        logits, probabilities = session.run(["logits", "probabilities"], {"picture": np.asarray(smooth)})
        assert logits.argmax() == expected.argmax()
        if how.resize_size in (height, width):
            np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
            np.testing.assert_allclose(probabilities, scipy.special.softmax(expected, axis=1), atol=1e-5)
    assert "the input is within one grey level" in GraphSession.open(path).description.verification
    assert main(["verify", str(path), *source]) == 0


@pytest.fixture(scope="module")
def both(whole_graphs, tmp_path_factory):
    """The embedded model's graph of explanations, and the same behind preprocessing."""
    plain, path = whole_graphs / "model.explain.onnx", tmp_path_factory.mktemp("graph") / "a.pictures.explain.onnx"
    model = take_pictures(onnx.load(plain), GraphSession.open(plain).description.preprocessing)
    model.metadata_props.add(key="takes", value="picture")
    onnx.save(model, path)
    return plain, path


def test_the_client_answers_with_such_a_graph_as_with_the_other(both):
    found = [
        handler.load(path).explain("examples/shapes/two.jpg", target=["heart", "arrow"], maps="all") for path in both
    ]
    plain, pictures = (
        [one for explanation in result.explanations for one in explanation.maps.items()] for result in found
    )
    assert [name for name, _ in pictures] == [name for name, _ in plain]
    for (_, values), (_, expected) in zip(pictures, plain, strict=True):
        np.testing.assert_array_equal(values.values, expected.values)


def test_maps_lie_where_the_crop_says(both):
    picture = np.asarray(Image.open("examples/shapes/two.jpg").convert("RGB"))[:, :400]
    (result,) = handler.load(both[0]).explain_batch([picture], maps=["gradcam"])
    session = onnxruntime.InferenceSession(both[1])
    logits, crop = session.run(["logits", "crop"], {"picture": picture, "target": np.array([-1])})
    np.testing.assert_allclose(logits[0], result.logits, atol=1e-2 * np.abs(result.logits).max())
    top, left, bottom, right = result.canvas.seen.crop.box
    assert crop.tolist() == pytest.approx([left, top, right - left, bottom - top])


def test_without_onnx_the_client_says_what_is_missing(both, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModelError, match="install the package onnx, or take a graph .* without --pictures"):
        handler.load(both[1])


def test_nothing_is_written_if_the_preprocessing_differs(tmp_path, monkeypatch):
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    classifier = replace(tiny_classifier(net), preprocessing=HOWS["bicubic"])
    assert export_graph(classifier, tmp_path / "a.onnx", "prediction", Form(pictures=True))
    monkeypatch.setattr(exporters, "take_pictures", lambda model, _how: take_pictures(model, HOWS["bilinear"]))
    with pytest.raises(ModelError, match="375x500 pixels the graph differs in the input in grey levels by"):
        export_graph(classifier, tmp_path / "a.onnx", "prediction", Form(pictures=True))
    assert not [*tmp_path.iterdir()]
