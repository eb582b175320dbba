"""Captures activations by hooks, and leaves the model as it was."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from handler.autograd.channel_layout import CHANNELS_FIRST, ChannelLayout
from handler.errors import Unprocessable


@contextmanager
def captured(
    module: nn.Module, layers: Sequence[str], views: Mapping[str, ChannelLayout] | None = None
) -> Iterator[dict[str, list[Tensor]]]:
    """Keeps the activations of layers during a forward pass inside the block.

    The network continues on clones, so that an activation in place behind a layer cannot rewrite the kept tensor. If no
    gradient flows into a layer, the kept tensor becomes a leaf, at which the backward pass ends. All hooks are removed
    when the block ends, also after an exception. Layers are module paths, views as in ``Network``; a layer that does
    not exist raises Unprocessable.

    Yields:
        Path to the activations (N, C, h, w) of the layer's runs, which require gradients; the forward pass fills it.
        Runs whose ``ChannelLayout.runs`` is None are left out; runs beyond the known ones are kept like the last one.
    """
    kept: dict[str, list[Tensor]] = {}

    def keep(path: str) -> Any:
        view = (views or {}).get(path, CHANNELS_FIRST)

        def keeping(output: Tensor, run: int) -> Tensor:
            runs = kept.setdefault(path, [])
            maps = view.to_maps(output, run)
            runs.append(maps if maps.requires_grad else maps.detach().requires_grad_())
            return view.from_maps(runs[-1].clone(), output, run)

        return _on_runs(view, keeping)

    with ExitStack() as stack:
        for path in dict.fromkeys(layers):
            stack.callback(_submodule(module, path).register_forward_hook(keep(path)).remove)
        yield kept


@contextmanager
def replaced(module: nn.Module, layer: str, maps: Tensor, view: ChannelLayout) -> Iterator[None]:
    """Inside the block, a layer returns other activations than its own, maps (P, C, h, w) of all its runs.

    Of an output for one picture P copies are made.
    """
    parts = iter(maps.chunk(view.counted, dim=1))

    def replacing(output: Tensor, run: int) -> Tensor:
        sizes = [maps.shape[0] if axis == view.batch_axis else -1 for axis in range(output.dim())]
        return view.from_maps(next(parts).to(output), output.expand(sizes), run)

    with _submodule(module, layer).register_forward_hook(_on_runs(view, replacing)):  # a handle removes its hook
        yield


def _on_runs(view: ChannelLayout, changed: Callable[[Tensor, int], Tensor]) -> Any:
    """A hook that changes a layer's output in each of the runs that have maps."""
    finished = 0

    def hook(_module: nn.Module, inputs: Any, output: Any) -> Any:
        nonlocal finished
        run = min(finished, len(view.runs) - 1)
        finished += 1
        if view.runs[run] is None:
            return None
        leaves, structure = tree_flatten(output)
        chosen = leaves[view.element]
        # an identity returns its input, which other layers hold and may rewrite
        if any(chosen is given for given in tree_flatten(inputs)[0]):
            chosen = chosen.clone()
        leaves[view.element] = changed(chosen, run)
        return tree_unflatten(leaves, structure)

    return hook


def _submodule(module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        raise Unprocessable(f"layer {path!r} is no module of the network") from error
