"""The evidence that engines compute: plain arrays, which the formulas of ``methods.py`` combine to maps."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

TOP = -1  # as a target: the class with the highest score
EngineTarget = int | Floats  # class index, ``TOP``, or class weights (K,), see ``class_weights``
Targets = Sequence[Sequence[EngineTarget]]  # of each of N rows

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
    input_size: tuple[int, ...]  # H, W of the inputs
    rows: Indices  # (M,) index of each pair's input
    classes: Indices  # (M,) class of each pair; the best class where TOP or class weights were asked for
    layers: dict[str, LayerEvidence] = field(default_factory=dict)  # by module path
    guided: Floats | None = None  # (M, C, H, W) guided gradient at the input
    saliency: Floats | None = None  # (M, C, H, W) plain gradient at the input
    attention: Floats | None = None  # (M, h, w) unscaled maps made of attention
    full_gradient: Floats | None = None  # (M, H, W) unscaled maps, see ``fullgrad``
    coverage: str | None = None  # how many activations were guided: "57 of 57 activations"
    infer_ms: float = 0.0  # forward pass
    # backward passes; an engine that runs forward and backward at once counts both here and leaves infer_ms at 0
    explain_ms: float = 0.0
    engine: str = "torch"  # name of the engine that computed the evidence


class Engine(Protocol):
    """Computes evidence of normalised pictures, and keeps nothing of a request."""

    name: str  # "torch", "onnx" or "auto"; "auto" leaves each pass to one of the others, which the evidence names

    def run(self, inputs: Floats, targets: Targets, needs: Needs) -> Evidence:
        """Scores inputs (N, C, H, W), and computes the evidence for the targets of each of the N rows.

        Unprocessable is evidence that model or engine lack, BadRequest a target that is not one of ``EngineTarget``.
        """

    def behind(self, inputs: Floats, layer: str, activations: Floats) -> Floats:
        """The logits (P, K) of a picture (1, C, H, W) with other activations (P, C, h, w), or Unprocessable."""


def joined(parts: Sequence[Evidence]) -> Evidence:
    """Joins the evidence of runs with equal needs into the evidence of one run for all inputs; times add up."""
    starts = np.cumsum([0, *(len(part.logits) for part in parts[:-1])])
    moved = [replace(part, rows=part.rows + start) for part, start in zip(parts, starts, strict=True)]
    whole: Evidence = _concatenated(moved)
    layers = {path: _concatenated([part.layers[path] for part in parts]) for path in whole.layers}
    infer_ms, explain_ms = (sum(getattr(part, name) for part in parts) for name in ("infer_ms", "explain_ms"))
    return replace(whole, layers=layers, infer_ms=infer_ms, explain_ms=explain_ms)


def _concatenated(parts: Sequence[Any]) -> Any:
    """The first of the parts, with the arrays of all."""
    arrays = [name for name, value in vars(parts[0]).items() if isinstance(value, np.ndarray)]
    return replace(parts[0], **{name: np.concatenate([getattr(part, name) for part in parts]) for name in arrays})


def softmax(logits: Floats) -> Floats:
    """Probabilities (…, K) of logits (…, K); computed in float64, so that they add up to 1."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), np.float32)


def probabilities(logits: Floats, head: str) -> Floats:
    """Probabilities (…, K) of logits (…, K): their softmax, or with the head "sigmoid" that of each class by itself."""
    if head != "sigmoid":
        return softmax(logits)
    return np.asarray(np.exp(-np.logaddexp(0, -logits.astype(np.float64))), np.float32)


def best_classes(probabilities: Floats, count: int) -> list[int]:
    """The indices of the ``count`` highest probabilities (K,), best first; ties go to the lower index."""
    return [int(index) for index in np.argsort(-probabilities, kind="stable")[:count]]
