"""Where a layer's output has its cells, in this package's own terms.

The terms are copied from the product's finding once; all further arithmetic here shares no code with the product.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten


@dataclass(frozen=True)
class Layout:
    """Of one layer's output; the cells lie in raster order."""

    height: int
    width: int
    batch_axis: int = 0
    channel_axis: int = 1
    first_token: int = 0  # index of the first cell, where cells share one axis
    element: int = 0  # which tensor of an output that holds several
    # each run mirrored left-right, up-down; None of a run that another one follows, which does not count
    runs: tuple[tuple[bool, bool] | None, ...] = ((False, False),)
    transposed: bool = False  # columns before rows

    @property
    def counted(self) -> list[int]:
        """Which runs count."""
        return [number for number, run in enumerate(self.runs) if run is not None]

    def cells(self, tensor: Tensor) -> Tensor:
        """A view (N, C, h, w) of the output's tensor."""
        ahead = torch.movedim(tensor, (self.batch_axis, self.channel_axis), (0, 1))
        if ahead.dim() == 4:
            return ahead.transpose(2, 3) if self.transposed else ahead
        tokens = ahead[:, :, self.first_token : self.first_token + self.height * self.width]
        if self.transposed:
            return tokens.unflatten(2, (self.width, self.height)).transpose(2, 3)
        return tokens.unflatten(2, (self.height, self.width))

    def others(self, tensor: Tensor) -> bool:
        """Whether there are tokens beside the cells."""
        return tensor.dim() == 3 and tensor.numel() > self.cells(tensor).numel()

    def upright(self, cells: Tensor, run: int) -> Tensor:
        """The cells of a run as the picture has them; the same puts them back."""
        axes = [axis for axis, mirrored in zip((-1, -2), self.runs[run] or (), strict=False) if mirrored]
        return cells.flip(axes) if axes else cells

    def tensor(self, output: Any) -> Tensor:
        """The tensor of the output that holds the cells."""
        return tree_flatten(output)[0][self.element]

    def replaced(self, output: Any, tensor: Tensor) -> Any:
        """The output with another tensor in that place."""
        leaves, structure = tree_flatten(output)
        leaves[self.element] = tensor
        return tree_unflatten(leaves, structure)


def layout_of(classifier: Any, path: str) -> Layout:
    """How the product says that the layer's output lies."""
    _, height, width = classifier.layers[path]
    its = classifier.views.get(path)
    if its is None:
        return Layout(height, width)
    runs = tuple(None if run is None else (run[1], run[0]) for run in its.runs)
    return Layout(height, width, its.batch_axis, its.channel_axis, its.first_token, its.element, runs, its.transposed)
