"""Rewrites the convolutions of flat networks: folds batch norms into them, and pads their channels.

ONNX Runtime's blocked convolutions do not take every channel count. Exact: an added channel is zero behind a
convolution and its ReLU, and the next convolution multiplies it by zero.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

MULTIPLE = 16  # float32 values in an AVX-512 register; ONNX Runtime's blocked layout has 8 or 16 channels in a block
_ELEMENTWISE = (nn.ReLU, nn.ReLU6, nn.Identity)  # the layers that keep zeros zero and mix no values


def fold_batch_norms(network: fx.GraphModule) -> int:
    """Folds a flat network's batch norms that alone read a convolution, both called once, in place; counts them."""
    layers, count = _called_once(network), 0
    for node, norm in layers.items():
        before: Any = node.args[0]
        convolution = layers.get(before) if isinstance(norm, nn.BatchNorm2d) else None
        if not isinstance(convolution, nn.Conv2d) or len(before.users) > 1:
            continue
        if norm.running_mean is None or norm.running_var is None:
            continue  # it normalises by the batch, even in eval mode
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        node.replace_all_uses_with(before)
        network.graph.erase_node(node)
        count += 1
    return count


def pad_channels(network: fx.GraphModule) -> int:
    """Makes inner channel counts multiples of ``MULTIPLE``, in place, and counts the convolutions that grow.

    The step pads channels between two dense convolutions with nothing but depthwise convolutions and ReLUs in between,
    as in ShuffleNet's branches and in inverted residuals. All other channels, and those that are returned or shared,
    stay as they are. The network is flat, see ``flatten``, and its batch norms are folded.
    """
    layers, count = _called_once(network), 0
    for node, first in layers.items():
        way = _way_to_dense(layers, node)
        if not way or not isinstance(first, nn.Conv2d) or first.groups > 1 or first.out_channels % MULTIPLE == 0:
            continue
        (*between, last), more = way, -first.out_channels % MULTIPLE
        for convolution in (first, *between):
            _add_outputs(convolution, more)
        last.weight = _padded(last.weight, (0, 0, 0, 0, 0, more))
        last.in_channels += more
        count += 1
    return count


def _way_to_dense(layers: Mapping[fx.Node, nn.Module], node: fx.Node) -> list[nn.Conv2d]:
    """The convolutions behind a node up to the first dense one, which reads all channels; that one included.

    The list is empty if anything but activations and depthwise convolutions comes first, or a second reader.
    """
    way: list[nn.Conv2d] = []
    while len(node.users) == 1:
        (node,) = node.users
        layer = layers.get(node)
        if isinstance(layer, nn.Conv2d) and (layer.groups == 1 or _is_depthwise(layer)):
            way.append(layer)
            if layer.groups == 1:
                return way
        elif type(layer) not in _ELEMENTWISE:
            break
    return []


def _is_depthwise(layer: nn.Conv2d) -> bool:
    """Whether every output channel reads the one input channel of its own number."""
    return 1 < layer.groups == layer.in_channels == layer.out_channels


def _add_outputs(layer: nn.Conv2d, more: int) -> None:
    """Adds output channels of zeros; a depthwise convolution gets input channels, too."""
    if _is_depthwise(layer):
        layer.in_channels = layer.groups = layer.groups + more
    layer.weight = _padded(layer.weight, (0, 0, 0, 0, 0, 0, 0, more))
    layer.bias = None if layer.bias is None else _padded(layer.bias, (0, more))
    layer.out_channels += more


def _padded(values: Tensor, behind: tuple[int, ...]) -> nn.Parameter:
    return nn.Parameter(F.pad(values.detach(), behind), requires_grad=False)


def _called_once(network: fx.GraphModule) -> dict[fx.Node, Any]:
    """The modules that a flat graph calls exactly once, by the node that calls them."""
    calls = [node for node in network.graph.nodes if node.op == "call_module"]
    times = Counter(node.target for node in calls)
    return {node: network.get_submodule(str(node.target)) for node in calls if times[node.target] == 1}
