import pytest
import torch
from torch import nn

from export.flattening import LayerOutput, flatten, output_of
from handler.hooks import captured
from tests.models import random_classifier


@pytest.mark.parametrize(("architecture", "layer"), [("resnet18", "layer3"), ("shufflenet_v2_x0_5", "conv5.0")])
def test_the_flat_graph_gives_the_same_scores_and_the_same_layer(architecture, layer):
    module = random_classifier(architecture).module
    flat = flatten(module, [layer])
    pictures = torch.randn(2, 3, 64, 64)
    with captured(module, [layer]) as expected:
        scores = module(pictures)
    with captured(flat, [output_of(layer)]) as found:
        assert torch.equal(flat(pictures), scores)
    assert torch.equal(found[output_of(layer)], expected[layer])


def test_weights_are_shared_and_the_module_stays_as_it_was():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    flat = flatten(module, ["1"])
    assert flat.get_submodule("0").weight is module[0].weight
    assert not any(isinstance(one, LayerOutput) for one in module.modules())


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
    with pytest.raises(ValueError, match="'aux1'"):
        flatten(module, ["aux1"])
