import copy

import pytest
import torch
from torch import nn
from torchvision.models.shufflenetv2 import InvertedResidual

from export.simplify.batch_norms import fold_batch_norms
from export.simplify.channel_shuffles import fold_shuffles
from export.simplify.flatten import NotApplicable, flatten
from tests.support.models import random_classifier


def shuffle(values, groups=2):
    rows, channels, height, width = values.shape
    return values.view(rows, groups, channels // groups, height, width).transpose(1, 2).reshape(values.shape)


class Block(nn.Module):
    """Two branches, joined and shuffled; the halves go to different readers."""

    def __init__(self, between=nn.Sequential, groups=1):
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU6())
        self.right = nn.Conv2d(3, 6, 3, padding=1)
        self.between = between()
        self.first = nn.Sequential(nn.Conv2d(6, 6, 3, groups=6), nn.Identity(), nn.Conv2d(6, 5, 1))
        self.second = nn.Conv2d(6, 4, 1, groups=groups)
        self.third = nn.Conv2d(6, 4, 3)

    def forward(self, x):
        one, other = self.between(shuffle(torch.cat([self.left(x), self.right(x)], dim=1))).chunk(2, dim=1)
        return self.first(one).mean((2, 3)), self.second(other).mean((2, 3)) + self.third(other).mean((2, 3))


def fold(module):
    flat = flatten(copy.deepcopy(module))
    count = fold_shuffles(flat, torch.randn(2, 3, 9, 8))
    flat.recompile()
    return flat, count


def assert_same(flat, module):
    x = torch.randn(3, 3, 7, 8)
    for found, expected in zip(flat(x), module(x), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_shuffle_becomes_splits_and_joins():
    module = Block().eval().requires_grad_(False)
    flat, count = fold(module)
    assert count == 2, "the second join has two readers"
    assert_same(flat, module)
    called = {str(node.target) for node in flat.graph.nodes}
    assert not called & {"view", "transpose", "reshape", "chunk"}


def test_gradients_at_the_input_are_the_same():
    module = Block().eval().requires_grad_(False)
    flat, _ = fold(module)
    x = torch.randn(2, 3, 6, 6, requires_grad=True)
    expected, found = (torch.autograd.grad(sum(part.sum() for part in one(x)), x)[0] for one in (module, flat))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "module",
    [
        Block(between=lambda: nn.AvgPool2d(2)),  # more than a move, though it keeps channels apart
        Block(between=lambda: nn.BatchNorm2d(12)),
        Block(groups=2),  # a reader that cannot take any order
    ],
    ids=["pooling", "norm", "groups"],
)
def test_what_else_is_in_between_stays(module):
    module = module.eval().requires_grad_(False)
    flat, count = fold(module)
    assert count == 0
    assert_same(flat, module)


class Returned(Block):
    def forward(self, x):
        shuffled = shuffle(torch.cat([self.left(x), self.right(x)], dim=1))
        return self.second(shuffled[:, :6]), shuffled


class Twice(Block):
    def forward(self, x):
        moved = shuffle(self.right(x))
        return (self.second(torch.cat([moved[:, :3], moved[:, :3]], dim=1)),)


class Transposed(Block):
    def forward(self, x):
        return (self.second(shuffle(self.right(x)).transpose(2, 3)),)  # moves cells, too


class Mixed(Block):
    def forward(self, x):
        shuffled = shuffle(self.right(x))
        return (self.second(torch.cat([shuffled[1:], shuffled[:1]])),)  # moves pictures, too


class ReadInParts(Block):
    def forward(self, x):
        shuffled = shuffle(self.right(x))
        return self.second(shuffled), torch.tensor_split(shuffled, 6, 1)[0]


class Largest(Block):
    def forward(self, x):
        shuffled = shuffle(self.right(x))
        return self.second(shuffled), shuffled.max(dim=1)[0]


class Again(Block):
    def forward(self, x):
        return self.second(shuffle(self.right(x))), self.second(self.right(x))


@pytest.mark.parametrize("kind", [Returned, Twice, Transposed, Mixed, ReadInParts, Largest, Again])
def test_what_cannot_be_reordered_stays(kind):
    module = kind().eval().requires_grad_(False)
    flat, count = fold(module)
    assert count == 0
    assert_same(flat, module)


class Asking(Block):
    def forward(self, x):
        shuffled = shuffle(self.right(x), groups=3)
        return self.second(shuffled) / shuffled.shape[1]


def test_sizes_that_padding_would_change_are_not_lost():
    with pytest.raises(NotApplicable, match="asks for the size"):
        fold(Asking().eval().requires_grad_(False))


@pytest.mark.parametrize("architecture", ["shufflenet_v2_x0_5", "resnet18", "squeezenet1_1", "googlenet"])
def test_whole_networks_keep_their_scores_and_every_shuffled_block_is_folded(architecture):
    classifier = random_classifier(architecture)
    joins = sum(isinstance(one, InvertedResidual) for one in classifier.module.modules())  # each ends in one
    assert (joins > 10) == architecture.startswith("shufflenet")
    layer = classifier.default_layer
    flat = flatten(classifier.module, layer)
    fold_batch_norms(flat)
    flat.recompile()
    pictures = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = flat(pictures)
        assert fold_shuffles(flat, pictures) == joins
        flat.recompile()
        torch.testing.assert_close(flat(pictures), before, rtol=0, atol=3e-5 * float(before.abs().max()))
