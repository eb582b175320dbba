"""How much memory a network's row takes, estimated from its shapes alone."""

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo.weights import build, preprocessing_of

_COPIES = 7  # of the weights at once: PyTorch's, the simplified one's, two of the graph's, three of ONNX Runtime's
_BATCH = 8  # pictures in the largest run of a graph
_LEAST = 1.5e9  # bytes: libraries, and what does not grow with the network


def memory_need(architecture: str) -> int:
    """Bytes; the order of magnitude, on the safe side."""
    side = preprocessing_of(architecture).crop_size
    module = _without_weights(architecture, side)
    weights = 4 * sum(one.numel() for one in module.parameters())
    return int(_LEAST + _COPIES * weights + 0.5 * _BATCH * _activations(module, side))


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
