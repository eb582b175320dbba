import pytest
import torch
import torch.nn.functional as F
from torch import nn

from export.simplify.flatten import MARK, LayerOutput, NotApplicable, flatten
from handler.autograd.hooks import captured
from tests.support.models import random_classifier


@pytest.mark.parametrize(("architecture", "layer"), [("resnet18", "layer3"), ("shufflenet_v2_x0_5", "conv5.0")])
def test_the_flat_graph_gives_the_same_scores_and_the_same_layer(architecture, layer):
    module = random_classifier(architecture).module
    flat = flatten(module, layer)
    pictures = torch.randn(2, 3, 64, 64)
    with captured(module, [layer]) as expected:
        scores = module(pictures)
    with captured(flat, [MARK.format(0)]) as found:
        assert torch.equal(flat(pictures), scores)
    assert torch.equal(found[MARK.format(0)][0], expected[layer][0])


def test_a_hook_of_the_whole_network_runs_and_may_change_nothing():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    module.register_forward_hook(lambda _module, _given, _scores: None)
    module.register_forward_hook(lambda _module, _given, scores: -scores)
    pictures = torch.randn(2, 3, 5, 5)
    assert torch.equal(flatten(module, "1")(pictures), module(pictures))


def test_the_module_stays_as_it_was():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True))
    flat = flatten(module, "1")
    assert flat.get_submodule("0").weight is not module[0].weight
    assert not flat.get_submodule("1").inplace
    assert module[1].inplace
    assert not any(isinstance(one, LayerOutput) for one in module.modules())


def test_constants_that_tracing_makes_come_along():
    class Rotated(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("order", torch.tensor([[2, 0, 1]]))

        def forward(self, x):
            return x[:, self.order.view(-1)]

    module = Rotated()
    flat = flatten(module)
    pictures = torch.randn(2, 3, 2, 2)
    assert torch.equal(flat(pictures), module(pictures))
    assert set(vars(module)) == set(vars(Rotated()))


class InPlace(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.convolution, self.how = nn.Conv2d(3, 4, 1), how

    def forward(self, x):
        return self.how(self.convolution(x))


def unread(y):
    y.relu_()
    return y.sum(1)


@pytest.mark.parametrize(
    "how",
    [
        unread,
        lambda y: F.relu(y, inplace=True) + y,
        lambda y: F.relu(y[:, :2], inplace=True) + y[:, 2:],
        lambda y: y.chunk(2, 1)[0].relu_() + y.chunk(2, 1)[1],
        lambda y: F.relu(F.relu(y, inplace=True) - 1, inplace=True) + y,
        lambda y: F.relu(y, inplace=True),
        lambda y: y.relu_(),
        lambda y: y.clamp(0).add_(1),
    ],
)
def test_what_is_changed_in_place_is_the_same(how):
    module = InPlace(how).requires_grad_(False)
    pictures = torch.randn(2, 3, 2, 2)
    assert torch.equal(flatten(module)(pictures), module(pictures))


def test_parameters_and_buffers_of_the_network_itself_come_along():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(3.0))
            self.register_buffer("offset", torch.tensor(1.0))

        def forward(self, x):
            return x * self.factor + self.offset

    assert flatten(Own())(torch.tensor(2.0)) == 7


def test_a_layer_that_does_not_run_is_named():
    module = random_classifier("googlenet").module
    module.aux1 = nn.Identity()
    with pytest.raises(NotApplicable, match="'aux1'"):
        flatten(module, "aux1")
