"""Compares an exported graph with PyTorch on inputs that were not the export example; a verdict needs every check.

Where a ReLU's input is within rounding of zero, its gate opens in one computation and not in another. A flip in an
early layer changes a few pixels by much, and a flip in a late layer changes all of them by little. A large network has
some in most pictures, in PyTorch's float32, too. So both gradients are compared with PyTorch's in float64.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from handler.errors import ModelError
from handler.picture.preprocess import Preprocessing, by_band

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Inputs = Mapping[str, npt.NDArray[Any]]  # "input" (N, C, H, W) and the graph's other inputs
Outputs = Mapping[str, Floats]
Run = Callable[[Inputs], Outputs]
Exact = Callable[[Inputs, Outputs], Outputs]  # takes the outputs of PyTorch's ``Run``, too

_MOST_PIXELS = 8 * 448**2  # of a batch: 8 pictures of 600 pixels would take more than 30 GB in a large network
CLOSE = 1e-4  # relative error of a picture without a flip, with room
CLOSE_AT_WORST = 1e-2
CLOSE_AT_LAYER = 5e-2  # instead of ``CLOSE_AT_WORST`` for "gradients", where one flip is one element of few
TIMES_OWN = 4  # quartiles of twelve pictures, and worst pictures, of the same distribution differ by so much
AT_MOST = 0.05, 0.3  # quartile and worst: beyond these it is another gradient, however bad PyTorch's own is
_FAINT = 1e-2  # of the batch's largest norm: a picture with a smaller norm is measured by this
_TINY = 1e-30  # divides instead of zero


@dataclass(frozen=True)
class Tolerance:
    """How far every element of one output may be from PyTorch's."""

    error: float
    relative: bool = False  # to the largest absolute value of PyTorch's output
    least: float = 1e-30  # of that value


@dataclass(frozen=True, kw_only=True)
class Check:
    """One output at one batch size, element by element."""

    output: str
    batch: int
    max_error: float
    share_beyond: float  # share of elements whose error exceeds the tolerance; NaN exceeds it
    tolerance: Tolerance

    @property
    def passed(self) -> bool:
        """Whether no element is beyond the tolerance."""
        return self.share_beyond == 0

    @property
    def limit(self) -> str:
        """The tolerance, for people."""
        held, least = self.tolerance, f", at least of {self.tolerance.least:g}" if self.tolerance.least > 1 else ""
        return f"{held.error:.0e} {f'of the largest{least}' if held.relative else 'absolute'}"


@dataclass(frozen=True, kw_only=True)
class RoundingCheck:
    """One output over all pictures: whether it is as close to the exact one as PyTorch's own is in float32."""

    output: str
    batch: int  # pictures in all
    max_error: float  # relative to the picture's largest value; infinite where a value is no number
    share_beyond: float  # share of elements whose relative error exceeds ``CLOSE``
    # relative RMS errors: the pictures' lower quartile, the worst picture, and the best picture of the worst batch
    graph: tuple[float, float, float]
    torch: tuple[float, float, float]  # those of PyTorch in float32

    @classmethod
    def of(cls, output: str, batches: Sequence[tuple[Floats, Floats, Floats]]) -> "RoundingCheck":
        """Measures an output; each batch is PyTorch's values in float64, PyTorch's in float32, the graph's: (N, …)."""
        elements = np.concatenate([_element_errors(exact, found) for exact, _, found in batches])
        largest, beyond = float(elements.max()), float((elements > CLOSE).mean())
        graph = _spread([_rms_errors(exact, found) for exact, _, found in batches])
        torch = _spread([_rms_errors(exact, own) for exact, own, _ in batches])
        return cls(output=output, batch=len(elements), max_error=largest, share_beyond=beyond, graph=graph, torch=torch)

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


def _rms_errors(exact: Floats, found: Floats) -> Doubles:
    """(N,): of each picture, relative to the picture's norm."""
    flat = exact.astype(np.float64).reshape(len(exact), -1)
    norms = np.linalg.norm(flat, axis=1)
    errors: Doubles = np.linalg.norm(found.reshape(flat.shape) - flat, axis=1)
    errors /= np.maximum(norms, max(_FAINT * float(norms.max()), _TINY))
    return errors


def _element_errors(exact: Floats, found: Floats) -> Doubles:
    """(N, …): relative to the picture's largest value."""
    largest = np.abs(exact).max(axis=tuple(range(1, exact.ndim)), keepdims=True)
    errors: Doubles = np.abs(found - exact.astype(np.float64)) / np.maximum(largest, _TINY)
    errors[np.isnan(errors)] = np.inf
    return errors


def _spread(errors: Sequence[Doubles]) -> tuple[float, float, float]:
    pictures = np.concatenate(errors)
    quartile = np.quantile(pictures, 0.25, method="higher")
    worst_best = max((float(batch.min()) for batch in errors if len(batch) > 1), default=0.0)
    return float(quartile), float(pictures.max()), worst_best


Verdict = Check | RoundingCheck


def batch_sizes(size: tuple[int, int]) -> tuple[int, ...]:
    """The batch sizes for pictures of a height and width: 1, 3 and 8, or fewer than 8 where memory has no room."""
    return (1, 3, max(4, min(8, _MOST_PIXELS // (size[0] * size[1]))))


class VerificationError(ModelError):
    """The graph differs from PyTorch; the message is the table of checks, ``summary`` is one line."""

    def __init__(self, message: str, summary: str | None = None) -> None:
        super().__init__(message)
        self.summary = summary or message


def compare(expected: Outputs, actual: Outputs, tolerances: Mapping[str, Tolerance]) -> list[Check]:
    """Compares values of PyTorch's outputs with the graph's; a VerificationError says which names or shapes differ."""
    if set(expected) != set(actual):
        raise VerificationError(f"the graph's outputs are {sorted(actual)}, PyTorch's are {sorted(expected)}")
    for name, value in expected.items():
        if actual[name].shape != value.shape:
            raise VerificationError(f"output {name} has shape {actual[name].shape}, PyTorch's has {value.shape}")
    checks = []
    for name, held in tolerances.items():
        if (wanted := expected.get(name)) is not None:
            error = np.abs(actual[name].astype(np.float64) - wanted)
            if held.relative:
                error /= max(float(np.abs(wanted).max()), held.least)
            beyond, most = 1 - float((error <= held.error).mean()), float(error.max())
            checks.append(Check(output=name, batch=len(wanted), max_error=most, share_beyond=beyond, tolerance=held))
    return checks


def fresh_pictures(rng: np.random.Generator, count: int, how: Preprocessing) -> Floats:
    """Random colour fields, normalised as ``how`` says: (count, C, H, W).

    White noise would not do: on it a trained network's scores run into the hundreds, where float32 itself is coarser
    than the tolerance.
    """
    fields = [rng.integers(0, 256, (cells, cells, how.channels), np.uint8) for cells in rng.integers(3, 12, count)]
    enlarge = partial(cv2.resize, dsize=how.size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.stack([how.normalise(by_band(enlarge, field)) for field in fields])


def verify(
    reference: Run,
    graph: Run,
    make_inputs: Callable[[np.random.Generator, int], Inputs],
    tolerances: Mapping[str, Tolerance],
    *,
    exact: Exact,
    seed: int = 1,
    gated: Sequence[str] = (),
    batches: Sequence[int] = (1, 3, 8),
) -> list[Verdict]:
    """Compares on fresh inputs at several batch sizes; the top class must be the same, too.

    An output that is too far from PyTorch's float32, the ``reference``, passes if it is close enough to PyTorch's
    float64, ``exact``, which is asked only where it decides. ``make_inputs`` makes a batch from a generator and the
    batch's size, and must not make the export example. Outputs without a tolerance are judged by their rounding, see
    ``RoundingCheck``, as are ``gated`` outputs if an element is beyond its tolerance. The message of the
    VerificationError of a check that fails has the whole table.
    """
    rng = np.random.default_rng(seed)
    answers = [(inputs, reference(inputs), graph(inputs)) for inputs in (make_inputs(rng, n) for n in batches)]
    checks = [check for _, expected, actual in answers for check in compare(expected, actual, tolerances)]
    beyond = {check.output for check in checks if not check.passed}
    by_rounding = [name for name in answers[0][1] if name not in tolerances or name in beyond & set(gated)]
    judged: list[Verdict] = []
    if beyond or by_rounding:
        both = [(exact(inputs, expected), expected, actual) for inputs, expected, actual in answers]
        # where scores are large, two float32 computations may be further apart than either is from the exact scores
        nearer = [check for truth, _, actual in both for check in compare(truth, actual, tolerances)]
        checks = [near if near.passed > check.passed else check for near, check in zip(nearer, checks, strict=True)]
        for name in by_rounding:
            judged.append(RoundingCheck.of(name, [(truth[name], own[name], found[name]) for truth, own, found in both]))
    verdicts = [check for check in checks if check.output not in by_rounding] + judged
    tops = ((expected["logits"].argmax(axis=1), actual["logits"].argmax(axis=1)) for _, expected, actual in answers)
    same_top = all(np.array_equal(*pair) for pair in tops)
    if not (all(check.passed for check in verdicts) and same_top):
        top = "" if same_top else "the top classes differ\n"
        message = f"the graph differs from PyTorch:\n{top}{table(verdicts)}"
        raise VerificationError(message, _summary(verdicts, same_top))
    return verdicts


def _summary(checks: Sequence[Verdict], same_top: bool) -> str:
    """The outputs that differ, each with its largest error, in one line."""
    worst: dict[str, Verdict] = {}
    for check in checks:
        if not check.passed and not check.max_error <= getattr(worst.get(check.output), "max_error", -1):
            worst[check.output] = check
    parts = [f"{name} by {check.max_error:.1e} ({check.limit})" for name, check in worst.items()]
    return "the graph differs from PyTorch in " + ", ".join(parts if same_top else [*parts, "the top class"])


def table(checks: Sequence[Verdict]) -> str:
    """The checks as text, one line for each."""
    width = max(len(check.output) for check in checks) + 2
    lines = [f"{'output':<{width}}{'pictures':>9}{'largest error':>15}{'beyond 1e-4':>13}  {'verdict':<9}held to"]
    for check in checks:
        measured = f"{check.batch:>9}{check.max_error:>15.2e}{check.share_beyond:>13.3%}"
        lines.append(f"{check.output:<{width}}{measured}  {'equal' if check.passed else 'DIFFERS':<9}{check.limit}")
    return "\n".join(lines)
