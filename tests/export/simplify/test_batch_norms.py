import pytest
import torch
from torch import nn

from export.simplify.batch_norms import fold_batch_norms
from tests.support.models import random_classifier


@pytest.mark.parametrize("architecture", ["shufflenet_v2_x0_5", "resnet18", "mobilenet_v2", "googlenet", "densenet121"])
def test_the_folded_network_gives_the_same_scores_and_the_first_is_left_as_it_was(architecture):
    module = random_classifier(architecture).module
    before = {name: value.clone() for name, value in module.state_dict().items()}
    folded = fold_batch_norms(module)
    pictures = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, actual = module(pictures), folded(pictures)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    left = sum(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    assert left < sum(isinstance(layer, nn.BatchNorm2d) for layer in module.modules()) / 1.9


def test_a_layer_to_keep_returns_what_it_returned():
    module = random_classifier("resnet18").module
    folded = fold_batch_norms(module, keep=["layer4.1.conv2"])
    assert torch.equal(folded.layer4[1].conv2.weight, module.layer4[1].conv2.weight)
    assert isinstance(folded.layer4[1].bn2, nn.BatchNorm2d)
    assert isinstance(folded.layer4[1].bn1, nn.Identity)


def test_a_convolution_that_others_read_or_that_runs_twice_is_not_folded():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + y

    class Twice(Shared):
        def forward(self, x):
            return self.norm(self.conv(self.conv(x)))

    for module in (Shared().eval(), Twice().eval()):
        nn.init.uniform_(module.norm.running_mean)
        assert isinstance(fold_batch_norms(module).norm, nn.BatchNorm2d)
