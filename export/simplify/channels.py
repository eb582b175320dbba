"""Convolutions by how they treat channels, and their channels reordered, added and taken away."""

from collections.abc import Sequence

import torch
from torch import nn

NOTHING = -1  # in an order: a channel that is always zero


def is_dense(module: nn.Module) -> bool:
    """Whether every output channel of a convolution reads all input channels."""
    return isinstance(module, nn.Conv2d) and module.groups == 1


def is_depthwise(module: nn.Module) -> bool:
    """Whether every output channel of a convolution reads the one input channel of its own number."""
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels == module.out_channels


def reorder_outputs(module: nn.Module, order: Sequence[int]) -> None:
    """Output channel ``i`` becomes what ``order[i]`` was; of a depthwise convolution input channels, too."""
    assert isinstance(module, nn.Conv2d)
    depthwise = is_depthwise(module)
    module.weight = _picked(module.weight, order)
    if module.bias is not None:
        module.bias = _picked(module.bias, order)
    module.out_channels = len(order)
    if depthwise:
        module.in_channels = module.groups = len(order)


def reorder_inputs(module: nn.Module, order: Sequence[int]) -> None:
    """Input channel ``i`` of a dense convolution becomes what ``order[i]`` was."""
    assert isinstance(module, nn.Conv2d)
    module.weight = nn.Parameter(
        _picked(module.weight.transpose(0, 1), order).transpose(0, 1).contiguous(), requires_grad=False
    )
    module.in_channels = len(order)


def _picked(values: torch.Tensor, order: Sequence[int]) -> nn.Parameter:
    padded = torch.cat([values.detach(), torch.zeros_like(values[:1])])  # index -1 is the zeros
    return nn.Parameter(padded[list(order)].contiguous(), requires_grad=False)
