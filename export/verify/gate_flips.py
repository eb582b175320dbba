"""Whether a guided gradient is as close to the exact one as PyTorch's own is in float32.

Where a ReLU's input is within rounding of zero, its gate opens in one computation and not in another. A flip in an
early layer changes a few pixels by much, and a flip in a late layer changes all of them by little. A large network has
some in most pictures, in PyTorch's float32, too. So both gradients are compared with PyTorch's in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handler.explanation.evidence import Floats

CLOSE = 1e-4  # relative error of a picture without a flip, with room
CLOSE_AT_WORST = 1e-2
CLOSE_AT_LAYER = 5e-2  # instead of ``CLOSE_AT_WORST`` for "gradients", where one flip is one element of few
TIMES_OWN = 4  # quartiles of twelve pictures, and worst pictures, of the same distribution differ by so much
AT_MOST = 0.05, 0.3  # quartile and worst: beyond these it is another gradient, however bad PyTorch's own is
_FAINT = 1e-2  # of the batch's largest norm: a picture with a smaller norm is measured by this
_TINY = 1e-30  # divides instead of zero

_Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RoundingCheck:
    """One output, over all pictures."""

    output: str
    batch: int  # pictures in all
    max_error: float  # relative to the picture's largest value; infinite where a value is no number
    share_beyond: float  # share of elements whose relative error exceeds ``CLOSE``
    # relative RMS errors: the pictures' lower quartile, the worst picture, and the best picture of the worst batch
    graph: tuple[float, float, float]
    torch: tuple[float, float, float]  # those of PyTorch in float32

    @classmethod
    def of(cls, output: str, batches: Sequence[tuple[Floats, Floats, Floats]]) -> "RoundingCheck":
        """Measures an output.

        Args:
            output: its name.
            batches: for each batch PyTorch's values in float64, PyTorch's in float32 and the graph's, each (N, …).
        """
        elements = np.concatenate([_element_errors(exact, found) for exact, _, found in batches])
        return cls(
            output=output,
            batch=len(elements),
            max_error=float(elements.max()),
            share_beyond=float((elements > CLOSE).mean()),
            graph=_spread([_rms_errors(exact, found) for exact, _, found in batches]),
            torch=_spread([_rms_errors(exact, own) for exact, own, _ in batches]),
        )

    @property
    def allowed(self) -> tuple[float, float, float]:
        """The largest errors that pass: those that are close, or not much larger than PyTorch's.

        In no batch may every picture be off, as all are where the pictures of a batch are mixed.
        """
        quartile, worst, best = (TIMES_OWN * own for own in self.torch)
        close = CLOSE_AT_LAYER if self.output == "gradients" else CLOSE_AT_WORST
        return min(max(CLOSE, quartile), AT_MOST[0]), min(max(close, worst), AT_MOST[1]), max(CLOSE_AT_WORST, best)

    @property
    def passed(self) -> bool:
        """Whether no error is larger than allowed."""
        return all(found <= most for found, most in zip(self.graph, self.allowed, strict=True))

    @property
    def limit(self) -> str:
        """The errors that pass and those that were found, for people."""
        (quartile, worst, _), (most, at_worst, _) = self.graph, self.allowed
        return f"RMS of the quartile {most:.0e} (is {quartile:.0e}), of the worst {at_worst:.0e} (is {worst:.0e})"


def _rms_errors(exact: Floats, found: Floats) -> _Doubles:
    """(N,): of each picture, relative to the picture's norm."""
    flat = exact.astype(np.float64).reshape(len(exact), -1)
    norms = np.linalg.norm(flat, axis=1)
    errors: _Doubles = np.linalg.norm(found.reshape(flat.shape) - flat, axis=1)
    errors /= np.maximum(norms, max(_FAINT * float(norms.max()), _TINY))
    return errors


def _element_errors(exact: Floats, found: Floats) -> _Doubles:
    """(N, …): relative to the picture's largest value."""
    largest = np.abs(exact).max(axis=tuple(range(1, exact.ndim)), keepdims=True)
    errors: _Doubles = np.abs(found - exact.astype(np.float64)) / np.maximum(largest, _TINY)
    errors[np.isnan(errors)] = np.inf
    return errors


def _spread(errors: Sequence[_Doubles]) -> tuple[float, float, float]:
    pictures = np.concatenate(errors)
    quartile = np.quantile(pictures, 0.25, method="higher")
    worst_best = max((float(batch.min()) for batch in errors if len(batch) > 1), default=0.0)
    return float(quartile), float(pictures.max()), worst_best
