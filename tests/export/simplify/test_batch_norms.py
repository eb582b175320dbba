import pytest
import torch
from torch import nn

from export.simplify.convolutions import fold_batch_norms
from export.simplify.flatten import NotApplicable, flatten
from export.simplify.pipeline import rewritten
from tests.support.models import random_classifier


@pytest.mark.parametrize("architecture", ["shufflenet_v2_x0_5", "resnet18", "mobilenet_v2", "googlenet", "densenet121"])
def test_the_folded_network_gives_the_same_scores_and_the_first_is_left_as_it_was(architecture):
    module = random_classifier(architecture).module
    before = {name: value.clone() for name, value in module.state_dict().items()}
    folded = rewritten(flatten(module), fold_batch_norms)
    pictures = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, actual = module(pictures), folded(pictures)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    calls = folded.graph.find_nodes(op="call_module")
    left = sum(isinstance(folded.get_submodule(node.target), nn.BatchNorm2d) for node in calls)
    assert left < sum(isinstance(layer, nn.BatchNorm2d) for layer in module.modules()) / 1.9


def test_a_layer_to_keep_returns_what_it_returned():
    module = random_classifier("resnet18").module
    folded = rewritten(flatten(module, "layer4.1.conv2"), fold_batch_norms)
    kept, changed = (folded.get_submodule(f"layer4.1.conv{number}").weight for number in (2, 1))
    assert torch.equal(kept, module.layer4[1].conv2.weight)
    assert not torch.equal(changed, module.layer4[1].conv1.weight)


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
        with pytest.raises(NotApplicable, match="nothing to change"):
            rewritten(flatten(module), fold_batch_norms)
