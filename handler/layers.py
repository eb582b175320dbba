"""Finds the layers that Grad-CAM can look at, by running the network once."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torchvision.ops import Permute

_NOT_MAPS = (nn.LayerNorm, nn.Linear, Permute)  # their four dimensions are not (N, C, h, w)
_NOT_FEATURES = (  # they resample or pass on what another layer found
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AvgPool2d,
    nn.Dropout,
    nn.Dropout2d,
    nn.Identity,
)


def spatial_layers(module: nn.Module, side: int) -> dict[str, tuple[int, int, int]]:
    """Runs one picture of zeros and notes every layer that returns maps.

    Args:
        module: a classifier in eval mode.
        side: side of the square picture in pixels.

    Returns:
        Module path to (C, h, w), in the order in which the layers finish; only those with more than one cell.
    """
    found: dict[str, tuple[int, int, int]] = {}
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    with torch.inference_mode(), _noting(module, found):
        module(torch.zeros(1, 3, side, side, device=device))
    return found


def last_feature_layer(module: nn.Module, layers: dict[str, tuple[int, int, int]]) -> str | None:
    """The layer that finishes last among those with maps, pooling and dropout aside; None where there is none."""
    features = [path for path in layers if not isinstance(module.get_submodule(path), _NOT_FEATURES)]
    return features[-1] if features else None


@contextmanager
def _noting(module: nn.Module, found: dict[str, tuple[int, int, int]]) -> Iterator[None]:
    def note(path: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.dim() == 4 and output.shape[2] * output.shape[3] > 1:
                found.pop(path, None)  # a layer that runs again counts by its last run
                found[path] = (output.shape[1], output.shape[2], output.shape[3])

        return hook

    with ExitStack() as stack:
        for path, layer in module.named_modules():
            if path and not isinstance(layer, _NOT_MAPS):
                stack.callback(layer.register_forward_hook(note(path)).remove)
        yield
