"""Attention with constants against torchvision's own, in float64, and the graphs that are exported with it."""

import functools

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torchvision.models.maxvit import MaxVit
from torchvision.models.swin_transformer import (
    PatchMergingV2,
    ShiftedWindowAttention,
    SwinTransformer,
    SwinTransformerBlockV2,
)
from torchvision.models.vision_transformer import VisionTransformer

from export.graphs.exporters import export_explanation, export_gradcam
from export.simplify.attention import with_constants
from export.simplify.flatten import NotApplicable
from handler.autograd.torch_engine import TorchEngine
from handler.explanation.evidence import TOP, Needs
from handler.graphs.description import KIND_SALIENCY
from handler.graphs.session import GraphSession
from handler.model.classifier import Classifier
from handler.model.layers.find import find_layers
from handler.picture.preprocess import Preprocessing

CLASSES = 5
_SWIN = {
    "patch_size": [4, 4],
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": [4, 4],
    "num_classes": CLASSES,
}
NETWORKS = {
    "swin": functools.partial(SwinTransformer, **_SWIN),
    "swin_v2": functools.partial(
        SwinTransformer, **_SWIN, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2
    ),
    "vit": lambda: VisionTransformer(32, 8, 2, 2, 8, 16, num_classes=CLASSES),
    "maxvit": lambda: MaxVit((64, 64), 8, 2, [8, 16], [1, 1], 4, 0.0, num_classes=CLASSES),
}
SIDES = {"vit": 32, "maxvit": 64}


def network(name):
    """With weights so large that attention is far from uniform, and masks and biases matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = NETWORKS[name]().eval()
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.5 if parameter.dim() > 1 else 0.2)
        for layer in module.modules():
            if isinstance(layer, nn.LayerNorm | nn.BatchNorm2d):
                nn.init.ones_(layer.weight)
    return module.requires_grad_(False)


def gradient(module, pictures):
    pictures = pictures.clone().requires_grad_(True)
    scores = module(pictures)
    return scores.detach(), torch.autograd.grad((scores * torch.linspace(-1, 1, CLASSES)).sum(), pictures)[0]


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("swin", 64),  # whole windows
        ("swin", 36),  # 9 by 9 cells: windows and patches are padded
        ("swin", 16),  # one window, so that nothing is shifted
        ("swin_v2", 64),
        ("swin_v2", 36),
        ("vit", 32),
        ("maxvit", 64),
    ],
)
def test_scores_and_gradients_are_torchvisions(name, side):
    module = network(name).double()
    pictures = torch.randn(2, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    changed = with_constants(module, pictures)
    for found, expected in zip(gradient(changed, pictures), gradient(module, pictures), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    assert any(isinstance(layer, ShiftedWindowAttention) for layer in module.modules()) == name.startswith("swin")
    kinds = (ShiftedWindowAttention, nn.MultiheadAttention)
    assert not any(isinstance(layer, kinds) for layer in changed.modules())


def test_attention_that_is_not_torchvisions_stays():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MultiheadAttention(4, 2)).eval()
    with pytest.raises(NotApplicable, match="nothing to change"):
        with_constants(module, torch.zeros(2, 3, 8, 8))


@functools.cache
def small_transformer(name):
    side = SIDES.get(name, 64)
    module, how = network(name), Preprocessing(resize_size=side, crop_size=side, mean=(0.5,) * 3, std=(0.25,) * 3)
    found = find_layers(module, name, (3, side, side))
    labels = [f"class {index}" for index in range(CLASSES)]
    return Classifier(
        module=module,
        architecture=name,
        labels=labels,
        preprocessing=how,
        layers=found.layers,
        default_layer=found.default_layer,
        views=found.views,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_transformers_whole_explanation_is_a_graph(name, tmp_path):
    """``export_explanation`` compares it on fresh pictures at batch 1, 3 and 8; here once more, by hand."""
    classifier = small_transformer(name)
    export_explanation(classifier, tmp_path / "a.onnx")
    graph = GraphSession.open(tmp_path / "a.onnx")
    assert graph.description.kind == KIND_SALIENCY
    pictures = np.random.default_rng(3).standard_normal((3, 3, *[classifier.preprocessing.crop_size] * 2))
    pictures, layer = pictures.astype(np.float32), classifier.default_layer
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    feeds = {"input": pictures, "target": np.array([TOP, 2, 0])}
    gradients, saliency = session.run(["gradients", "saliency"], feeds)
    expected = TorchEngine(classifier).run(pictures, [[TOP], [2], [0]], Needs(layers=(layer,), saliency=True))
    for found, its in ((gradients, expected.layers[layer].gradient), (saliency, expected.saliency)):
        np.testing.assert_allclose(found, its, rtol=0, atol=3e-5 * np.abs(its).max())


@pytest.mark.slow
def test_a_transformers_gradcam_alone_is_a_smaller_graph(tmp_path):
    classifier = small_transformer("swin")
    export_gradcam(classifier, tmp_path / "small.onnx")
    export_explanation(classifier, tmp_path / "whole.onnx")
    assert (tmp_path / "small.onnx").stat().st_size < (tmp_path / "whole.onnx").stat().st_size
