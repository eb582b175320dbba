"""Tells how a layer treats channels, and reorders, adds and takes away the channels of convolutions."""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import fx, nn

NOTHING = -1  # in an order: a channel that is always zero
_ELEMENTWISE = (nn.ReLU, nn.ReLU6, nn.Identity)  # the layers that keep zeros zero and mix no values


def is_dense(module: nn.Module) -> bool:
    """Whether every output channel of a convolution reads all input channels."""
    return isinstance(module, nn.Conv2d) and module.groups == 1


def is_depthwise(module: nn.Module) -> bool:
    """Whether every output channel of a convolution reads the one input channel of its own number."""
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels == module.out_channels


def behind(node: fx.Node) -> fx.Node | None:
    """The node that alone reads another node; None if there is none, or more than one."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def way_to_dense(
    module: nn.Module, graph: fx.Graph, start: fx.Node | None, following: Callable[[fx.Node], fx.Node | None] = behind
) -> list[str]:
    """Paths of the modules from a node to the first dense convolution, that convolution included.

    The list is empty if anything but activations and depthwise convolutions comes first, or a module that the graph
    calls more than once.

    Args:
        module: the network.
        graph: of the network.
        start: the first node of the way.
        following: the next node of the way.
    """
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    paths: list[str] = []
    while start is not None and start.op == "call_module" and calls[start.target] == 1:
        paths.append(str(start.target))
        layer = module.get_submodule(paths[-1])
        if is_dense(layer):
            return paths
        if not is_depthwise(layer) and type(layer) not in _ELEMENTWISE:
            break
        start = following(start)
    return []


def reorder_outputs(module: nn.Module, order: Sequence[int]) -> None:
    """Makes channel ``order[i]`` output channel ``i``, in a depthwise convolution input channel ``i``, too.

    Args:
        module: a convolution, changed in place, or an activation, which has nothing to reorder.
        order: numbers of channels, or ``NOTHING``.
    """
    if not isinstance(module, nn.Conv2d):
        return
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
