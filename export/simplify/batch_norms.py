"""Folds batch norms into the convolutions before them, so that neither direction of a graph has to compute them."""

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from export.simplify.flatten import called_once


def fold_batch_norms(network: fx.GraphModule) -> int:
    """Folds a flat network's batch norms that alone read a convolution, both called once, in place; counts them."""
    layers, count = called_once(network), 0
    for node, norm in layers.items():
        before = node.args[0]
        if not isinstance(norm, nn.BatchNorm2d) or not isinstance(before, fx.Node) or len(before.users) > 1:
            continue
        convolution = layers.get(before)
        if not isinstance(convolution, nn.Conv2d):
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
