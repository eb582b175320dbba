"""The evidence that engines compute: plain arrays, which the formulas of ``cam.py`` combine to maps."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Protocol

import numpy as np
import numpy.typing as npt

from handler.errors import BadRequest

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

TOP = -1  # as a target: the class with the highest score
EngineTarget = int | Floats  # class index, ``TOP``, or class weights (K,), see ``class_weights``

# what a method can need beside scores, activation and gradient
BEHIND = "the scores behind a layer"  # that changed activations have, see ``Engine.behind``
CURVATURE = "the curvature at a layer"  # ``LayerEvidence.curvature``
FULL_GRADIENT = "the gradients at all biases"  # ``Evidence.full_gradient``


@dataclass(frozen=True, kw_only=True)
class Needs:
    """The evidence wanted beside the scores. Rows with equal needs can share a pass."""

    layers: tuple[str, ...] = ()  # module paths whose activation and gradient are wanted
    guided: bool = False  # the guided gradient at the input
    saliency: bool = False  # the plain gradient at the input
    attention: str = ""  # name of a method that makes maps of attention, not of layers; empty if none does
    beside: str = ""  # BEHIND, CURVATURE, FULL_GRADIENT, or nothing

    @property
    def backward(self) -> bool:
        """Whether any gradient is wanted, other than at attention."""
        return bool(self.layers or self.beside) or self.guided or self.saliency


@dataclass(frozen=True)
class LayerEvidence:
    """A layer's activation, and the gradient of the target's score with respect to it, for M (input, target) pairs."""

    activation: Floats  # (M, C, h, w)
    gradient: Floats  # (M, C, h, w)
    curvature: Floats | None = None  # (M, C, h, w) the score's Hessian times the activation, where asked for


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Scores for N inputs and evidence for M (input, target) pairs, both in the order of the request."""

    logits: Floats  # (N, K)
    input_size: tuple[int, int]  # H, W of the inputs
    rows: Indices  # (M,) index of each pair's input
    classes: Indices  # (M,) class of each pair; the best class where TOP or class weights were asked for
    layers: dict[str, LayerEvidence] = field(default_factory=dict)  # by module path
    guided: Floats | None = None  # (M, C, H, W) guided gradient at the input
    saliency: Floats | None = None  # (M, C, H, W) plain gradient at the input
    attention: Floats | None = None  # (M, h, w) unscaled maps made of attention
    full_gradient: Floats | None = None  # (M, H, W) unscaled maps, see ``full_gradients``
    coverage: str | None = None  # how many activations were guided: "57 of 57 activations"
    infer_ms: float = 0.0  # forward pass
    # backward passes; an engine that runs forward and backward at once counts both here and leaves infer_ms at 0
    explain_ms: float = 0.0
    engine: str = "torch"  # name of the engine that computed the evidence


class Engine(Protocol):
    """Computes evidence, and keeps nothing of a request."""

    name: str  # "torch", "onnx" or "auto"; "auto" leaves each pass to one of the others, which the evidence names

    def run(self, inputs: Floats, targets: Sequence[Sequence[EngineTarget]], needs: Needs) -> Evidence:
        """Scores inputs and computes the evidence for each row's targets.

        Args:
            inputs: (N, C, H, W), normalised.
            targets: class indices, ``TOP`` or class weights, for each of the N rows.
            needs: the evidence wanted.

        Raises:
            Unprocessable: the model or the engine has no such evidence.
            BadRequest: a target is neither ``TOP`` nor a class, nor a weight for each class.
        """
        ...

    def behind(self, inputs: Floats, layer: str, activations: Floats) -> Floats:
        """The logits (P, K) of a picture if a layer had other activations.

        Args:
            inputs: (1, C, H, W), normalised.
            layer: module path.
            activations: (P, C, h, w), as ``LayerEvidence`` has them.

        Raises:
            Unprocessable: the engine has no such scores.
        """
        ...


def joined(parts: Sequence[Evidence]) -> Evidence:
    """Joins the evidence of runs with equal needs into the evidence of one run for all inputs; times add up."""
    starts = np.cumsum([0, *(len(part.logits) for part in parts)])[:-1]
    first = parts[0]

    def together(arrays: Sequence[Floats | None]) -> Floats | None:
        return np.concatenate([array for array in arrays if array is not None]) if arrays[0] is not None else None

    return replace(
        first,
        logits=np.concatenate([part.logits for part in parts]),
        rows=np.concatenate([part.rows + start for part, start in zip(parts, starts, strict=True)]),
        classes=np.concatenate([part.classes for part in parts]),
        layers={
            path: LayerEvidence(
                np.concatenate([part.layers[path].activation for part in parts]),
                np.concatenate([part.layers[path].gradient for part in parts]),
                together([part.layers[path].curvature for part in parts]),
            )
            for path in first.layers
        },
        guided=together([part.guided for part in parts]),
        saliency=together([part.saliency for part in parts]),
        full_gradient=together([part.full_gradient for part in parts]),
        infer_ms=sum(part.infer_ms for part in parts),
        explain_ms=sum(part.explain_ms for part in parts),
    )


def softmax(logits: Floats) -> Floats:
    """Probabilities (…, K) of logits (…, K); computed in float64, so that they add up to 1."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), np.float32)


def best_classes(probabilities: Floats, count: int) -> list[int]:
    """The indices of the ``count`` highest probabilities (K,), best first; ties go to the lower index."""
    best: list[int] = np.argsort(-probabilities, kind="stable")[:count].tolist()
    return best


def check_targets(targets: Sequence[Sequence[EngineTarget]], classes: int) -> None:
    """Raises BadRequest if a target is neither ``TOP`` nor a class, nor a weight for each class."""
    for target in chain.from_iterable(targets):
        if isinstance(target, np.ndarray):
            if target.shape != (classes,):
                raise BadRequest(f"class weights have the shape {target.shape}, valid is ({classes},)")
        elif not TOP <= target < classes:
            raise BadRequest(f"target {target} is not valid, valid are 0 to {classes - 1} and {TOP} for the top class")


def flat_pairs(targets: Sequence[Sequence[EngineTarget]]) -> tuple[Indices, Indices]:
    """Flattens the rows' targets to M pairs: rows (M,) and targets (M,), ``TOP`` as it is and for class weights."""
    pairs = [(row, TOP if isinstance(target, np.ndarray) else target) for row, target in _pairs(targets)]
    flat = np.array(pairs, np.int64).reshape(-1, 2)
    return np.ascontiguousarray(flat[:, 0]), np.ascontiguousarray(flat[:, 1])


def flat_weights(targets: Sequence[Sequence[EngineTarget]], classes: int) -> Floats:
    """The class weights (M, K) of the rows' targets; a row of zeros for a target that is a class."""
    nothing = np.zeros(classes, np.float32)
    rows = [target if isinstance(target, np.ndarray) else nothing for _, target in _pairs(targets)]
    return np.array(rows, np.float32).reshape(-1, classes)


def class_seeds(weights: Floats, chosen: Indices) -> Floats:
    """The weights (M, K) of the scores: class weights (M, K), or 1 for the chosen class (M,) where they are all 0."""
    of_class = np.arange(weights.shape[1]) == chosen[:, None]
    return np.where(weights.any(axis=1, keepdims=True), weights, of_class.astype(np.float32))


def resolve_top(targets: Indices, logits: Floats) -> Indices:
    """The classes of targets (M,): ``TOP`` becomes the best class by the pair's logits (M, K)."""
    return np.where(targets == TOP, logits.argmax(axis=1), targets)


def resolve_pairs(targets: Sequence[Sequence[EngineTarget]], logits: Floats) -> tuple[Indices, Indices]:
    """Flattens the rows' targets to M pairs: rows (M,) and classes (M,), ``TOP`` resolved by the logits (N, K)."""
    rows, wanted = flat_pairs(targets)
    return rows, resolve_top(wanted, logits[rows])


def _pairs(targets: Sequence[Sequence[EngineTarget]]) -> list[tuple[int, EngineTarget]]:
    return [(row, target) for row, wanted in enumerate(targets) for target in wanted]
