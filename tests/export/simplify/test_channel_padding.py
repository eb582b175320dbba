import copy

import pytest
import torch
from torch import nn

from export.simplify.batch_norms import fold_batch_norms
from export.simplify.channel_padding import MULTIPLE, pad_channels
from tests.support.models import random_classifier


def branch(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, channels, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False),
        nn.ReLU6(),
        nn.Conv2d(channels, 5, 1),
        nn.Flatten(),
    ).eval()


@pytest.mark.parametrize("channels", [2, 5, 7, 122])
def test_the_branch_is_padded_and_the_scores_are_the_same(channels):
    module = branch(channels)
    padded = pad_channels(module)
    wide = padded[0].out_channels
    assert wide % MULTIPLE == 0
    assert channels < wide < channels + MULTIPLE
    assert padded(torch.zeros(1, 3, 4, 4)).shape == (1, 20)
    assert padded[2].groups == padded[2].in_channels == padded[2].out_channels == padded[4].in_channels == wide
    pictures = torch.randn(2, 3, 9, 8)
    torch.testing.assert_close(padded(pictures), module(pictures), rtol=0, atol=1e-6)


def test_the_gradient_at_the_input_is_the_same():
    module = branch(5)
    pictures = torch.randn(2, 3, 9, 8, requires_grad=True)
    expected, found = (torch.autograd.grad(one(pictures).sum(), pictures)[0] for one in (module, pad_channels(module)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_what_fits_stays_as_it_is_and_so_does_the_module_given():
    module = branch(MULTIPLE)
    assert pad_channels(module)[0].out_channels == MULTIPLE
    module = branch(5)
    before = copy.deepcopy(module.state_dict())
    pad_channels(module)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("kept", ["0", "1", "2", "3"])
def test_a_chain_with_a_kept_layer_is_not_padded(kept):
    assert pad_channels(branch(5), keep=[kept])[0].out_channels == 5
    assert pad_channels(branch(5), keep=["4"])[0].out_channels == MULTIPLE  # only its input is padded


class Shared(nn.Module):
    """The channels between the convolutions are read by something else, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 5, 1)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        inner = self.first(pictures)
        return self.last(inner) + inner


def test_shared_channels_are_not_padded():
    assert pad_channels(Shared().eval()).first.out_channels == 5


def test_shufflenets_second_stage_is_padded():
    classifier = random_classifier("shufflenet_v2_x2_0")
    folded = fold_batch_norms(classifier.module, keep=[classifier.default_layer])
    padded = pad_channels(folded, keep=[classifier.default_layer])
    assert padded.get_submodule("stage2.1.branch2.3").groups == 128
    pictures = torch.randn(2, 3, 64, 64)
    expected, found = folded(pictures), padded(pictures)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
