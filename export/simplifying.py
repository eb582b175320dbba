"""A network as it is exported: fewer and faster operators, the same scores and gradients up to rounding."""

import copy
import logging

import torch
from torch import fx, nn

from export.flattening import flatten, output_of
from export.folding import fold_batch_norms
from export.gating import move_gates
from export.padding import pad_channels
from export.routing import fold_shuffles

logger = logging.getLogger(__name__)


def simplified(module: nn.Module, layer: str, example: torch.Tensor) -> tuple[nn.Module, str]:
    """A copy with batch norms and shuffles folded, channels padded, gates moved; a plain copy if ``torch.fx`` fails.

    Args:
        module: in eval mode; left as it is.
        layer: path of a layer whose own output matters.
        example: pictures (N, 3, H, W), N at least 2.

    Returns:
        The copy, and the path of the module in it that returns the layer's output.
    """
    try:
        fx.symbolic_trace(module)
    except Exception as error:  # a forward that branches on values raises whatever it stumbles over
        logger.info("exported without simplifying it: torch.fx cannot trace the network (%s)", error)
        return copy.deepcopy(module).eval().requires_grad_(False), layer
    network = flatten(pad_channels(fold_batch_norms(module, [layer]), [layer]), [layer])
    fold_shuffles(network, example)
    move_gates(network)
    return network.eval(), output_of(layer)
