"""Tells how a layer treats channels, and reorders, adds and takes away the channels of convolutions."""

from collections.abc import Sequence

import torch
from torch import nn

NOTHING = -1  # in an order: a channel that is always zero
ELEMENTWISE = (nn.ReLU, nn.ReLU6, nn.Identity)  # the layers that keep zeros zero and mix no values


def is_dense(module: nn.Module) -> bool:
    """Whether every output channel of a convolution reads all input channels."""
    return isinstance(module, nn.Conv2d) and module.groups == 1


def is_depthwise(module: nn.Module) -> bool:
    """Whether every output channel of a convolution reads the one input channel of its own number."""
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels == module.out_channels


def reorder_outputs(module: nn.Module, order: Sequence[int]) -> None:
    """Makes channel ``order[i]`` output channel ``i``, in a depthwise convolution input channel ``i``, too.

    Args:
        module: a convolution, changed in place.
        order: numbers of channels, or ``NOTHING``.
    """
    assert isinstance(module, nn.Conv2d)
    depthwise = is_depthwise(module)
    module.weight = _picked(module.weight, order)
    if module.bias is not None:
        module.bias = _picked(module.bias, order)
    module.out_channels = len(order)
    if depthwise:
        module.in_channels = module.groups = len(order)


def reorder_inputs(module: nn.Module, order: Sequence[int]) -> None:
    """Makes channel ``order[i]`` input channel ``i`` of a dense convolution; arguments as in ``reorder_outputs``."""
    assert isinstance(module, nn.Conv2d)
    swapped = _picked(module.weight.transpose(0, 1), order).transpose(0, 1)
    module.weight = nn.Parameter(swapped.contiguous(), requires_grad=False)
    module.in_channels = len(order)


def _picked(values: torch.Tensor, order: Sequence[int]) -> nn.Parameter:
    padded = torch.cat([values.detach(), torch.zeros_like(values[:1])])  # index -1 is the zeros
    return nn.Parameter(padded[list(order)].contiguous(), requires_grad=False)
