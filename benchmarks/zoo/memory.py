"""How much memory a network's row takes, estimated from its shapes alone."""

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.weights import build, preprocessing_of
from export.tracing.exportable import fits_one_file
from export.verify.compare import batch_sizes

# measured on twenty networks, of 5 to 300 million weights: the peak is below this by a tenth, seldom above
_LEAST = 1.5e9  # bytes: libraries, and what does not grow with the network
_COPIES = 11  # of the weights at once, while a graph is verified
_OF_A_BATCH = 1.1  # of all that layers return for the largest batch
_WITHOUT_GRAPHS = 3, 3  # copies of the weights, and pictures, where one ONNX file could not hold the weights


def memory_need(architecture: str, side: int | None = None) -> int:
    """Bytes; the order of magnitude, on the safe side. The arguments are those of ``random_classifier``."""
    side = preprocessing_of(architecture, side).crop_size
    module = _without_weights(architecture, side)
    weights = 4 * sum(one.numel() for one in module.parameters())
    copies, pictures = _COPIES, _OF_A_BATCH * batch_sizes(side)[-1]
    if not fits_one_file(module):
        copies, pictures = _WITHOUT_GRAPHS
    return int(_LEAST + copies * weights + pictures * _activations(module, side))


def _without_weights(architecture: str, side: int) -> nn.Module:
    try:
        with torch.device("meta"):
            return build(architecture, side)
    except NotImplementedError:  # RegNet's builder computes with tensors
        return build(architecture, side).to("meta")


def _activations(module: nn.Module, side: int) -> int:
    """Bytes of everything that layers return for one picture."""
    total = 0

    def add(_layer: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal total
        if isinstance(output, Tensor):
            total += 4 * output.numel()

    for layer in module.modules():
        if not list(layer.children()):
            layer.register_forward_hook(add)
    with torch.no_grad():
        module(torch.empty(1, 3, side, side, device="meta"))
    return total
