"""Tells how a layer treats channels, and reorders, adds and takes away the channels of convolutions."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import fx, nn

NOTHING = -1  # in an order: a channel that is always zero
_ELEMENTWISE = (nn.ReLU, nn.ReLU6, nn.Identity)  # the layers that keep zeros zero and mix no values


def _is_depthwise(module: nn.Module) -> bool:
    """Whether every output channel of a convolution reads the one input channel of its own number."""
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels == module.out_channels


def behind(node: fx.Node) -> fx.Node | None:
    """The node that alone reads another node; None if there is none, or more than one."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def called_once(network: fx.GraphModule) -> dict[fx.Node, nn.Module]:
    """The modules that a graph calls exactly once, by the node that calls them."""
    calls = [node for node in network.graph.nodes if node.op == "call_module"]
    times = Counter(node.target for node in calls)
    return {node: network.get_submodule(str(node.target)) for node in calls if times[node.target] == 1}


def way_to_dense(layers: Mapping[fx.Node, nn.Module], start: fx.Node | None) -> list[nn.Module]:
    """The modules from a node to the first dense convolution, which reads all channels; that one included.

    The list is empty if anything but activations and depthwise convolutions comes first; ``layers`` are those of
    ``called_once``.
    """
    way: list[nn.Module] = []
    while start is not None and start in layers:
        way.append(layers[start])
        if isinstance(way[-1], nn.Conv2d) and way[-1].groups == 1:
            return way
        if not _is_depthwise(way[-1]) and type(way[-1]) not in _ELEMENTWISE:
            break
        start = behind(start)
    return []


def reorder_outputs(module: nn.Module, order: Sequence[int]) -> None:
    """Makes channel ``order[i]``, or ``NOTHING``, output channel ``i``; in a depthwise convolution input channel, too.

    The module is changed in place; an activation has nothing to reorder.
    """
    if not isinstance(module, nn.Conv2d):
        return
    depthwise = _is_depthwise(module)
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
