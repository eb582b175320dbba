"""Compares an exported graph with PyTorch on inputs that were not the export example; a verdict needs every check."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from export.verify.gate_flips import Deviations, RoundingCheck
from handler.errors import ModelError
from handler.picture.preprocess import Preprocessing

Floats = npt.NDArray[np.float32]
Inputs = Mapping[str, npt.NDArray[Any]]  # "input" (N, 3, H, W) and what else the graph takes
Run = Callable[[Inputs], Mapping[str, Floats]]  # inputs to outputs, both by name

Exact = Callable[[Inputs, Mapping[str, Floats]], Mapping[str, Floats]]  # given what ``Run`` answered, too

_BATCH_SIZES = (1, 3, 8)
_MOST_PIXELS = 8 * 448**2  # of a batch: 8 pictures of 600 pixels would take more than 30 GB in a large network


@dataclass(frozen=True)
class Tolerance:
    """How far every element of one output may be from PyTorch's."""

    error: float
    relative: bool = False  # to the largest absolute value of PyTorch's output


@dataclass(frozen=True, kw_only=True)
class Check:
    """One output at one batch size, element by element."""

    output: str
    batch: int
    shape: tuple[int, ...]
    max_error: float
    share_beyond: float  # share of elements whose error exceeds the tolerance; NaN exceeds it
    tolerance: Tolerance

    @property
    def passed(self) -> bool:
        """Whether no element is beyond the tolerance."""
        return self.share_beyond == 0

    @property
    def limit(self) -> str:
        """What it was held to, for people."""
        return f"{self.tolerance.error:.0e} {'of the largest' if self.tolerance.relative else 'absolute'}"


Verdict = Check | RoundingCheck


def batch_sizes(side: int) -> tuple[int, ...]:
    """Those that graphs are compared at: 1, 3 and 8, or as many instead of 8 as the memory has room for.

    Args:
        side: of the square pictures, in pixels.
    """
    *smaller, largest = _BATCH_SIZES
    return (*smaller, max(smaller[-1] + 1, min(largest, _MOST_PIXELS // side**2)))


class VerificationError(ModelError):
    """The graph differs from PyTorch; the message is the table of checks, ``summary`` one line of it."""

    def __init__(self, message: str, summary: str | None = None) -> None:
        super().__init__(message)
        self.summary = summary or message


def compare(
    expected: Mapping[str, Floats], actual: Mapping[str, Floats], tolerances: Mapping[str, Tolerance]
) -> list[Check]:
    """Compares names, then shapes, then those values of one batch that there are tolerances for.

    Raises:
        VerificationError: names or shapes differ.
    """
    if set(expected) != set(actual):
        raise VerificationError(f"the graph's outputs are {sorted(actual)}, PyTorch's are {sorted(expected)}")
    for name, value in expected.items():
        if actual[name].shape != value.shape:
            raise VerificationError(f"output {name} has shape {actual[name].shape}, PyTorch's has {value.shape}")
    return [
        _check(name, expected[name], actual[name], tolerance)
        for name, tolerance in tolerances.items()
        if name in expected
    ]


def _check(name: str, expected: Floats, actual: Floats, tolerance: Tolerance) -> Check:
    error = np.abs(actual.astype(np.float64) - expected)
    if tolerance.relative:
        error /= max(float(np.abs(expected).max()), 1e-30)
    beyond = 1 - float((error <= tolerance.error).mean())
    return Check(
        output=name,
        batch=len(expected),
        shape=expected.shape,
        max_error=float(error.max()),
        share_beyond=beyond,
        tolerance=tolerance,
    )


def fresh_pictures(rng: np.random.Generator, count: int, how: Preprocessing) -> Floats:
    """Random colour fields, normalised: (count, 3, side, side).

    White noise would not do: on it a trained network's scores run into the hundreds, where float32 itself is coarser
    than the tolerance.
    """
    side = (how.crop_size, how.crop_size)
    fields = [rng.integers(0, 256, (cells, cells, 3), np.uint8) for cells in rng.integers(3, 12, count)]
    return np.stack([how.normalise(_uint8(cv2.resize(one, side, interpolation=cv2.INTER_CUBIC))) for one in fields])


def _uint8(picture: object) -> npt.NDArray[np.uint8]:
    return np.asarray(picture, np.uint8)


def verify(
    reference: Run,
    graph: Run,
    make_inputs: Callable[[np.random.Generator, int], Inputs],
    tolerances: Mapping[str, Tolerance],
    seed: int = 1,
    exact: Exact | None = None,
    gated: Sequence[str] = (),
    batches: Sequence[int] = _BATCH_SIZES,
) -> list[Verdict]:
    """Compares on fresh inputs at several batch sizes; the top class must be the same, too.

    An output that is beyond its tolerance of PyTorch's float32 passes if it is within it of PyTorch's float64.

    Args:
        reference: PyTorch.
        graph: the exported graph.
        make_inputs: from a generator and a batch size; must not make the export example.
        tolerances: by output; outputs without one are judged by their rounding.
        seed: of the inputs.
        exact: PyTorch in float64; outputs that are judged by their rounding need it, see ``export.verify.gate_flips``.
        gated: outputs that are judged by their rounding if an element is beyond its tolerance.
        batches: their sizes, see ``batch_sizes``.

    Raises:
        VerificationError: with the whole table, if any check fails.
        ValueError: ``exact`` is missing.
    """
    rng = np.random.default_rng(seed)
    answers = []
    for batch in batches:
        inputs = make_inputs(rng, batch)
        answers.append(Answers(inputs, reference(inputs), graph(inputs)))
    compared = [compare(one.expected, one.actual, tolerances) for one in answers]
    beyond = {check.output for found in compared for check in found if not check.passed}
    by_rounding = [name for name in answers[0].expected if name not in tolerances or name in beyond & set(gated)]
    if by_rounding and exact is None:
        raise ValueError(f"{', '.join(by_rounding)}: outputs without a tolerance need PyTorch in float64")
    judged: list[Verdict] = []
    if (beyond or by_rounding) and exact is not None:
        truths = [exact(one.inputs, one.expected) for one in answers]
        compared = [_or_exact(*both) for both in zip(compared, answers, truths, strict=True)]
        judged = _by_rounding(by_rounding, answers, truths)
    checks = [check for found in compared for check in found if check.output not in by_rounding] + judged
    same_top = all(bool((one.expected["logits"].argmax(1) == one.actual["logits"].argmax(1)).all()) for one in answers)
    if not (all(check.passed for check in checks) and same_top):
        verdict = "" if same_top else "the top classes differ\n"
        raise VerificationError(
            f"the graph differs from PyTorch:\n{verdict}{table(checks)}", _summary(checks, same_top)
        )
    return checks


def _summary(checks: Sequence[Verdict], same_top: bool) -> str:
    """Which outputs differ, each at its worst."""
    worst: dict[str, Verdict] = {}
    for check in checks:
        if not check.passed and not check.max_error <= getattr(worst.get(check.output), "max_error", -1):
            worst[check.output] = check
    parts = [f"{name} by {check.max_error:.1e} ({check.limit})" for name, check in worst.items()]
    return "the graph differs from PyTorch in " + ", ".join(parts if same_top else [*parts, "the top class"])


@dataclass(frozen=True)
class Answers:
    """The answers of PyTorch and of the graph to one batch."""

    inputs: Inputs
    expected: Mapping[str, Floats]
    actual: Mapping[str, Floats]


def _or_exact(checks: Sequence[Check], answers: Answers, truth: Mapping[str, Floats]) -> list[Check]:
    """The checks; one that failed gives way to the comparison with PyTorch in float64, if that passes.

    Where scores are large, two float32 computations may be further apart than either is from the exact scores.
    """
    found = []
    for check in checks:
        nearer = _check(check.output, truth[check.output], answers.actual[check.output], check.tolerance)
        found.append(nearer if nearer.passed and not check.passed else check)
    return found


def _by_rounding(
    names: Sequence[str], answers: Sequence[Answers], truths: Sequence[Mapping[str, Floats]]
) -> list[Verdict]:
    deviations = {name: Deviations() for name in names}
    for one, truth in zip(answers, truths, strict=True):
        for name, found in deviations.items():
            found.add(truth[name], one.expected[name], one.actual[name])
    return [RoundingCheck.of(name, found) for name, found in deviations.items()]


def table(checks: Sequence[Verdict]) -> str:
    """The checks as text, one line each."""
    lines = [f"{'output':<16}{'pictures':>9}{'largest error':>15}{'beyond 1e-4':>13}  {'verdict':<9}held to"]
    for check in checks:
        measured = f"{check.batch:>9}{check.max_error:>15.2e}{check.share_beyond:>13.3%}"
        lines.append(f"{check.output:<16}{measured}  {'equal' if check.passed else 'DIFFERS':<9}{check.limit}")
    return "\n".join(lines)
