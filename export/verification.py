"""Compares an exported graph with PyTorch on inputs that were not the export example; a verdict needs every check."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from handler.errors import ModelError
from handler.preprocess import Preprocessing

Floats = npt.NDArray[np.float32]
Inputs = Mapping[str, npt.NDArray[Any]]  # "input" (N, 3, H, W) and what else the graph takes
Run = Callable[[Inputs], Mapping[str, Floats]]  # inputs to outputs, both by name

BATCH_SIZES = (1, 3, 8)


@dataclass(frozen=True)
class Tolerance:
    """How far one output may be from PyTorch's.

    A guided gradient needs two limits: where rounding decides the sign of a ReLU's input, its gate can flip, and a
    flip in a late layer reaches the whole picture, though only a little.
    """

    error: float  # per element
    relative: bool = False  # to the largest absolute value of PyTorch's output
    share_beyond: float = 0.0  # of elements that may exceed it
    most: float = 0.0  # error of those that may


@dataclass(frozen=True)
class Check:
    """One output at one batch size."""

    output: str
    batch: int
    shape: tuple[int, ...]
    max_error: float
    share_beyond: float  # of elements whose error exceeds the tolerance; NaN exceeds it
    tolerance: Tolerance

    @property
    def passed(self) -> bool:
        """Whether few enough elements are beyond the tolerance, and those not far."""
        few = self.share_beyond <= self.tolerance.share_beyond
        return few and self.max_error <= max(self.tolerance.most, self.tolerance.error)


class VerificationError(ModelError):
    """The graph differs from PyTorch; the message is the table of checks."""


def compare(
    expected: Mapping[str, Floats], actual: Mapping[str, Floats], tolerances: Mapping[str, Tolerance]
) -> list[Check]:
    """Compares names, then shapes, then values of one batch.

    Raises:
        VerificationError: names or shapes differ.
    """
    if set(expected) != set(actual):
        raise VerificationError(f"the graph's outputs are {sorted(actual)}, PyTorch's are {sorted(expected)}")
    return [_check(name, value, actual[name], tolerances[name]) for name, value in expected.items()]


def _check(name: str, expected: Floats, actual: Floats, tolerance: Tolerance) -> Check:
    if actual.shape != expected.shape:
        raise VerificationError(f"output {name} has shape {actual.shape}, PyTorch's has {expected.shape}")
    error = np.abs(actual.astype(np.float64) - expected)
    if tolerance.relative:
        error /= max(float(np.abs(expected).max()), 1e-30)
    beyond = 1 - float((error <= tolerance.error).mean())
    return Check(name, len(expected), expected.shape, float(error.max()), beyond, tolerance)


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
) -> list[Check]:
    """Compares on fresh inputs at batch sizes 1, 3 and 8; the top class must be the same, too.

    Args:
        reference: PyTorch.
        graph: the exported graph.
        make_inputs: from a generator and a batch size; must not make the export example.
        tolerances: by output.
        seed: of the inputs.

    Raises:
        VerificationError: with the whole table, if any check fails.
    """
    rng = np.random.default_rng(seed)
    checks: list[Check] = []
    same_top = True
    for batch in BATCH_SIZES:
        inputs = make_inputs(rng, batch)
        expected, actual = reference(inputs), graph(inputs)
        checks += compare(expected, actual, tolerances)
        same_top &= bool((expected["logits"].argmax(1) == actual["logits"].argmax(1)).all())
    if not (all(check.passed for check in checks) and same_top):
        verdict = "" if same_top else "the top classes differ\n"
        raise VerificationError(f"the graph differs from PyTorch:\n{verdict}{table(checks)}")
    return checks


def table(checks: Sequence[Check]) -> str:
    """The checks as text, one line each."""
    lines = [f"{'output':<16}{'batch':>6}{'largest error':>15}{'tolerance':>22}{'beyond':>10}{'allowed':>10}  verdict"]
    for check in checks:
        limit = f"{check.tolerance.error:.0e} {'of the largest' if check.tolerance.relative else 'absolute'}"
        shares = f"{check.share_beyond:>10.3%}{check.tolerance.share_beyond:>10.3%}"
        verdict = "equal" if check.passed else "DIFFERS"
        lines.append(f"{check.output:<16}{check.batch:>6}{check.max_error:>15.2e}{limit:>22}{shares}  {verdict}")
    return "\n".join(lines)
