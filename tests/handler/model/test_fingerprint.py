import copy
import hashlib

import pytest
import torch
import torchvision
from torch import nn

from handler.model.checkpoint import hash_state


def _net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def test_it_is_the_hash_of_names_and_bytes():
    net = nn.Linear(1, 1).requires_grad_(False)
    net.weight[:], net.bias[:] = 1.0, 2.0
    content = b"bias:4:" + b"\x00\x00\x00\x40" + b"weight:4:" + b"\x00\x00\x80\x3f"
    assert hash_state(net) == hashlib.sha256(content).hexdigest()


def test_equal_weights_have_equal_hashes_whatever_their_layout_in_memory():
    net = _net()
    other = copy.deepcopy(net).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    assert hash_state(other) == hash_state(net)


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.weight", "1.running_var", "1.num_batches_tracked"])
def test_any_changed_weight_or_buffer_changes_it(name):
    net = _net()
    before = hash_state(net)
    value = net.state_dict()[name].view(-1)
    value[-1] = torch.nextafter(value[-1], torch.tensor(9.0)) if value.is_floating_point() else value[-1] + 1
    assert hash_state(net) != before


def test_names_and_places_count():
    one, other = nn.Module(), nn.Module()
    one.a, one.b = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([2.0]))
    other.b, other.a = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([2.0]))
    assert hash_state(one) != hash_state(other)


def test_heads_that_only_training_runs_do_not_count():
    net = torchvision.models.googlenet(weights=None, init_weights=False, num_classes=2)
    before = hash_state(net)
    net.aux1 = net.aux2 = None
    assert hash_state(net) == before


def test_other_networks_heads_of_these_names_count():
    net = nn.ModuleDict({"fc": nn.Linear(2, 2)})
    before = hash_state(net)
    net["aux1"] = nn.Linear(2, 2)
    assert hash_state(net) != before


def test_half_precision_has_a_hash():
    assert hash_state(_net().bfloat16()) != hash_state(_net().half())
