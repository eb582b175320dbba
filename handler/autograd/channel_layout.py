"""The axes of channels and cells in a layer's output, and whether the output shows the picture mirrored."""

from dataclasses import dataclass

from torch import Tensor, cat


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
