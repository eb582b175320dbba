"""What an engine is asked for and what it finds: plain arrays that every method of ``cam.py`` can combine."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

TOP = -1  # as a target: the class with the highest score


@dataclass(frozen=True)
class Needs:
    """Which evidence is wanted beside the scores. Rows with equal needs can share a pass."""

    layers: tuple[str, ...] = ()  # module paths whose activation and gradient are wanted
    guided: bool = False  # the guided gradient at the input
    saliency: bool = False  # the plain gradient at the input

    @property
    def backward(self) -> bool:
        """Whether any gradient is wanted."""
        return bool(self.layers) or self.guided or self.saliency


@dataclass(frozen=True)
class LayerEvidence:
    """What one layer returned, and the gradient of the target's score with respect to that."""

    activation: Floats  # (M, C, h, w)
    gradient: Floats  # (M, C, h, w)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Scores for N inputs and evidence for M (input, target) pairs, in the order in which they were asked for."""

    logits: Floats  # (N, K)
    input_size: tuple[int, int]  # H, W of the inputs
    rows: Indices  # (M,) which input a pair belongs to
    classes: Indices  # (M,) the pair's class, TOP resolved
    layers: dict[str, LayerEvidence] = field(default_factory=dict)
    guided: Floats | None = None  # (M, 3, H, W)
    saliency: Floats | None = None  # (M, 3, H, W)
    coverage: str | None = None  # "57 of 57 activations" of the guided gradient
    infer_ms: float = 0.0
    # of the backward passes; an engine that runs forward and backward at once counts both here, and infer_ms is 0
    explain_ms: float = 0.0
    engine: str = "torch"  # name of the engine that found it


class Engine(Protocol):
    """Computes evidence. One verb, no per-request state."""

    name: str  # "torch", "onnx" or "auto"; the evidence says which one found it

    def run(self, inputs: Floats, targets: Sequence[Sequence[int]], needs: Needs) -> Evidence:
        """Scores ``inputs`` and gathers evidence for each row's targets.

        Args:
            inputs: (N, 3, H, W), normalised.
            targets: for each of the N rows, class indices or ``TOP``.
            needs: the evidence wanted.

        Raises:
            Unprocessable: the model has no such evidence.
        """
        ...


def joined(parts: Sequence[Evidence]) -> Evidence:
    """The evidence of several runs, each for inputs of its own, as that of one run for all of them."""
    starts = np.cumsum([0, *(len(part.logits) for part in parts)])[:-1]
    first = parts[0]

    def together(arrays: Sequence[Floats | None]) -> Floats | None:
        return np.concatenate([one for one in arrays if one is not None]) if arrays[0] is not None else None

    return replace(
        first,
        logits=np.concatenate([part.logits for part in parts]),
        rows=np.concatenate([part.rows + start for part, start in zip(parts, starts, strict=True)]),
        classes=np.concatenate([part.classes for part in parts]),
        layers={
            path: LayerEvidence(
                np.concatenate([part.layers[path].activation for part in parts]),
                np.concatenate([part.layers[path].gradient for part in parts]),
            )
            for path in first.layers
        },
        guided=together([part.guided for part in parts]),
        saliency=together([part.saliency for part in parts]),
        infer_ms=sum(part.infer_ms for part in parts),
        explain_ms=sum(part.explain_ms for part in parts),
    )


def softmax(logits: Floats) -> Floats:
    """Probabilities along the last axis, in float64 inside so that they add up to 1."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), np.float32)


def best_classes(probabilities: Floats, count: int) -> list[int]:
    """The indices of the highest of (K,), best first; of equal ones the lower index."""
    best: list[int] = np.argsort(-probabilities, kind="stable")[:count].tolist()
    return best


def resolve_pairs(targets: Sequence[Sequence[int]], logits: Floats) -> tuple[Indices, Indices]:
    """Flattens per-row targets to (rows, classes), with ``TOP`` replaced by the row's best class."""
    best = logits.argmax(axis=1)
    pairs = [
        (row, int(best[row]) if target == TOP else target) for row, wanted in enumerate(targets) for target in wanted
    ]
    flat = np.array(pairs, np.int64).reshape(-1, 2)
    return flat[:, 0], flat[:, 1]
