"""The maps in a layer's output: where they lie, and hooks that capture or replace them; the model stays as it is."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, cat, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from handler.errors import Unprocessable


@dataclass(frozen=True, kw_only=True)
class ChannelLayout:
    """Views a layer's output as maps (N, C, h, w), and writes maps back into the output.

    Convolutions return (N, C, h, w), Swin transformers (N, h, w, C), vision transformers tokens (N, T, C), in which
    class tokens stand before the picture's tokens; PyTorch's own transformers take sequences first, (T, N, C).
    """

    batch_axis: int = 0
    channel_axis: int = 1
    grid: tuple[int, int] | None = None  # h, w of cells that share one axis; None if rows and columns have an axis each
    first_token: int = 0  # index of the first cell on a shared axis
    transposed: bool = False  # the columns' axis comes before the rows' axis, or the cells are in column order
    element: int = 0  # index of the tensor in an output of several, in the order of torch.utils._pytree
    # whether each of the layer's runs is upside down, and left to right; None if a later run of the layer depends on it
    runs: tuple[tuple[bool, bool] | None, ...] = ((False, False),)

    @property
    def counted(self) -> int:
        """The number of runs that have maps."""
        return sum(run is not None for run in self.runs)

    def to_maps(self, output: Tensor, run: int = 0) -> Tensor:
        """The output of a run, an index into ``runs``, as maps (N, C, h, w), in which the picture is not mirrored."""
        axes = self._axes(output)
        if self.grid:
            height, width = self.grid
            tokens = output.narrow(axes[2], self.first_token, height * width).permute(axes)
            maps = tokens.reshape(*tokens.shape[:2], *((width, height) if self.transposed else self.grid))
            maps = maps.transpose(2, 3) if self.transposed else maps
        else:
            maps = _permuted(output, axes)
        return self._mirrored(maps, run)

    def from_maps(self, maps: Tensor, output: Tensor, run: int = 0) -> Tensor:
        """The output of a run with other maps (N, C, h, w), not mirrored; other tokens stay as they are."""
        maps, axes = self._mirrored(maps, run), self._axes(output)
        back = [axes.index(axis) for axis in range(len(axes))]
        if self.grid is None:
            return _permuted(maps, back)
        cells = (maps.transpose(2, 3) if self.transposed else maps).flatten(2).permute(back)
        axis, first = axes[2], self.first_token
        behind = first + cells.shape[axis]
        parts = output.narrow(axis, 0, first), cells, output.narrow(axis, behind, output.shape[axis] - behind)
        return cat([part for part in parts if part.shape[axis]], dim=axis)

    def _axes(self, output: Tensor) -> list[int]:
        """The output's axes in the order pictures, channels, rows, columns, or pictures, channels, tokens."""
        cells = [axis for axis in range(output.dim()) if axis not in (self.batch_axis, self.channel_axis)]
        return [self.batch_axis, self.channel_axis, *(reversed(cells) if self.transposed else cells)]

    def _mirrored(self, maps: Tensor, run: int) -> Tensor:
        axes = [axis for axis, mirrored in zip((2, 3), self.runs[run] or (), strict=False) if mirrored]
        return maps.flip(axes) if axes else maps


def _permuted(tensor: Tensor, axes: list[int]) -> Tensor:
    """Permutes axes; makes no view if the order is right, because autograd restricts operations in place on views."""
    return tensor if axes == sorted(axes) else tensor.permute(axes)


CHANNELS_FIRST = ChannelLayout()


@contextmanager
def captured(
    module: nn.Module, layers: Sequence[str], views: Mapping[str, ChannelLayout] | None = None
) -> Iterator[dict[str, list[Tensor]]]:
    """Keeps the activations of layers during a forward pass inside the block.

    Layers are module paths, views as in ``Network``; a layer that does not exist is Unprocessable. The forward pass
    fills what is yielded: path to the activations (N, C, h, w) of the layer's runs, which require gradients, without
    runs whose ``ChannelLayout.runs`` is None; runs beyond the known ones are kept like the last one. The network
    continues on clones, which an activation in place may rewrite. If no gradient flows into a layer, the kept tensor
    becomes a leaf, at which the backward pass ends.
    """
    kept: dict[str, list[Tensor]] = {}

    def keep(path: str, view: ChannelLayout, output: Tensor, run: int) -> Tensor:
        maps = view.to_maps(output, run)
        kept.setdefault(path, []).append(maps if maps.requires_grad else maps.detach().requires_grad_())
        return view.from_maps(kept[path][-1].clone(), output, run)

    with ExitStack() as stack:
        for path in dict.fromkeys(layers):
            view = (views or {}).get(path, CHANNELS_FIRST)
            stack.enter_context(changed_runs(module, path, view, partial(keep, path, view)))
        yield kept


def replaced(module: nn.Module, layer: str, maps: Tensor, view: ChannelLayout) -> AbstractContextManager[Any]:
    """Until the block ends, a layer returns its output P times, with other maps (P, C, h, w) of all its runs."""
    parts = iter(maps.chunk(view.counted, dim=1))

    def replacing(output: Tensor, run: int) -> Tensor:
        sizes = [maps.shape[0] if axis == view.batch_axis else -1 for axis in range(output.dim())]
        return view.from_maps(next(parts).to(output), output.expand(sizes), run)

    return changed_runs(module, layer, view, replacing)


def scores_behind(module: nn.Module, picture: Tensor, layer: str, maps: Tensor, view: ChannelLayout) -> Tensor:
    """The scores (P, K) of a picture (1, C, H, W) if a layer returned other maps (P, C, h, w) of all its runs.

    What lies before the layer runs for one picture, and what lies behind it for P, if the network allows that: the last
    activations by themselves must have the same scores. If not, all of it runs for P copies of the picture.
    """

    def scores(copies: int, maps: Tensor) -> Tensor:
        with replaced(module, layer, maps, view):
            found: Tensor = module(picture.repeat(copies, 1, 1, 1))
        return found

    try:
        found = scores(1, maps)
        last = scores(1, maps[-1:])
        if found.shape == (len(maps), last.shape[1]) and (found[-1] - last[0]).abs().max() <= 1e-4 * last.abs().max():
            return found
    except Exception:  # of the network's own code, which fails in its own words
        pass
    return scores(len(maps), maps)


def changed_runs(
    module: nn.Module, layer: str, view: ChannelLayout, changed: Callable[[Tensor, int], Tensor]
) -> AbstractContextManager[Any]:
    """Until the block ends, a hook changes a layer's output in each of the runs that have maps."""
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

    try:
        part = module.get_submodule(layer)
    except AttributeError as error:
        raise Unprocessable(f"layer {layer!r} is no module of the network") from error
    return part.register_forward_hook(hook)
