"""Registered hooks that keep what layers return, and leave the model as it was."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from handler.views import CHANNELS_FIRST, View


@contextmanager
def captured(
    module: nn.Module, layers: Sequence[str], views: Mapping[str, View] | None = None
) -> Iterator[dict[str, torch.Tensor]]:
    """Keeps what the named layers return during a forward pass inside the block.

    The rest of the network continues on a clone, so that an in-place activation behind the layer cannot rewrite what
    was kept. Where no gradient flows into a layer, the kept tensor becomes a leaf: the backward pass ends there.
    All hooks are removed on leaving, whatever happened. Of a layer that runs several times, the last run is kept.

    Args:
        module: the network.
        layers: module paths as in ``module.named_modules()``.
        views: of layers that have their channels elsewhere than (N, C, h, w).

    Yields:
        Filled by the forward pass: path to activation as (N, C, h, w), requiring gradients.
    """
    kept: dict[str, torch.Tensor] = {}

    def keep(path: str) -> Any:
        view = (views or {}).get(path, CHANNELS_FIRST)

        def hook(_module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            # an identity returns a tensor that others still hold, and may rewrite
            if any(output is one for one in inputs):
                output = output.clone()
            maps = view.to_maps(output)
            kept[path] = maps if maps.requires_grad else maps.detach().requires_grad_()
            return view.from_maps(kept[path].clone(), output)

        return hook

    with ExitStack() as stack:
        for path in dict.fromkeys(layers):
            stack.callback(module.get_submodule(path).register_forward_hook(keep(path)).remove)
        yield kept
