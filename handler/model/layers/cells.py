"""Finds out where the cells of a layer's output lie, by the operations that made it, or by changing the picture.

Convolutions, pooling, pointwise operations and shuffles of channels keep the order of rows and columns, whatever the
weights. Behind all other operations, a tensor's shape does not tell rows, columns and channels: attention over T tokens
is as square as a map, and the number of latents may be a square. So parts of the picture are changed; a cell lies in
the part that changes the cell most.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from handler.autograd.graph import Node, axes, nodes, operation
from handler.autograd.layer_maps import ChannelLayout

Floats = npt.NDArray[np.float64]

BANDS = 4  # number of bands that the picture is cut into, in each direction
EDGE = 8  # an edge is 1/8 of the picture's side; a layer that misses a whole edge has no map
# The likeness of a map says how well its cells follow the picture: for each axis, the correlation between the places of
# the cells in the map and the places of the bands in the picture that change them. The lower of the two correlations
# counts. These are the lowest values that a map may have
_LIKE = 0.5
_FEW = 9  # number of cells; fewer cells may correlate by chance
_LIKE_IF_FEW = 0.8  # for few cells with two axes
_LIKE_IF_PARTED = 0.95  # upper bound for cells on a shared axis, which can be split into cells and others in many ways
_LIKE_IF_TURNED = 0.8  # for cells that show the picture mirrored or transposed, which few cells may do by chance
_LIKE_IN_PROFILE = 0.8  # for averages of rows and columns: single cells of deep networks follow the picture but little
_PROFILED = 6  # least number of rows, and of columns, for averages of them
_CHANCE = 4  # standard deviations of the correlation of random numbers
_MOST_OTHER_TOKENS = 16  # class tokens and registers; they are also fewer than the cells
_NEAR_EDGE = 0.125  # share of the rows (columns) that counts as the edge of the map
_TIE = 0.02  # difference of shares that counts as none


def parts(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Yields rows and columns of the parts to change: bands from top to bottom, from left to right, then the edges."""
    for strips in (_bands, _edges):
        yield from ((strip, slice(None)) for strip in strips(height))
        yield from ((slice(None), strip) for strip in strips(width))


def _bands(side: int) -> list[slice]:
    return [slice(*pair) for pair in pairwise(round(number * side / BANDS) for number in range(BANDS + 1))]


def _edges(side: int) -> list[slice]:
    edge = max(1, side // EDGE)
    return [slice(0, edge), slice(side - edge, side)]


class _Cells(NamedTuple):
    """An arrangement of cells, and how well the cells follow the picture in it."""

    layout: ChannelLayout
    size: tuple[int, int]  # h, w
    likeness: float  # see _LIKE
    profile: float  # the likeness of averages of rows and of columns


def find_cells(changes: Mapping[int, Sequence[Floats]], ratio: float = 1.0) -> ChannelLayout | None:
    """Finds the layout by which cells change where the picture changes, for the batch axis 0; None if there is none.

    ``changes``: for each axis that may be the channels', how much each of ``parts`` changed the cells, (h, w) or (T,).
    ``ratio``: the picture's width by its height, which is about that of cells on a shared axis.
    """
    arrangements = [cells for axis, found in changes.items() for cells in _arrangements(axis, np.stack(found), ratio)]
    best = max(filter(_is_likely, arrangements), key=lambda cells: cells.likeness, default=None)
    if best is None:
        return None
    axis, first = best.layout.channel_axis, best.layout.first_token
    changed, behind = np.stack(changes[axis]), first + math.prod(best.size)
    others = (changed[:, :first], changed[:, behind:]) if best.layout.grid else ()
    if any(part.shape[1] >= _FEW and find_cells({axis: list(part)}, ratio) for part in others):
        return None  # tokens of several scales
    return best.layout


def _is_likely(cells: _Cells) -> bool:
    """Whether cells follow the picture better than that many cells do by chance."""
    count, turned = math.prod(cells.size), cells.layout.transposed or cells.layout.runs != ((False, False),)
    if cells.profile >= _LIKE_IN_PROFILE and min(cells.size) >= _PROFILED and not turned:
        return True
    needed = _LIKE_IF_FEW if count < _FEW else _LIKE
    if cells.layout.grid:
        needed = max(_LIKE, min(math.tanh(_CHANCE / math.sqrt(count - 3)), _LIKE_IF_PARTED))
    if turned:
        needed = max(needed, _LIKE_IF_TURNED) if count >= _FEW else math.inf
    return cells.likeness >= needed


def _arrangements(channel_axis: int, changed: Floats, ratio: float) -> Iterator[_Cells]:
    """Yields the arrangements that the shape of the changes, (parts, h, w) or (parts, T), allows."""
    if changed.ndim == 3:
        yield from _orientations(ChannelLayout(channel_axis=channel_axis), changed)
        return
    count = changed.shape[1]
    for height, width in _grids(count, ratio):
        for first in range(count - height * width + 1):
            layout = ChannelLayout(channel_axis=channel_axis, grid=(height, width), first_token=first)
            yield from _orientations(layout, changed[:, first : first + height * width].reshape(-1, height, width))


def _grids(count: int, ratio: float) -> list[tuple[int, int]]:
    """The heights and widths of cells among that many tokens, as the picture's or turned; patches may end within it."""
    nearest = math.floor, math.ceil
    tall = [(rows, near(rows * ratio)) for rows in range(2, count // 2 + 1) for near in nearest]
    shapes = dict.fromkeys(grid for pair in tall for grid in (pair, pair[::-1]))
    return [(h, w) for h, w in shapes if w > 1 and h * w <= count <= h * w + min(_MOST_OTHER_TOKENS, h * w - 1)]


def _orientations(layout: ChannelLayout, changed: Floats) -> Iterator[_Cells]:
    """Yields the changes (parts, a, b) as cells of a rows and b columns, and of b rows and a columns."""
    for transposed in (False, True):
        cells = changed.transpose(0, 2, 1) if transposed else changed
        height, width = cells.shape[1:]
        down, across = _centres(cells[:BANDS]), _centres(cells[BANDS : 2 * BANDS])
        if min(height, width) < 2 or not np.isfinite(down + across).all():
            return
        rows, columns = np.mgrid[:height, :width]
        of_rows, of_columns = _correlation(down, rows), _correlation(across, columns)
        mirrored = of_rows < 0, of_columns < 0
        if _reaches_edges(cells[2 * BANDS :], mirrored):
            grid = (height, width) if layout.grid else None
            found = replace(layout, grid=grid, transposed=transposed, runs=(mirrored,))
            profile = min(_correlation(down.mean(1), rows[:, 0]), _correlation(across.mean(0), columns[0]))
            yield _Cells(found, (height, width), min(abs(of_rows), abs(of_columns)), profile)


def _reaches_edges(changed: Floats, mirrored: tuple[bool, bool]) -> bool:
    """Whether each edge of the picture, compared with the opposite edge, changes the same edge of the map most.

    ``changed`` (4, h, w) says how much the picture's top, bottom, left and right edges change the cells.
    """
    for axis, turned in enumerate(mirrored):
        before, after = changed[2 * axis : 2 * axis + 2].sum(axis=2 - axis)
        with np.errstate(invalid="ignore"):
            share = before / (before + after)  # NaN where neither edge changes a cell, which fmax and fmin pass over
        share = share[::-1] if turned else share
        near = max(1, math.ceil(_NEAR_EDGE * len(share)))
        first, last = np.fmax.reduce(share[:near]), np.fmin.reduce(share[-near:])
        if not (first >= np.fmax.reduce(share) - _TIE and last <= np.fmin.reduce(share) + _TIE):
            return False
    return True


def _centres(changed: Floats) -> Floats:
    """The mean position (h, w) of the bands that change a cell, in bands; NaN for cells that no band changes."""
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = changed / changed.sum(axis=0)
    return np.tensordot(np.arange(BANDS) + 0.5, weights, 1)


def _correlation(values: Floats, positions: npt.NDArray[np.int64]) -> float:
    apart, steps = values - values.mean(), positions - positions.mean()
    spread = float(np.sqrt((apart**2).sum() * (steps**2).sum()))
    return float((apart * steps).sum()) / spread if spread > 0 else 0.0


# pointwise operations, windows that slide over rows and columns, operations between whole maps
_KEEPING = """Add Sub Rsub Neg Mul Div Addcmul Clone ToCopy Contiguous Relu Hardtanh Hardswish Hardsigmoid Sigmoid Silu
Gelu Elu Celu LeakyRelu PreluKernel Mish Softplus Tanh Clamp ClampMin Threshold Maximum Fmax Abs Pow Sqrt Exp
NativeBatchNorm CudnnBatchNorm NativeGroupNorm MaxPool2DWithIndices AvgPool2D AdaptiveAvgPool2D AdaptiveMaxPool2D
MkldnnAdaptiveAvgPool2D UpsampleNearest2D UpsampleNearestExact2D UpsampleBilinear2D UpsampleBilinear2DAa
UpsampleBicubic2D UpsampleBicubic2DAa PixelShuffle PixelUnshuffle ChannelShuffle Mean Amax Expand"""

Shape = tuple[int, ...]


def keeps_arrangement(root: Node, leaf: Node, known: Collection[Node]) -> bool:
    """Whether every path from a layer's output (N, C, h, w) to the picture keeps the order of rows and columns.

    ``root`` and ``leaf`` are nodes of the output and the picture, ``known`` those of tensors (N, C, h, w) whose cells
    are known to lie as the picture's pixels.
    """

    def ends(node: Node) -> bool:
        return node is leaf or node in known or _shape(node)[2:] == (1, 1)  # as gates of whole channels are

    return all(_keeps(node, operation(node), _shape(node)) for node in nodes(root, avoided=ends))


def _keeps(node: Node, name: str, after: Shape) -> bool:
    # without channels a tensor still has rows and columns
    return len(after) > 2 and (name in _KEEPING.split() or name in _IF and _IF[name](node, after))


def _shape(node: Node) -> Shape:
    """The shape of an operation's output, of several that of the first; () if it is not known."""
    return next((tuple(output.shape) for output in node._input_metadata), ())


def _same_maps(node: Node, after: Shape) -> bool:
    before = [_shape(following) for following, _ in node.next_functions if following is not None]
    return all(len(shape) >= 4 and shape[-2:] == after[-2:] for shape in before)


def _is_padded_within_reach(node: Node) -> bool:
    """Whether a convolution's padding is no wider than the reach of its kernel."""
    reach = np.asarray(node._saved_dilation) * (np.asarray(node._saved_weight.shape[2:]) - 1)
    return bool(np.all(np.asarray(node._saved_padding) <= reach))  # padding="valid" is (0,) for all axes


def _is_narrow(padding: Iterable[int], after: Shape, share: int) -> bool:
    """Whether the padding is at most the shorter side divided by ``share``, or one cell."""
    return max(padding) <= max(1, min(after[-2:]) // share)


_IF: dict[str, Callable[[Node, Shape], bool]] = {
    "Convolution": lambda node, _after: node._saved_transposed or _is_padded_within_reach(node),
    # wider padding would make the map show more than the picture
    "ConstantPadNd": lambda node, after: _is_narrow(map(abs, node._saved_pad), after, 8),
    "ReflectionPad2D": lambda node, after: _is_narrow(node._saved_padding, after, 2),
    "ReplicationPad2D": lambda node, after: _is_narrow(node._saved_padding, after, 2),
    "Index": lambda node, after: _same_maps(node, after) and all(index is None for index in node._saved_indices[2:]),
    "Flip": lambda node, after: max(axes(node._saved_dims, len(after))) < len(after) - 2,
    "Select": lambda node, after: axes([node._saved_dim], len(after) + 1)[0] < len(after) - 1,
    "Unsqueeze": lambda node, after: axes([node._saved_dim], len(after))[0] < len(after) - 2,
    **dict.fromkeys(("View", "UnsafeView", "ReshapeAlias", "Slice", "Split", "SplitWithSizes", "Cat"), _same_maps),
    "Transpose": lambda node, after: max(axes([node._saved_dim0, node._saved_dim1], len(after))) < len(after) - 2,
    "Permute": lambda node, after: axes(node._saved_dims, len(after))[-2:] == [len(after) - 2, len(after) - 1],
}
