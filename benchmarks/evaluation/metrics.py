"""The measures of a map's quality, as pure functions of arrays; the protocols are those of the papers named.

A map is (H, W), its values are 0 or more. A mask is bool (H, W): the pixels whose centres lie in a box of the class.
Deletion and insertion are in ``handler.explanation.trust``.
"""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
import scipy.sparse.linalg
import scipy.stats

from handler.explanation.evidence import Floats

Mask = npt.NDArray[np.bool_]
PATCHES = 4  # a side, of the single-deletion score
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the pixels that ROAD removes
TOLERANCE = 15  # pixels, of the pointing game
_NOISE = 0.01  # of ROAD's imputation, in normalised values


def points_at(point: tuple[float, float], mask: Mask, tolerance: float = TOLERANCE) -> bool:
    """The pointing game: whether a pixel of the mask is nearer than the tolerance; if that is 0, the point itself."""
    rows, columns = np.nonzero(mask)
    squared = (rows - point[0]) ** 2 + (columns - point[1]) ** 2
    return bool(squared.size) and bool(squared.min() < max(tolerance**2, 0.5))


def peak(values: Floats) -> tuple[int, int]:
    """Row and column of a map's maximum; of several, the first."""
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    return int(row), int(column)


def mass_in(values: Floats, mask: Mask) -> float:
    """The share of a map's sum that lies in the mask; of a map without any, what an even map has."""
    total = float(values.sum(dtype=np.float64))
    return float(values[mask].sum(dtype=np.float64)) / total if total > 0 else float(mask.mean())


def own_share(values: Floats, own: Mask, other: Mask) -> float:
    """Of the mass in either of two objects' masks, the share in the own; a map of both classes alike means 1/2."""
    masses = [float(values[mask].sum(dtype=np.float64)) for mask in (own, other)]
    return masses[0] / sum(masses) if sum(masses) > 0 else 0.5


def drop(whole: float, kept: float) -> float:
    """Average drop (Grad-CAM++, Chattopadhay et al. 2018): ``max(0, Y - O) / Y``, O under the map as a mask."""
    return max(0.0, whole - kept) / whole if whole > 0 else 0.0


def adcc(coherency: float, complexity: float, dropped: float) -> float:
    """ADCC (Poppi et al. 2021): the harmonic mean of coherency, 1 - complexity and 1 - drop, on [0, 1]."""
    parts = [coherency, 1 - complexity, 1 - dropped]
    return 3 / sum(1 / part for part in parts) if min(parts) > 0 else 0.0


def coherency(values: Floats, again: Floats) -> float:
    """ADCC's coherency: Pearson's correlation of a map and that of the masked picture, moved to [0, 1]."""
    return (_correlation(values.ravel(), again.ravel()) + 1) / 2


def spearman(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Spearman's rank correlation of two arrays; 0 if either is constant."""
    return _correlation(*(scipy.stats.rankdata(np.ravel(values)) for values in (one, other)))


def _correlation(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    first, second = (values.astype(np.float64) - values.mean(dtype=np.float64) for values in (one, other))
    spread = np.sqrt(np.vdot(first, first) * np.vdot(second, second))
    return float(np.vdot(first, second) / spread) if spread > 0 else 0.0


def patches(size: int) -> Mask:
    """The masks (16, size, size) of a grid of 4 x 4 patches."""
    place = np.arange(size) * PATCHES // size
    return np.stack(
        [(place == row)[:, None] & (place == column) for row in range(PATCHES) for column in range(PATCHES)]
    )


def single_deletion(values: Floats, drops: npt.ArrayLike) -> float:
    """The single-deletion score (Hesse et al. 2024): Spearman of the patches' sums and the drops of the score (16,)."""
    return spearman([values[mask].sum(dtype=np.float64) for mask in patches(len(values))], drops)


def impute(tensor: Floats, missing: Mask, seed: int = 0, noise: float = _NOISE) -> Floats:
    """ROAD's noisy linear imputation (Rong et al. 2022): a missing pixel is the mean of its neighbours, plus noise.

    Neighbours at an edge weigh 1/6, those at a corner 1/12; missing neighbours of a picture (3, H, W) are solved for
    together. ``noise`` is a standard deviation, of normalised values.
    """
    system, gone = _system(missing.shape), missing.ravel()
    flat = tensor.reshape(len(tensor), -1)
    rows = system[gone]
    known = -(rows[:, ~gone] @ flat[:, ~gone].T.astype(np.float64))
    # symmetric and diagonally dominant: no pivoting is needed, and this order fills in least
    solver: Any = scipy.sparse.linalg.splu(
        rows[:, gone].tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    filled = solver.solve(known) + np.random.default_rng(seed).normal(0, noise, known.shape)
    result = flat.copy()
    result[:, gone] = filled.T
    return result.reshape(tensor.shape)


@cache
def _system(size: tuple[int, int]) -> Any:
    """The matrix that takes a pixel times the sum of its neighbours' weights, less the weighted neighbours."""
    rows, columns = (scipy.sparse.diags_array([1.0, 1.0], offsets=[-1, 1], shape=(length, length)) for length in size)
    row, column = (scipy.sparse.eye_array(length) for length in size)
    kron = scipy.sparse.kron
    matrix = (kron(row, columns) + kron(rows, column)) / 6 + kron(rows, columns) / 12
    return scipy.sparse.csr_matrix(scipy.sparse.diags_array(matrix.sum(axis=1)) - matrix)
