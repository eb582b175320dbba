import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import shufflenetv2, squeezenet

from export.simplify.batch_norms import fold_batch_norms
from export.simplify.channel_shuffles import fold_shuffles
from export.simplify.flatten import flatten
from export.simplify.gates import move_gates, open_relu
from handler.autograd.tape import differentiate, record
from handler.explanation.evidence import Needs
from tests.support.models import in_double_precision, random_classifier


class Fire(nn.Module):
    def __init__(self):
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True))
        self.small, self.large = nn.Conv2d(4, 5, 1), nn.Conv2d(4, 3, 3, padding=1)
        self.last = nn.Conv2d(8, 2, 3)

    def forward(self, x):
        x = self.squeeze(x)
        joined = torch.cat([F.relu(self.small(x)), self.large(x) if self.partly else F.relu(self.large(x))], 1)
        return self.last(joined).mean((2, 3))

    partly = False


class Split(Fire):
    def forward(self, x):
        one, other = torch.split(self.squeeze(x), [1, 3], 1)
        return self.last(torch.cat([F.relu(self.small(torch.cat([other, one], 1))), other], 1)).mean((2, 3))


class Pieces(Fire):
    """Split and joined again in another order, as ShuffleNet's channels are."""

    def __init__(self):
        super().__init__()
        self.last = nn.Conv2d(5, 2, 3)

    def forward(self, x):
        one, other = torch.split(self.squeeze(x), [1, 3], 1)
        return self.last(self.small(torch.cat([other, one], 1))).mean((2, 3))


class JoinedTwice(Fire):
    def forward(self, x):
        x = self.squeeze(x)
        return self.last(torch.cat([x, x], 1)).mean((2, 3))


class PieceTwice(Fire):
    def forward(self, x):
        pieces = torch.split(self.squeeze(x), 2, 1)
        return self.last(torch.cat([pieces[0], pieces[1], pieces[0], pieces[1]], 1)).mean((2, 3))


class SplitTwice(Fire):
    def forward(self, x):
        x = self.squeeze(x)
        first, second = torch.split(x, [1, 3], 1), torch.split(x, [2, 2], 1)
        return self.last(torch.cat([first[1], second[0], first[0], second[1]], 1)).mean((2, 3))


class ReadTwice(Fire):
    def forward(self, x):
        x = self.squeeze(x)
        small, large = F.relu(self.small(x)), F.relu(self.large(x))
        return self.last(torch.cat([small, large], 1)).mean((2, 3)) + small.mean((2, 3))[:, :2]


class Opaque(Fire):
    """A join that reads what is not rectified, too."""

    partly = True


def explained(module, pictures):
    tape = record(module, pictures, Needs(guided=True, saliency=True))
    found = differentiate(tape, tape.scores[:, 1].sum())
    return tape.scores, found.guided, found.saliency


@pytest.mark.parametrize(
    ("kind", "moved"),
    [
        (Fire, 2),
        (Pieces, 1),
        (Split, 0),
        (ReadTwice, 0),
        (JoinedTwice, 0),
        (PieceTwice, 0),
        (SplitTwice, 0),
        (Opaque, 0),
    ],
)
def test_scores_and_both_gradients_stay(kind, moved):
    torch.manual_seed(0)
    module = kind().eval().requires_grad_(False)
    flat = flatten(module)
    assert move_gates(flat) == moved
    flat.recompile()
    assert sum(node.target is open_relu for node in flat.graph.nodes) == moved
    pictures = torch.randn(3, 3, 6, 6)
    for found, expected in zip(explained(flat, pictures), explained(module, pictures), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def joined_relus(module):
    """The ReLUs whose output goes into a join: both of a Fire; of a shuffled block that of each branch with weights."""
    fires = [one for one in module.modules() if isinstance(one, squeezenet.Fire)]
    blocks = [one for one in module.modules() if isinstance(one, shufflenetv2.InvertedResidual)]
    return 2 * len(fires) + sum(bool(len(branch)) for one in blocks for branch in (one.branch1, one.branch2))


@pytest.mark.parametrize("architecture", ["squeezenet1_1", "shufflenet_v2_x0_5"])
def test_a_whole_network(architecture):
    module = in_double_precision(random_classifier(architecture)).module  # where no gate flips
    moved = joined_relus(module)
    assert moved > 10
    pictures = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    flat = flatten(module)
    fold_batch_norms(flat)
    fold_shuffles(flat, pictures)
    assert move_gates(flat) == moved
    flat.recompile()
    for found, expected in zip(explained(flat, pictures), explained(module, pictures), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.detach().abs().max()))
