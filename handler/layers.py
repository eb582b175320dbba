"""Finds the layers that Grad-CAM can look at, and where each has its channels, by running the network."""

import math
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchvision.models.maxvit import PartitionAttentionLayer
from torchvision.ops import Permute

from handler.hooks import captured
from handler.views import CHANNELS_FIRST, CHANNELS_LAST, Tokens, View

_NOT_FEATURES = (  # they resample or pass on what another layer found
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AvgPool2d,
    nn.Dropout,
    nn.Dropout2d,
    nn.Identity,
    Permute,
)
_CHANNELS_LAST = (nn.LayerNorm, nn.Linear)  # of four dimensions they normalise or mix the last one
_CHANNELS_FIRST = (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


@dataclass(frozen=True)
class SpatialLayer:
    """A layer that returns maps."""

    shape: tuple[int, int, int]  # C, h, w of the maps
    view: View  # of what it returns


def spatial_layers(module: nn.Module, side: int) -> dict[str, SpatialLayer]:
    """Runs one picture and notes every layer that returns maps of more than one cell.

    Tokens count where the score's gradient reaches those of the picture: behind the last attention of a vision
    transformer only the class token has one.

    Args:
        module: a classifier in eval mode.
        side: side of the square picture in pixels.

    Returns:
        Module path to layer, in the order in which the layers finish.
    """
    found: dict[str, SpatialLayer] = {}
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    with torch.inference_mode(), _noting(module, found):
        module(torch.zeros(1, 3, side, side, device=device))
    tokens = {path: layer.view for path, layer in found.items() if isinstance(layer.view, Tokens)}
    reached = _reached(module, tokens, side, device) if tokens else set()
    blind = set(tokens) - reached if reached else set()  # of untrained networks some have heads of zeros
    return {path: layer for path, layer in found.items() if path not in blind}


def last_feature_layer(module: nn.Module, layers: Mapping[str, SpatialLayer]) -> str | None:
    """The layer that finishes last among those with maps, pooling and dropout aside; None where there is none."""
    features = [path for path in layers if not isinstance(module.get_submodule(path), _NOT_FEATURES)]
    return features[-1] if features else None


def _reached(module: nn.Module, views: Mapping[str, View], side: int, device: torch.device) -> set[str]:
    """The layers at whose maps the top score has a gradient other than zero."""
    picture = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.enable_grad(), captured(module, list(views), views) as kept:
        score = module(picture.requires_grad_()).max()
    paths = [path for path in views if path in kept]
    gradients = torch.autograd.grad(score, [kept[path] for path in paths], allow_unused=True)
    return {path for path, one in zip(paths, gradients, strict=True) if one is not None and bool(one.any())}


@contextmanager
def _noting(module: nn.Module, found: dict[str, SpatialLayer]) -> Iterator[None]:
    noted = _Noted(_token_widths(module))

    def note(path: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, torch.Tensor):
                return
            view = noted.view(layer, inputs, output)
            if view is None:
                return
            _, channels, height, width = view.to_maps(output).shape
            if height * width > 1:
                found.pop(path, None)  # a layer that runs again counts by its last run
                found[path] = SpatialLayer((channels, height, width), view)

        return hook

    hidden = {inner for one in module.modules() if isinstance(one, PartitionAttentionLayer) for inner in one.modules()}
    with ExitStack() as stack:
        for path, layer in module.named_modules():
            if path and (layer not in hidden or isinstance(layer, PartitionAttentionLayer)):
                stack.callback(layer.register_forward_hook(note(path)).remove)
        yield


class _Noted:
    """The views of tensors, as far as they are alive: a tensor's view follows from who made it, and of what."""

    def __init__(self, token_widths: set[int]) -> None:
        self._token_widths = token_widths
        self._views: dict[int, tuple[weakref.ref[torch.Tensor], View | None]] = {}

    def view(self, layer: nn.Module, inputs: Any, output: torch.Tensor) -> View | None:
        """The view of a layer's output; None if that is no map."""
        known = self._known(output)
        view = known if known is not None else self._made(layer, inputs, output)
        self._views[id(output)] = (weakref.ref(output), view)
        return view

    def _known(self, tensor: Any) -> View | None:
        reference, view = self._views.get(id(tensor), (None, None))
        return view if reference is not None and reference() is tensor else None

    def _made(self, layer: nn.Module, inputs: Any, output: torch.Tensor) -> View | None:
        if output.dim() == 3:
            return _token_view(output) if self._are_tokens(inputs, output) else None
        if output.dim() != 4:
            return None
        if isinstance(layer, Permute):
            return CHANNELS_LAST if list(layer.dims) == [0, 2, 3, 1] else CHANNELS_FIRST
        if isinstance(layer, _CHANNELS_FIRST) or type(layer).__name__ == "LayerNorm2d":
            return CHANNELS_FIRST
        if isinstance(layer, _CHANNELS_LAST):
            return CHANNELS_LAST
        alike = [one for one in inputs if isinstance(one, torch.Tensor) and one.shape == output.shape]
        known = [view for view in map(self._known, alike) if view is not None]
        if known:
            return known[0]
        # a guess; of a square picture the maps are square, and channels that lie elsewhere would make them oblong
        return CHANNELS_FIRST if output.shape[2] == output.shape[3] else None

    def _are_tokens(self, inputs: Any, output: torch.Tensor) -> bool:
        """Whether the last dimension is channels: three dimensions can be anything, flattened maps among them."""
        sources = [one for one in inputs if isinstance(one, torch.Tensor) and one.shape[:2] == output.shape[:2]]
        return output.shape[2] in self._token_widths or any(isinstance(self._known(one), Tokens) for one in sources)


def _token_widths(module: nn.Module) -> set[int]:
    """How many channels the tokens of a network with attention have."""
    norms = {one.normalized_shape[-1] for one in module.modules() if isinstance(one, nn.LayerNorm)}
    return norms | {one.embed_dim for one in module.modules() if isinstance(one, nn.MultiheadAttention)}


def _token_view(output: torch.Tensor) -> Tokens | None:
    """Of a square of tokens, with a class token before it or without one."""
    for others in (0, 1):
        side = math.isqrt(output.shape[1] - others)
        if side > 1 and side * side == output.shape[1] - others:
            return Tokens(side, side, others)
    return None
