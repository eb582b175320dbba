import copy

import pytest
import torch
from torch import nn

from export.simplify.convolutions import MULTIPLE, fold_batch_norms, pad_channels
from export.simplify.flatten import flatten
from export.simplify.pipeline import rewritten
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


def padded_copy(module: nn.Module, *kept: str) -> nn.Module:
    flat = flatten(module, *kept)
    pad_channels(flat)
    return flat


@pytest.mark.parametrize("channels", [2, 5, 7, 122])
def test_the_branch_is_padded_and_the_scores_are_the_same(channels):
    module = branch(channels)
    padded = padded_copy(module)
    first, depthwise, last = (padded.get_submodule(path) for path in "024")
    wide = first.out_channels
    assert wide % MULTIPLE == 0
    assert channels < wide < channels + MULTIPLE
    assert padded(torch.zeros(1, 3, 4, 4)).shape == (1, 20)
    assert depthwise.groups == depthwise.in_channels == depthwise.out_channels == last.in_channels == wide
    pictures = torch.randn(2, 3, 9, 8)
    torch.testing.assert_close(padded(pictures), module(pictures), rtol=0, atol=1e-6)


def test_the_gradient_at_the_input_is_the_same():
    module = branch(5)
    pictures = torch.randn(2, 3, 9, 8, requires_grad=True)
    expected, found = (torch.autograd.grad(one(pictures).sum(), pictures)[0] for one in (module, padded_copy(module)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_what_fits_stays_as_it_is_and_so_does_the_module_given():
    module = branch(MULTIPLE)
    assert padded_copy(module).get_submodule("0").out_channels == MULTIPLE
    module = branch(5)
    before = copy.deepcopy(module.state_dict())
    padded_copy(module)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("kept", ["0", "1", "2", "3"])
def test_a_chain_with_a_kept_layer_is_not_padded(kept):
    assert padded_copy(branch(5), kept).get_submodule("0").out_channels == 5
    assert padded_copy(branch(5), "4").get_submodule("0").out_channels == MULTIPLE  # only its input is padded


class Shared(nn.Module):
    """The channels between the convolutions are read by something else, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 5, 1)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        inner = self.first(pictures)
        return self.last(inner) + inner


def test_shared_channels_are_not_padded():
    assert padded_copy(Shared().eval()).get_submodule("first").out_channels == 5


def test_shufflenets_second_stage_is_padded():
    classifier = random_classifier("shufflenet_v2_x2_0")
    folded = rewritten(flatten(classifier.module, classifier.default_layer), fold_batch_norms)
    padded = rewritten(folded, pad_channels)
    assert padded.get_submodule("stage2.1.branch2.3").groups == 128
    pictures = torch.randn(2, 3, 64, 64)
    expected, found = folded(pictures), padded(pictures)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
