import torch
from torch import nn

from handler.hooks import captured


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
    assert torch.equal(kept["identity"], inputs)
    assert not module.identity._forward_hooks


def test_a_layer_that_runs_twice_is_kept_as_it_ran_last():
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 2)
    module = nn.Sequential(layer, layer)
    with captured(module, ["0"]) as kept:
        module(torch.ones(1, 1))
    assert kept["0"].item() == 4
