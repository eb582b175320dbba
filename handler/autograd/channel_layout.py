"""Where a layer's output has its channels and cells, and which way round it shows the picture."""

from dataclasses import dataclass

from torch import Tensor, cat

Mirroring = tuple[bool, bool]  # upside down, left to right


@dataclass(frozen=True, kw_only=True)
class ChannelLayout:
    """Shows a layer's output as maps (N, C, h, w), and puts maps back into the output.

    Convolutions return (N, C, h, w), Swin transformers (N, h, w, C), vision transformers tokens (N, T, C) with others
    before those of the picture; PyTorch's own transformers take sequences first, (T, N, C).
    """

    batch_axis: int = 0
    channel_axis: int = 1
    grid: tuple[int, int] | None = None  # h, w of cells that share one axis; None where they have two
    first_token: int = 0  # index of the first cell on a shared axis
    transposed: bool = False  # the columns' axis comes before the rows', or the cells go column after column
    element: int = 0  # which tensor of an output of several, in the order of torch.utils._pytree
    # how each run of the layer sees the picture; None of a run that another one follows: the last ones count
    runs: tuple[Mirroring | None, ...] = ((False, False),)

    @property
    def counted(self) -> int:
        """How many of the layer's runs count."""
        return sum(run is not None for run in self.runs)

    def to_maps(self, output: Tensor, run: int = 0) -> Tensor:
        """The output of a run as (N, C, h, w), the way round that the picture is."""
        maps = self._cells(output) if self.grid else _permuted(output, self._axes(output))
        mirrored = self._mirrored_axes(run)
        return maps.flip(mirrored) if mirrored else maps

    def from_maps(self, maps: Tensor, output: Tensor, run: int = 0) -> Tensor:
        """``output`` with the maps (N, C, h, w) instead of its own; what the maps do not show stays."""
        mirrored = self._mirrored_axes(run)
        maps = maps.flip(mirrored) if mirrored else maps
        axes = self._axes(output)
        back = [axes.index(axis) for axis in range(len(axes))]
        if self.grid is None:
            return _permuted(maps, back)
        cells = (maps.transpose(2, 3) if self.transposed else maps).flatten(2).permute(back)
        axis, first, count = axes[2], self.first_token, cells.shape[axes[2]]
        others = output.narrow(axis, 0, first), output.narrow(axis, first + count, output.shape[axis] - first - count)
        return _joined([others[0], cells, others[1]], axis)

    def _cells(self, output: Tensor) -> Tensor:
        assert self.grid is not None
        height, width = self.grid
        axes = self._axes(output)
        tokens = output.narrow(axes[2], self.first_token, height * width).permute(axes)
        if self.transposed:
            return tokens.reshape(*tokens.shape[:2], width, height).transpose(2, 3)
        return tokens.reshape(*tokens.shape[:2], height, width)

    def _axes(self, output: Tensor) -> list[int]:
        """The output's axes in the order pictures, channels, rows, columns, or pictures, channels, tokens."""
        cells = [axis for axis in range(output.dim()) if axis not in (self.batch_axis, self.channel_axis)]
        return [self.batch_axis, self.channel_axis, *(reversed(cells) if self.transposed else cells)]

    def _mirrored_axes(self, run: int) -> list[int]:
        return [axis for axis, mirrored in zip((2, 3), self.runs[run] or (), strict=False) if mirrored]


def _permuted(tensor: Tensor, axes: list[int]) -> Tensor:
    """A view only where axes change places: what is no view may be rewritten in place."""
    return tensor if axes == sorted(axes) else tensor.permute(axes)


def _joined(parts: list[Tensor], axis: int) -> Tensor:
    return cat([part for part in parts if part.shape[axis]], dim=axis)


CHANNELS_FIRST = ChannelLayout()
