"""Whether a guided gradient is as close to the exact one as PyTorch's own is in float32.

Where a ReLU's input is within rounding of zero, its gate opens in one computation and not in another. A flip in an
early layer changes a few pixels by much, one in a late layer all of them by little, and a large network has some in
most pictures; PyTorch in float32 has them, too. So both are compared with PyTorch in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

CLOSE = 1e-4  # relative error of a picture without a flip, with room
CLOSE_AT_WORST = 1e-2
CLOSE_AT_LAYER = 5e-2  # the same of "gradients", where one flip is one element of few
TIMES_OWN = 4  # quartiles of twelve, and worst ones, of the same distribution differ by so much
AT_MOST = 0.05, 0.3  # quartile and worst: what is further away is another gradient, however bad PyTorch's own is
_FAINT = 1e-2  # a picture that has less than this of the largest norm is measured by that


@dataclass(kw_only=True)
class Deviations:
    """From float64, collected over all pictures."""

    graph: list[float] = field(default_factory=list)  # relative RMS error of each picture
    torch: list[float] = field(default_factory=list)
    # as in ``RoundingCheck``, over batches of several pictures
    worst_best: tuple[float, float] = (0.0, 0.0)
    max_error: float = 0.0
    beyond: list[float] = field(default_factory=list)  # share of elements, one entry per picture

    def add(self, exact: Floats, torch: Floats, graph: Floats) -> None:
        """Measures one batch (N, 3, H, W)."""
        norms = np.sqrt(_squares(exact))
        scale = np.maximum(norms, max(_FAINT * float(norms.max()), 1e-30))
        errors, own = (list(np.sqrt(_squares(found - exact)) / scale) for found in (graph, torch))
        self.graph += errors
        self.torch += own
        if len(errors) > 1:
            self.worst_best = max(self.worst_best[0], min(errors)), max(self.worst_best[1], min(own))
        for one, other in zip(exact.astype(np.float64), graph, strict=True):
            error = np.abs(other - one) / max(float(np.abs(one).max()), 1e-30)
            self.max_error = float(np.fmax(self.max_error, error.max())) if np.isfinite(error).all() else np.inf
            self.beyond.append(1 - float((error <= CLOSE).mean()))


def _squares(values: Floats) -> npt.NDArray[np.float64]:
    squares: npt.NDArray[np.float64] = (values.astype(np.float64) ** 2).reshape(len(values), -1).sum(axis=1)
    return squares


@dataclass(frozen=True, kw_only=True)
class RoundingCheck:
    """One output, over all pictures."""

    output: str
    batch: int  # pictures in all
    max_error: float  # relative to the picture's largest value
    share_beyond: float  # share of elements whose relative error exceeds ``CLOSE``
    graph: tuple[float, float]  # relative RMS error of the pictures: lower quartile, worst
    torch: tuple[float, float]  # relative RMS error of PyTorch in float32: lower quartile, worst
    # the smallest error of a batch's pictures, in the batch where it is largest: the graph's and PyTorch's
    worst_best: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of(cls, output: str, found: Deviations) -> "RoundingCheck":
        """The verdict on what was collected."""
        share = float(np.mean(found.beyond))
        spreads = _spread(found.graph), _spread(found.torch)
        return cls(
            output=output,
            batch=len(found.graph),
            max_error=found.max_error,
            share_beyond=share,
            graph=spreads[0],
            torch=spreads[1],
            worst_best=found.worst_best,
        )

    @property
    def allowed(self) -> tuple[float, float]:
        """The largest relative RMS errors, of the lower quartile and of the worst picture."""
        quartile, worst = (TIMES_OWN * own for own in self.torch)
        close = CLOSE_AT_LAYER if self.output == "gradients" else CLOSE_AT_WORST
        return min(max(CLOSE, quartile), AT_MOST[0]), min(max(close, worst), AT_MOST[1])

    @property
    def passed(self) -> bool:
        """Whether the lower quartile and the worst picture are close, or not much further away than PyTorch's.

        No batch may be wrong as a whole either, as one would be whose pictures are mixed.
        """
        graph, torch = self.worst_best
        in_each_batch = graph <= max(CLOSE_AT_WORST, TIMES_OWN * torch)
        return in_each_batch and all(found <= most for found, most in zip(self.graph, self.allowed, strict=True))

    @property
    def limit(self) -> str:
        """What it was held to, for people."""
        (quartile, worst), (most, at_worst) = self.graph, self.allowed
        return f"RMS of the quartile {most:.0e} (is {quartile:.0e}), of the worst {at_worst:.0e} (is {worst:.0e})"


def _spread(errors: Sequence[float]) -> tuple[float, float]:
    return float(np.quantile(errors, 0.25, method="higher")), float(np.max(errors))
