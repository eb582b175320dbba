"""Class weights: what an explanation is about, where it is not one class alone.

An explanation with the class weights ``w`` is about ``sum_k w_k y_k``, a mixture of the scores ``y``: maps of gradients
take the gradient of that sum, maps of masked pictures the sum itself.
"""

from dataclasses import dataclass, replace

import numpy as np

from handler.errors import BadRequest, Unprocessable
from handler.explanation.evidence import TOP, EngineTarget, Floats, Indices, Targets, best_classes, softmax

SECOND = -2  # as a contrast: the class with the highest score beside the target
SIMILAR = 3  # classes that FinerCAM holds a class against


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A class, and the classes that it is held against."""

    target: int  # class index or TOP
    contrast: int | None = None  # class index, TOP or SECOND: explains ``y_target - y_contrast``
    against: bool = False  # explains the negative, which is the evidence against the target
    similar: int = 0  # number of the most similar classes that FinerCAM holds the target against

    @property
    def alone(self) -> bool:
        """Whether the explanation is about the target's score and no other."""
        return self.contrast is None and not self.against and not self.similar

    def resolved(self, logits: Floats) -> "Mixture":
        """``TOP`` and ``SECOND`` become indices by the logits (K,); a class against itself is Unprocessable."""
        top, second = best_classes(logits, 2) if len(logits) > 1 else (0, None)
        target = top if self.target == TOP else self.target
        words = {None: None, TOP: top, SECOND: second if target == top else top}
        contrast = words.get(self.contrast, self.contrast)
        if contrast == target:
            raise Unprocessable("the contrast is this picture's top class and so is the target, valid is another class")
        return replace(self, target=target, contrast=contrast)

    def wanted(self, logits: Floats) -> EngineTarget:
        """The target of an engine's run for a resolved mixture."""
        return self.target if self.alone else self.weights(logits)

    def weights(self, logits: Floats) -> Floats:
        """The class weights (K,) of a resolved mixture."""
        weights = np.zeros(len(logits), np.float32)
        weights[self.target] = 1
        if self.contrast is not None:
            weights[self.contrast] -= 1
        if self.similar:
            near = best_classes(-np.abs(logits - logits[self.target]), self.similar + 1)
            similar = [index for index in near if index != self.target][: self.similar]
            scores, shares = logits[similar], softmax(logits[similar])
            # FinerCAM's ``-q_j (1 + y_j - sum_i q_i y_i)``, the gradient of ``-sum_j q_j y_j``, q the softmax over the
            # similar classes j (Zhang et al. 2025, arXiv 2501.11309, alpha 1, and pytorch-grad-cam)
            weights[similar] -= shares * (1 + scores - shares @ scores)
        return -weights if self.against else weights


@dataclass(frozen=True)
class Pairs:
    """The targets of N rows as M pairs of a row and a target, in the order of the request."""

    rows: Indices  # (M,)
    wanted: Indices  # (M,) classes; ``TOP`` also for class weights
    weights: Floats  # (M, K) class weights; zeros for a target that is a class

    @classmethod
    def of(cls, targets: Targets, classes: int) -> "Pairs":
        """Flattens the rows' targets; raises BadRequest unless each is ``TOP``, a class, or a weight for each class."""
        flat = [(row, target) for row, wanted in enumerate(targets) for target in wanted]
        wanted, weights = np.full(len(flat), TOP, np.int64), np.zeros((len(flat), classes), np.float32)
        for pair, (_, target) in enumerate(flat):
            if isinstance(target, np.ndarray):
                if target.shape != (classes,):
                    raise BadRequest(f"class weights have the shape {target.shape}, valid is ({classes},)")
                weights[pair] = target
            elif TOP <= target < classes:
                wanted[pair] = target
            else:
                valid = f"0 to {classes - 1} and {TOP} for the top class"
                raise BadRequest(f"target {target} is not valid, valid are {valid}")
        return cls(np.array([row for row, _ in flat], np.int64), wanted, weights)

    def classes(self, logits: Floats) -> Indices:
        """The classes (M,): ``TOP`` becomes the best class by the pair's logits (M, K)."""
        return np.where(self.wanted == TOP, logits.argmax(axis=1), self.wanted)

    def seeds(self, classes: Indices) -> Floats:
        """The weights (M, K) of the scores: class weights, or 1 for the pair's class (M,) where they are all 0."""
        of_class = np.arange(self.weights.shape[1]) == classes[:, None]
        return np.where(self.weights.any(axis=1, keepdims=True), self.weights, of_class.astype(np.float32))
