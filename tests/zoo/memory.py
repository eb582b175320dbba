"""How much memory a network's row takes, estimated from its shapes alone."""

from contextlib import suppress

import torch
from torch import nn

from export.verify.compare import batch_sizes
from tests.zoo.networks import shapes_of, side_of

# measured on twenty networks, of 5 to 300 million weights: the peak is below this by a tenth, seldom above
_LEAST = 1.5e9  # bytes: libraries, and what does not grow with the network
_COPIES = 11  # of the weights at once, while a graph is verified
_OF_A_BATCH = 1.1  # of all that layers return for the largest batch


def memory_need(architecture: str, side: int | None = None) -> int:
    """Bytes; the order of magnitude, on the safe side. The arguments are those of ``random_network``."""
    side, module = side_of(architecture, side), shapes_of(architecture, side)
    weights = 4 * sum(one.numel() for one in module.parameters())
    return int(_LEAST + _COPIES * weights + _OF_A_BATCH * batch_sizes((side, side))[-1] * _activations(module, side))


def _activations(module: nn.Module, side: int) -> int:
    """Bytes of everything that layers return for one picture."""
    sizes: list[int] = []
    for layer in module.modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda _, _inputs, output: sizes.append(getattr(output, "nbytes", 0)))
    with torch.no_grad(), suppress(Exception):  # code that reads values fails where there are none
        module(torch.empty(1, 3, side, side, device="meta"))
    return sum(sizes)
