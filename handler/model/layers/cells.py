"""Finds out where the cells of a layer's output lie in the picture, by changing parts of the picture.

A tensor's shape does not tell rows, columns and channels: attention over T tokens is as square as a map, and the number
of latents may be a square. So parts of the picture are changed; a cell lies in the part that changes the cell most.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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


def parts(side: int) -> Iterator[tuple[slice, slice]]:
    """Yields rows and columns of the parts to change: bands from top to bottom, from left to right, then the edges."""
    whole, edges = slice(None), [round(number * side / BANDS) for number in range(BANDS + 1)]
    bands = [slice(*pair) for pair in zip(edges, edges[1:], strict=False)]
    margins = [slice(0, max(1, side // EDGE)), slice(side - max(1, side // EDGE), side)]
    yield from ((band, whole) for band in bands)
    yield from ((whole, band) for band in bands)
    yield from ((margin, whole) for margin in margins)
    yield from ((whole, margin) for margin in margins)


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Where the cells of a tensor lie in the picture."""

    channel_axis: int  # in the tensor without the batch axis
    grid: tuple[int, int]  # h, w
    shared_axis: bool  # whether rows and columns share one axis
    first: int = 0  # index of the first cell on a shared axis
    transposed: bool = False  # whether columns come before rows
    mirrored: tuple[bool, bool] = (False, False)  # upside down, left to right
    likeness: float = 1.0  # how well the cells follow the picture, see _LIKE
    profile: float = 1.0  # the likeness of averages of rows and of columns


def find_cells(changes: Mapping[int, Sequence[Floats]]) -> Cells | None:
    """Finds the arrangement by which cells change where the picture changes; None if there is none.

    Args:
        changes: for each axis that may be the channels' axis, how much the cells (h, w) or (T,) changed with each of
            ``parts``.
    """
    arrangements = [cells for axis, found in changes.items() for cells in _arrangements(axis, np.stack(found))]
    likely = [cells for cells in arrangements if cells.likeness >= _needed(cells) or _has_profile(cells)]
    best = max(likely, key=lambda cells: cells.likeness, default=None)
    if best is not None and best.shared_axis and _are_of_several_scales(np.stack(changes[best.channel_axis]), best):
        return None
    return best


def _has_profile(cells: Cells) -> bool:
    turned = cells.transposed or any(cells.mirrored)
    return cells.profile >= _LIKE_IN_PROFILE and min(cells.grid) >= _PROFILED and not turned


def _needed(cells: Cells) -> float:
    """The correlation that this many cells do not reach by chance."""
    count = cells.grid[0] * cells.grid[1]
    if cells.shared_axis:
        needed = min(math.tanh(_CHANCE / math.sqrt(count - 3)), _LIKE_IF_PARTED)
    else:
        needed = _LIKE_IF_FEW if count < _FEW else _LIKE
    if cells.transposed or any(cells.mirrored):
        needed = max(needed, _LIKE_IF_TURNED) if count >= _FEW else math.inf
    return max(_LIKE, needed)


def _arrangements(channel_axis: int, changed: Floats) -> Iterator[Cells]:
    """Yields the arrangements that the shape of the changes, (parts, h, w) or (parts, T), allows."""
    if changed.ndim == 3:
        yield from _orientations(channel_axis, changed, shared_axis=False, first=0)
        return
    count = changed.shape[1]
    for side in range(2, int(count**0.5) + 1):
        others = count - side * side
        if others <= _MOST_OTHER_TOKENS and others < side * side:
            for first in range(others + 1):
                grid = changed[:, first : first + side * side].reshape(-1, side, side)
                yield from _orientations(channel_axis, grid, shared_axis=True, first=first)


def _are_of_several_scales(changed: Floats, cells: Cells) -> bool:
    """Whether the other tokens (parts, T) are a map, too."""
    count = cells.grid[0] * cells.grid[1]
    others = changed[:, : cells.first], changed[:, cells.first + count :]
    return any(find_cells({cells.channel_axis: list(part)}) is not None for part in others if part.shape[1] >= _FEW)


def _orientations(channel_axis: int, changed: Floats, *, shared_axis: bool, first: int) -> Iterator[Cells]:
    """Yields the changes (parts, a, b) as cells of a rows and b columns, and of b rows and a columns."""
    height, width = changed.shape[1:]
    if min(height, width) < 2:
        return
    down, across = _centres(changed[:BANDS]), _centres(changed[BANDS : 2 * BANDS])
    if not (np.isfinite(down) & np.isfinite(across)).all():
        return
    first_axis, second_axis = np.mgrid[:height, :width]
    straight = _correlation(down, first_axis), _correlation(across, second_axis)
    turned = _correlation(down, second_axis), _correlation(across, first_axis)
    for transposed, (of_rows, of_columns) in ((False, straight), (True, turned)):
        grid = (width, height) if transposed else (height, width)
        mirrored, likeness = (of_rows < 0, of_columns < 0), min(abs(of_rows), abs(of_columns))
        if not _reaches_edges(
            changed[2 * BANDS :].transpose(0, 2, 1) if transposed else changed[2 * BANDS :], mirrored
        ):
            continue
        profile = min(_correlation(down.mean(1), np.arange(height)), _correlation(across.mean(0), np.arange(width)))
        yield Cells(
            channel_axis=channel_axis,
            grid=grid,
            shared_axis=shared_axis,
            first=first,
            transposed=transposed,
            mirrored=mirrored,
            likeness=likeness,
            profile=profile,
        )


def _reaches_edges(changed: Floats, mirrored: tuple[bool, bool]) -> bool:
    """Whether each edge of the picture, compared with the opposite edge, changes the same edge of the map most.

    Args:
        changed: how much the top, bottom, left and right edge of the picture change the cells, (4, h, w).
        mirrored: whether the map is upside down, and left to right.
    """
    for before, after, across, turned in (
        (changed[0], changed[1], 1, mirrored[0]),
        (changed[2], changed[3], 0, mirrored[1]),
    ):
        with np.errstate(divide="ignore", invalid="ignore"):
            share = before.sum(axis=across) / (before + after).sum(axis=across)
        share = share[::-1] if turned else share
        near = max(1, int(np.ceil(_NEAR_EDGE * len(share))))
        seen = share[np.isfinite(share)]
        if not (np.isfinite(share[:near]).any() and np.isfinite(share[-near:]).any()):
            return False
        if np.nanmax(share[:near]) < seen.max() - _TIE or np.nanmin(share[-near:]) > seen.min() + _TIE:
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
