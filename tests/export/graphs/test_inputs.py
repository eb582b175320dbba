"""Networks whose pictures are no RGB squares: maps, sheets, layers and graphs."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

import handler
from handler.client.model import GraphModel
from handler.errors import BadRequest, ModelError
from handler.model.checkpoint import Checkpoint
from handler.model.classifier import build_classifier, of_module
from handler.model.layers.find import find_layers
from handler.model.sources import complete
from handler.picture.preprocess import Preprocessing
from handler.rendering.render import deprocess
from tests.support.exports import EXPORTERS

HEIGHT, WIDTH = 48, 96
LABELS = ["left", "right"]


def how(channels=3, **said):
    known = {"resize_size": (HEIGHT, WIDTH), "crop_size": (HEIGHT, WIDTH), "mean": (0.5,) * channels}
    return Preprocessing(**{**known, "std": (0.25,) * channels, **said})


def network(channels=3):
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(channels, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()


def picture(channels, height=60, width=110, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def npy(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 16])
def test_maps_have_the_networks_channels_and_show_three(channels):
    model = handler.wrap(network(channels), labels=LABELS, preprocessing=how(channels))
    image = picture(channels)
    found = model.explain(npy(image), target="left", maps="all", size="image")
    assert model.explain(image, maps="none").to_dict()["predictions"] == found.to_dict()["predictions"]
    arrays = np.load(io.BytesIO(found.to_npz()))
    assert arrays["saliency"].shape == (1, 60, 110, channels)
    assert found.canvas.seen.crop.to_dict()["image"] == [60, 110]
    explained = model.explain(image, target="left", maps=["gradcam", "saliency", "guided_backprop"])
    sheet = explained.sheet()
    made = explained.explanations[0].maps
    assert made["saliency"].values.shape == (HEIGHT, WIDTH, channels)
    three = made["saliency"].values[:, :, [0, 1, 2] if channels > 2 else [0, 0, 0]]
    np.testing.assert_array_equal(explained.draw(0, "saliency"), deprocess(three))
    shown = np.array([0, 1, 2] if channels > 2 else [0, 0, 0])
    drawn = explained.canvas.seen.picture[:, :, shown]
    factor = -(-192 // WIDTH)  # by which the sheet enlarges pictures so small
    drawn = drawn.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = drawn.shape[:2]
    places = [(top, left) for top in range(100) for left in range(9)]
    assert any(np.array_equal(sheet[top : top + height, left : left + width], drawn) for top, left in places)
    assert found.draw(0, "gradcam").shape == (60, 110, 3)
    assert found.draw(0, "saliency").shape == (60, 110, 3)
    assert found.to_dict()["explanations"][0]["maps"]["saliency"]["shape"] == [60, 110, 3]


def test_the_networks_order_of_channels_is_the_files():
    """The score of a network that reads its third channel alone follows the file's third band."""
    net = network(5)
    with torch.no_grad():
        net[0].weight[:, [0, 1, 3, 4]] = 0
    model = handler.wrap(net, labels=LABELS, preprocessing=how(5))
    image = picture(5)
    same, other = image.copy(), image.copy()
    same[:, :, [0, 1, 3, 4]] = 7
    other[:, :, 2] = 7
    scores = [model.explain(npy(one), maps="none").logits for one in (image, same, other)]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert np.abs(scores[0] - scores[2]).max() > 1e-3
    saliency = model.explain(npy(image), maps="saliency").explanations[0].maps["saliency"].values
    assert saliency[:, :, 2].any()
    assert not saliency[:, :, [0, 1, 3, 4]].any()


@pytest.mark.parametrize(("down", "across"), [(0, 0), (24, 0), (0, 48), (24, 60)])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_a_rectangles_map_follows_a_moved_object_along_both_axes(down, across, mode):
    net = network()
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.Conv2d):  # what is bright stays bright
                layer.weight.abs_()
                layer.bias.zero_()
        net[-1].weight[:] = torch.tensor([[1.0], [-1.0]])
    model = handler.wrap(net, labels=LABELS, preprocessing=how(mean=(0.0,) * 3, std=(1.0,) * 3, crop_mode=mode))
    image = np.zeros((60, 120, 3), np.uint8)
    image[10 + down : 22 + down, 20 + across : 32 + across] = 255
    values = model.explain(image, target="left", maps="gradcam", size="image").explanations[0].maps["gradcam"]
    found = np.load(io.BytesIO(model.explain(image, target="left", maps="gradcam", size="image").to_npz()))["gradcam"][
        0
    ]
    assert values.values.shape == (HEIGHT, WIDTH)
    rows, columns = np.mgrid[:60, :120]
    weights = np.nan_to_num(found)
    centre = (weights * rows).sum() / weights.sum(), (weights * columns).sum() / weights.sum()
    np.testing.assert_allclose(centre, (16 + down, 26 + across), atol=2)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_picture_of_one_pixel_is_explained(size, channels):
    model = handler.wrap(network(channels), labels=LABELS, preprocessing=how(channels))
    found = model.explain(picture(channels, *size), size="image", maps="all", target="left")
    assert np.load(io.BytesIO(found.to_npz()))["gradcam"].shape == (1, *size)
    assert model.explain(picture(channels, *size)).sheet().shape[2] == 3


def test_uploads_become_grey_for_a_grey_network():
    model = handler.wrap(network(1), labels=LABELS, preprocessing=how(1))
    image = Image.fromarray(picture(3))
    file = io.BytesIO()
    image.save(file, "PNG")
    expected = model.explain(np.asarray(image.convert("L"))[:, :, None], maps="none").logits
    for given in (image, image.convert("L"), file.getvalue()):
        np.testing.assert_array_equal(model.explain(given, maps="none").logits, expected)
    with pytest.raises(BadRequest, match=r"uint8 \(60, 110, 3\) is no picture; valid are .*uint8 \(H, W, 1\)"):
        model.explain(picture(3))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", ["prediction", "explanation", "saliency", "behind", "layers"])
def test_graphs_take_rectangles_of_any_channels(channels, kind, tmp_path):
    net = network(channels).requires_grad_(False)
    classifier = of_module(net, "odd", LABELS, how(channels))
    EXPORTERS[kind](classifier, tmp_path / "graph.onnx")
    if kind == "behind":
        return
    model, image = GraphModel(tmp_path / "graph.onnx"), npy(picture(channels))
    assert model.card.preprocessing == classifier.preprocessing
    maps = [name for name in ("saliency", "guided_backprop") if name in model.card.maps] or "none"
    found, expected = (one.explain(image, maps=maps) for one in (model, handler.wrap(net, preprocessing=how(channels))))
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)
    for made, wanted in zip(found.explanations, expected.explanations, strict=True):
        for name, drawn in wanted.maps.items():
            np.testing.assert_allclose(made.maps[name].values, drawn.values, atol=1e-5)


def test_graphs_of_attention_take_rectangles():
    """The tokens' grid is found by the picture's ratio, in either order of rows and columns."""
    for channels_last in (False, True):
        net = Patches(channels_last).eval().requires_grad_(False)
        found = find_layers(net, "odd", (3, 32, 64))
        assert found.layers["tokens"] == (8, 4, 8)
        assert found.views["tokens"].transposed is channels_last


class Patches(nn.Module):
    """Patches of 8 pixels as tokens behind a class token, row by row or column by column."""

    def __init__(self, by_column):
        super().__init__()
        torch.manual_seed(0)
        self.by_column, self.patch, self.tokens = by_column, nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 8)
        self.read, self.head = nn.Linear(8, 8), nn.Linear(8, 3)
        self.first = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x):
        cells = self.patch(x)
        cells = cells.transpose(2, 3) if self.by_column else cells
        tokens = torch.cat([self.first.expand(len(x), -1, -1), cells.flatten(2).transpose(1, 2)], 1)
        tokens = self.tokens(tokens).tanh()
        return self.head(self.read(tokens).relu().mean(1))


def test_torchvisions_networks_take_other_channels_and_rectangles():
    known = Checkpoint(architecture="resnet18", labels=LABELS, preprocessing=None, state={})
    described = complete(known, preprocessing="input=64x96 channels=4 mean=0.5 std=0.25")
    assert described.preprocessing.shape == (4, 64, 96)
    module = torchvision.models.resnet18(num_classes=2)
    module.conv1 = nn.Conv2d(4, 64, 7, 2, 3, bias=False)
    classifier = build_classifier(replace(described, state=module.state_dict()))
    assert classifier.layers[classifier.default_layer] == (512, 2, 3)
    tensor = torch.randn(2, 4, 64, 96)
    torch.testing.assert_close(classifier.module(tensor), module.eval()(tensor))


def test_channels_without_a_mean_for_each_are_refused():
    known = Checkpoint(architecture="resnet18", labels=LABELS, preprocessing=None, state={})
    with pytest.raises(ModelError, match="has 1 channels and 3 values of mean, valid are"):
        complete(known, preprocessing="channels=1")


def test_the_description_says_shape_and_channels():
    said = handler.wrap(network(4), labels=LABELS, preprocessing=how(4)).card.description("torch")["input"]
    assert said == {"size": [HEIGHT, WIDTH], "channels": 4, "preprocessing": how(4).describe()}
    assert set(handler.wrap(network(), preprocessing=how()).card.description("torch")["input"]) == {
        "size",
        "preprocessing",
    }


def test_tensors_of_any_shape_are_explained_by_a_wrapped_network():
    model = handler.wrap(network(2))
    assert model.explain(torch.rand(2, 40, 64)).sheet().shape[2] == 3
    with pytest.raises(ModelError, match="fails on a picture"):
        model.explain(torch.rand(3, 40, 64))


@pytest.mark.parametrize(
    "method", ["expected_gradients", "integrated_gradients", "smoothgrad", "occlusion", "scorecam"]
)
def test_methods_of_many_passes_take_many_channels(method):
    model = handler.wrap(network(5), labels=LABELS, preprocessing=how(5))
    made = model.explain(picture(5), method=method, passes=6)
    assert made.explanations[0].maps["gradcam"].values.shape == (HEIGHT, WIDTH)
