import torch
from torch import nn

from handler.autograd.channel_layout import ChannelLayout
from handler.autograd.hooks import captured


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
