"""Pads channel counts that ONNX Runtime's blocked convolutions do not take, with channels that are always zero.

Exact: an added channel is zero behind a convolution and its ReLU, and the next convolution multiplies it by zero.
"""

from torch import fx, nn

from export.simplify.channels import NOTHING, behind, called_once, reorder_inputs, reorder_outputs, way_to_dense

MULTIPLE = 16  # float32 values in an AVX-512 register; ONNX Runtime's blocked layout has 8 or 16 channels in a block


def pad_channels(network: fx.GraphModule) -> int:
    """Makes inner channel counts multiples of ``MULTIPLE``, in place.

    The step pads channels between two dense convolutions with nothing but depthwise convolutions and ReLUs in between,
    as in ShuffleNet's branches and in inverted residuals. All other channels, and those that are returned or shared,
    stay as they are.

    Args:
        network: flat, see ``flatten``, and with batch norms folded.

    Returns:
        The number of dense convolutions that have more channels than before.
    """
    layers, count = called_once(network), 0
    for node, first in layers.items():
        way = way_to_dense(layers, behind(node))
        if not way or not isinstance(first, nn.Conv2d) or first.groups > 1 or first.out_channels % MULTIPLE == 0:
            continue
        wide = [*range(first.out_channels), *[NOTHING] * (-first.out_channels % MULTIPLE)]
        for layer in (first, *way[:-1]):
            reorder_outputs(layer, wide)
        reorder_inputs(way[-1], wide)
        count += 1
    return count
