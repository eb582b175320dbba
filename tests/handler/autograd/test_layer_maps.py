import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from handler.autograd.layer_maps import CHANNELS_FIRST, ChannelLayout, captured
from handler.autograd.torch_engine import TorchEngine
from handler.explanation.evidence import Needs
from handler.explanation.gradient_cams import gradcam
from handler.explanation.maps import combine
from tests.support.models import random_classifier, random_inputs

CHANNELS_LAST = ChannelLayout(channel_axis=3)


def tokens(first: int = 0, **how: object) -> ChannelLayout:
    return ChannelLayout(channel_axis=2, grid=(3, 4), first_token=first, **how)


@pytest.mark.parametrize(
    ("view", "shape", "maps"),
    [
        (CHANNELS_FIRST, (2, 5, 3, 4), (2, 5, 3, 4)),
        (CHANNELS_LAST, (2, 3, 4, 5), (2, 5, 3, 4)),
        (ChannelLayout(transposed=True), (2, 5, 4, 3), (2, 5, 3, 4)),
        (ChannelLayout(channel_axis=2), (2, 3, 5, 4), (2, 5, 3, 4)),
        (ChannelLayout(runs=((True, True),)), (2, 5, 3, 4), (2, 5, 3, 4)),
        (tokens(), (2, 12, 5), (2, 5, 3, 4)),
        (tokens(1), (2, 13, 5), (2, 5, 3, 4)),
        (tokens(5), (2, 19, 5), (2, 5, 3, 4)),
        (tokens(transposed=True), (2, 12, 5), (2, 5, 3, 4)),
        (tokens(runs=((False, True),)), (2, 12, 5), (2, 5, 3, 4)),
        (ChannelLayout(batch_axis=1, channel_axis=2, grid=(3, 4), first_token=1), (13, 2, 5), (2, 5, 3, 4)),
        (ChannelLayout(grid=(3, 4)), (2, 5, 12), (2, 5, 3, 4)),
    ],
)
def test_there_and_back_again(view, shape, maps):
    output = torch.randn(shape)
    seen = view.to_maps(output)
    assert seen.shape == maps
    assert torch.equal(view.from_maps(seen, output), output)
    assert torch.equal(view.to_maps(view.from_maps(seen + 1, output)), seen + 1)


def test_cells_keep_their_places():
    output = torch.arange(2 * 13).reshape(1, 13, 2)
    assert tokens(1).to_maps(output)[0, 1, 2, 0] == output[0, 1 + 2 * 4, 1]
    assert tokens(1, transposed=True).to_maps(output)[0, 1, 2, 0] == output[0, 1 + 2, 1]
    assert tokens(1, runs=((True, False),)).to_maps(output)[0, 1, 2, 0] == output[0, 1, 1]
    assert tokens(1, runs=((False, True),)).to_maps(output)[0, 1, 2, 0] == output[0, 1 + 2 * 4 + 3, 1]
    assert (
        ChannelLayout(batch_axis=1, channel_axis=2, grid=(3, 4), first_token=1).to_maps(output.transpose(0, 1))[
            0, 1, 2, 0
        ]
        == output[0, 1 + 2 * 4, 1]
    )
    assert CHANNELS_LAST.to_maps(output[:, 1:].reshape(1, 3, 4, 2))[0, 1, 2, 3] == output[0, 12, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "layer", "view"),
    [
        (
            "vit_b_32",
            "encoder.layers.encoder_layer_11.ln_1",
            ChannelLayout(batch_axis=0, channel_axis=2, grid=(4, 4), first_token=1),
        ),
        ("swin_t", "norm", CHANNELS_LAST),
        ("swin_v2_t", "norm", CHANNELS_LAST),
        ("convnext_tiny", "features", None),
    ],
)
def test_the_automatic_layer_of_transformers(architecture, layer, view):
    classifier = random_classifier(architecture, side=128)
    assert classifier.default_layer == layer
    assert classifier.views.get(layer) == view
    assert classifier.layers[layer][1:] == (4, 4)


def test_tokens_that_the_score_does_not_read_are_no_maps():
    classifier = random_classifier("vit_b_32", side=128)
    assert "encoder.layers.encoder_layer_11.mlp" not in classifier.layers
    assert "encoder.ln" not in classifier.layers
    assert "encoder.layers.encoder_layer_10.mlp" in classifier.layers


@pytest.mark.slow
def test_parts_of_windows_are_no_maps():
    classifier = random_classifier("maxvit_t", side=224)
    assert classifier.default_layer == "blocks.3"
    assert classifier.layers["blocks.3"] == (512, 7, 7)
    assert not any("attn_layer" in path for path in classifier.layers)


@pytest.mark.parametrize(
    ("architecture", "layer"),
    [
        ("vit_b_32", "encoder.layers.encoder_layer_11.ln_1"),
        ("vit_b_32", "encoder.layers.encoder_layer_5"),
        ("swin_t", "norm"),
        ("swin_t", "features.5.3.norm1"),
    ],
)
def test_grad_cam_equals_the_librarys_with_its_reshaping(architecture, layer):
    classifier = random_classifier(architecture, side=128)
    pictures = random_inputs(2, side=128)

    def reshape(output: torch.Tensor) -> torch.Tensor:
        if output.dim() == 3:
            output = output[:, 1:].reshape(len(output), 4, 4, -1)
        return output.permute(0, 3, 1, 2)

    evidence = TorchEngine(classifier).run(pictures, [[3], [7]], Needs(layers=(layer,))).layers[layer]
    found = gradcam(evidence.activation, evidence.gradient)
    module = classifier.module.requires_grad_(True)
    targets = [ClassifierOutputTarget(3), ClassifierOutputTarget(7)]
    try:
        with GradCAM(module, [module.get_submodule(layer)], reshape_transform=reshape) as peer:
            expected = peer(torch.from_numpy(pictures), targets)
    finally:
        module.requires_grad_(False)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(other, combine([one], 128, 128), rtol=0, atol=1e-5)


def test_the_network_continues_with_the_maps():
    classifier = random_classifier("vit_b_32", side=128)
    layer = classifier.default_layer
    pictures = torch.from_numpy(random_inputs(1, side=128))
    with captured(classifier.module, [layer], classifier.views) as kept:
        scores = classifier.module(pictures)
    torch.testing.assert_close(scores, classifier.module(pictures))
    (gradient,) = torch.autograd.grad(scores[0, 0], kept[layer][0])
    assert gradient.shape == kept[layer][0].shape == (1, 768, 4, 4)
    assert gradient.abs().max() > 0


class RewritesBehindAnIdentity(nn.Module):
    def __init__(self):
        super().__init__()
        self.identity = nn.Identity()

    def forward(self, x):
        same = self.identity(x)
        x.relu_()
        return same + x


def test_what_an_identity_returned_is_kept_though_its_input_is_rewritten():
    module, inputs = RewritesBehindAnIdentity(), torch.tensor([[-1.0, 2.0]])
    with captured(module, ["identity"]) as kept:
        module(inputs.clone())
    assert torch.equal(kept["identity"][0], inputs)
    assert not module.identity._forward_hooks


def test_every_run_of_a_layer_is_kept_that_counts():
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 2)
    module = nn.Sequential(layer, layer, layer)
    with captured(module, ["0"]) as kept:
        module(torch.ones(1, 1, 1, 1))
    assert [one.item() for one in kept["0"]] == [2, 4, 8]
    with captured(module, ["0"], {"0": ChannelLayout(runs=(None, (False, False), None))}) as kept:
        module(torch.ones(1, 1, 1, 1))
    assert [one.item() for one in kept["0"]] == [4]


class ReturnsADictionary(nn.Module):
    def forward(self, x):
        return {"scores": x.sum((1, 2, 3)), "maps": (x * 2,)}


def test_a_tensor_among_several_is_kept_and_goes_on():
    module = nn.Sequential(ReturnsADictionary())
    with captured(module, ["0"], {"0": ChannelLayout(element=1)}) as kept:
        output = module(torch.ones(1, 1, 2, 2))
    assert torch.equal(kept["0"][0], 2 * torch.ones(1, 1, 2, 2))
    (gradient,) = torch.autograd.grad(output["maps"][0].sum(), kept["0"][0])
    assert torch.equal(gradient, torch.ones(1, 1, 2, 2))
