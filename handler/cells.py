"""Finds out where the cells of a layer's output lie in the picture, from what changes when a part of it changes.

A tensor's shape does not say which axes are rows, columns and channels: attention over T tokens is as square as a map,
and latents may be a square number. So parts of the picture are replaced, and a cell lies where it changes most.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BANDS = 4  # that the picture is cut into, in each direction
EDGE = 16  # a part of the picture's side, at each of its edges: what a network may leave unseen
_LIKE = 0.5  # correlation of where cells are and where they change, on both axes
_MOST_OTHER_TOKENS = 16  # class tokens, registers
_UNSEEN = 1e-6  # of the largest change


def parts(side: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the parts that are replaced: bands from top to bottom, from left to right, then the edges."""
    whole, edges = slice(None), [round(number * side / BANDS) for number in range(BANDS + 1)]
    bands = [slice(*pair) for pair in zip(edges, edges[1:], strict=False)]
    margins = [slice(0, max(1, side // EDGE)), slice(side - max(1, side // EDGE), side)]
    yield from ((band, whole) for band in bands)
    yield from ((whole, band) for band in bands)
    yield from ((margin, whole) for margin in margins)
    yield from ((whole, margin) for margin in margins)


@dataclass(frozen=True)
class Cells:
    """How the cells of a tensor lie in the picture."""

    channel_axis: int  # of the tensor without its pictures' axis
    grid: tuple[int, int]  # h, w
    shared_axis: bool  # the cells share one axis
    first: int = 0  # index of the first cell on a shared axis
    transposed: bool = False
    mirrored: tuple[bool, bool] = (False, False)  # upside down, left to right
    whole: bool = True  # every edge of the picture changes some cell


def find_cells(changes: Mapping[int, Sequence[Floats]]) -> Cells | None:
    """The arrangement under which cells change where the picture changes; None if there is none.

    Args:
        changes: for each axis that may be the channels', how much the cells changed with each of ``parts``: arrays
            (h, w) or (T,).
    """
    best: tuple[float, Cells] | None = None
    for channel_axis, found in changes.items():
        changed = np.stack(found)
        for likeness, cells in _arrangements(channel_axis, changed):
            if likeness >= _LIKE and (best is None or likeness > best[0]):
                best = likeness, cells
    return best[1] if best else None


def _arrangements(channel_axis: int, changed: Floats) -> Iterator[tuple[float, Cells]]:
    """How well each arrangement of cells agrees with their changes (parts, h, w) or (parts, T)."""
    if changed.ndim == 3:
        yield from _judged(channel_axis, changed, shared_axis=False, first=0)
        return
    count = changed.shape[1]
    for side in range(2, int(count**0.5) + 1):
        others = count - side * side
        if others <= _MOST_OTHER_TOKENS:
            for first in range(others + 1):
                grid = changed[:, first : first + side * side].reshape(-1, side, side)
                yield from _judged(channel_axis, grid, shared_axis=True, first=first)


def _judged(channel_axis: int, changed: Floats, *, shared_axis: bool, first: int) -> Iterator[tuple[float, Cells]]:
    """Cells (parts, a, b) as rows and columns, and as columns and rows."""
    height, width = changed.shape[1:]
    if min(height, width) < 2:
        return
    down, across = _centres(changed[:BANDS]), _centres(changed[BANDS : 2 * BANDS])
    if not (np.isfinite(down) & np.isfinite(across)).all():
        return
    edges = changed[2 * BANDS :].reshape(len(changed) - 2 * BANDS, -1).max(axis=1)
    whole = bool((edges > _UNSEEN * changed.max()).all())
    first_axis, second_axis = np.mgrid[:height, :width]
    straight = _correlation(down, first_axis), _correlation(across, second_axis)
    turned = _correlation(down, second_axis), _correlation(across, first_axis)
    for transposed, (of_rows, of_columns) in ((False, straight), (True, turned)):
        yield (
            min(abs(of_rows), abs(of_columns)),
            Cells(
                channel_axis,
                (width, height) if transposed else (height, width),
                shared_axis,
                first,
                transposed,
                (of_rows < 0, of_columns < 0),
                whole,
            ),
        )


def _centres(changed: Floats) -> Floats:
    """Which band changes a cell, on average, (h, w); NaN for cells that no band changes."""
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = changed / changed.sum(axis=0)
    return np.tensordot(np.arange(BANDS) + 0.5, weights, 1)


def _correlation(values: Floats, positions: npt.NDArray[np.int64]) -> float:
    apart, steps = values - values.mean(), positions - positions.mean()
    spread = float(np.sqrt((apart**2).sum() * (steps**2).sum()))
    return float((apart * steps).sum()) / spread if spread > 0 else 0.0
