"""Compares an exported graph with PyTorch on inputs that were not the export example; a verdict needs every check."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from handler.errors import ModelError
from handler.preprocess import Preprocessing

Floats = npt.NDArray[np.float32]
Run = Callable[[Floats], Mapping[str, Floats]]  # inputs (N, 3, H, W) to outputs by name

BATCH_SIZES = (1, 3, 8)


@dataclass(frozen=True)
class Check:
    """One output at one batch size."""

    output: str
    batch: int
    shape: tuple[int, ...]
    max_abs: float  # largest absolute difference
    tolerance: float

    @property
    def passed(self) -> bool:
        """NaN fails."""
        return self.max_abs <= self.tolerance


class VerificationError(ModelError):
    """The graph differs from PyTorch; the message is the table of checks."""


def compare(expected: Mapping[str, Floats], actual: Mapping[str, Floats], tolerance: float) -> list[Check]:
    """Compares names, then shapes, then values of one batch.

    Raises:
        VerificationError: names or shapes differ.
    """
    if set(expected) != set(actual):
        raise VerificationError(f"the graph's outputs are {sorted(actual)}, PyTorch's are {sorted(expected)}")
    checks = []
    for name, value in expected.items():
        if actual[name].shape != value.shape:
            raise VerificationError(f"output {name} has shape {actual[name].shape}, PyTorch's has {value.shape}")
        difference = float(np.abs(actual[name].astype(np.float64) - value).max())
        checks.append(Check(name, len(value), value.shape, difference, tolerance))
    return checks


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


def verify(reference: Run, graph: Run, how: Preprocessing, tolerance: float, seed: int = 1) -> list[Check]:
    """Compares on fresh pictures at batch sizes 1, 3 and 8; the top class must be the same, too.

    Args:
        reference: PyTorch.
        graph: the exported graph.
        how: what the network's pictures are normalised with.
        tolerance: largest absolute difference allowed in any output.
        seed: of the inputs, which must not be the export example's.

    Raises:
        VerificationError: with the whole table, if any check fails.
    """
    rng = np.random.default_rng(seed)
    checks: list[Check] = []
    same_top = True
    for batch in BATCH_SIZES:
        inputs = fresh_pictures(rng, batch, how)
        expected, actual = reference(inputs), graph(inputs)
        checks += compare(expected, actual, tolerance)
        same_top &= bool((expected["logits"].argmax(1) == actual["logits"].argmax(1)).all())
    if not (all(check.passed for check in checks) and same_top):
        verdict = "" if same_top else "the top classes differ\n"
        raise VerificationError(f"the graph differs from PyTorch:\n{verdict}{table(checks)}")
    return checks


def table(checks: Sequence[Check]) -> str:
    """The checks as text, one line each."""
    lines = [f"{'output':<16}{'batch':>6}{'max abs difference':>22}{'tolerance':>12}  verdict"]
    for check in checks:
        verdict = "equal" if check.passed else "DIFFERS"
        lines.append(f"{check.output:<16}{check.batch:>6}{check.max_abs:>22.2e}{check.tolerance:>12.0e}  {verdict}")
    return "\n".join(lines)
