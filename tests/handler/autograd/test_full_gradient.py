"""FullGrad's terms add up to the score of a ReLU network, in float64."""

import pytest
import torch
from torch import nn

from handler.autograd.tape import each_product, summed
from handler.errors import Unprocessable


def network(**last):
    """Convolutions, one of them used twice, batch norms and activations in place behind them."""
    torch.manual_seed(0)
    twice = nn.Conv2d(4, 4, 3, padding=1)
    parts = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), twice, nn.ReLU(inplace=True), twice]
    parts += [nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    module = nn.Sequential(*parts, nn.Linear(4, 3, **last)).double()
    for part in module:
        if isinstance(part, nn.BatchNorm2d):
            for values in (part.weight, part.bias, part.running_mean):
                nn.init.normal_(values)
            nn.init.uniform_(part.running_var, 0.5, 2)
    return module.eval().requires_grad_(False)


def total(module, pictures, seeds):
    found = []
    each_product(module, pictures, seeds, lambda product: found.append(product.sum((1, 2, 3))))
    return sum(found)


@pytest.mark.parametrize("bias", [False, True])
def test_the_products_and_the_biases_without_cells_add_up_to_the_score(bias):
    module, pictures = network(bias=bias), torch.randn(2, 3, 10, 10, dtype=torch.double)
    seeds = torch.eye(3, dtype=torch.double)[[1, 2]]
    without_cells = (module[-1].bias * seeds).sum(1) if bias else 0
    expected = (module(pictures) * seeds).sum(1)
    torch.testing.assert_close(total(module, pictures, seeds) + without_cells, expected)


def test_each_size_of_layers_has_one_sum():
    sums = summed(network(), torch.randn(2, 3, 10, 10, dtype=torch.double), torch.ones(2, 3, dtype=torch.double))
    assert sorted(tuple(values.shape) for values in sums) == [(2, 8, 8), (2, 10, 10)]


def test_a_network_without_biases_is_refused():
    module = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(Unprocessable, match="fullgrad needs a convolution with a bias or a batch norm"):
        summed(module, torch.zeros(1, 3, 4, 4), torch.ones(1, 2))


def test_the_network_is_left_as_it_was():
    module = network()
    summed(module, torch.randn(1, 3, 10, 10, dtype=torch.double), torch.ones(1, 3, dtype=torch.double))
    assert not any(part._forward_hooks for part in module.modules())
