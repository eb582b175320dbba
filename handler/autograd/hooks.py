"""Registered hooks that keep what layers return, and leave the model as it was."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from handler.autograd.channel_layout import CHANNELS_FIRST, ChannelLayout


@contextmanager
def captured(
    module: nn.Module, layers: Sequence[str], views: Mapping[str, ChannelLayout] | None = None
) -> Iterator[dict[str, list[torch.Tensor]]]:
    """Keeps what the named layers return during a forward pass inside the block.

    The rest of the network continues on a clone, so that an in-place activation behind the layer cannot rewrite what
    was kept. Where no gradient flows into a layer, the kept tensor becomes a leaf: the backward pass ends there.
    All hooks are removed on leaving, whatever happened.

    Args:
        module: the network.
        layers: module paths as in ``module.named_modules()``.
        views: of layers whose output is not one tensor (N, C, h, w) of one run.

    Yields:
        Filled by the forward pass: path to the activations of each of the layer's runs, as (N, C, h, w), requiring
        gradients. Runs that ``views`` has no use for are left out; a run more than it knows of is kept like the last.
    """
    kept: dict[str, list[torch.Tensor]] = {}
    finished: Counter[str] = Counter()

    def keep(path: str) -> Any:
        view = (views or {}).get(path, CHANNELS_FIRST)

        def hook(_module: nn.Module, inputs: Any, output: Any) -> Any:
            run = min(finished[path], len(view.runs) - 1)
            finished[path] += 1
            if view.runs[run] is None:
                return None
            leaves, structure = tree_flatten(output)
            chosen = leaves[view.element]
            # an identity returns a tensor that others still hold, and may rewrite
            if any(chosen is one for one in tree_flatten(inputs)[0]):
                chosen = chosen.clone()
            runs = kept.setdefault(path, [])
            maps = view.to_maps(chosen, run)
            runs.append(maps if maps.requires_grad else maps.detach().requires_grad_())
            leaves[view.element] = view.from_maps(runs[-1].clone(), chosen, run)
            return tree_unflatten(leaves, structure)

        return hook

    with ExitStack() as stack:
        for path in dict.fromkeys(layers):
            stack.callback(module.get_submodule(path).register_forward_hook(keep(path)).remove)
        yield kept
