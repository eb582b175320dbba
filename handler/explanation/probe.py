"""Asks the network about changed copies of a picture, or of a layer's activations, in batches, and counts them."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from handler.explanation.evidence import Floats, probabilities

Masks = Floats | npt.NDArray[np.bool_]
_AT_ONCE = 16  # limits the memory of changed pictures
_VALUES_AT_ONCE = 4_000_000  # of changed activations: limits their memory


@dataclass(kw_only=True)
class Probe:
    """A picture whose scores under masks, or whose gradients after changes, can be asked for."""

    picture: Floats  # (C, H, W), the network's input
    answer: Callable[[Floats], Floats]  # inputs (P, C, H, W) to the logits (P, K)
    differentiate: Callable[[Floats], Floats]  # inputs (P, C, H, W) to gradients of the same shape
    behind: Callable[[str, Floats], Floats]  # a layer's path and activations (P, C, h, w) to the logits (P, K)
    weights: Floats  # (K,) class weights
    passes: int  # the most pictures that a map asks about
    head: str = "softmax"  # what makes probabilities of logits
    layer: str = ""  # path of the layer whose map is made
    taken: int = 0  # pictures that were asked about
    spent_ms: float = 0.0  # time that the answers took

    def scores(self, masks: Masks) -> Floats:
        """The weighted scores (P,) under masks (P, h, w)."""
        return self._logits(masks) @ self.weights

    def probabilities(self, masks: Masks) -> Floats:
        """The weighted probabilities (P,) under masks (P, h, w)."""
        return probabilities(self._logits(masks), self.head) @ self.weights

    def scores_behind(self, activation: Floats, factors: Masks) -> Floats:
        """The weighted scores (P,) if the layer returned its activation (C, h, w) times factors (P, C or 1, …)."""
        ask, parts = partial(self.behind, self.layer), self._chunks(factors, max(1, _VALUES_AT_ONCE // activation.size))
        return np.concatenate([self._timed(ask, activation * part) for part in parts]) @ self.weights

    def mean_gradient(self, change: Callable[[int], Floats], factor: Callable[[int], Floats] | None = None) -> Floats:
        """The mean gradient (C, H, W) at the inputs ``change(j)``, each times ``factor(j)``, for all passes j."""
        total = np.zeros(self.picture.shape, np.float64)
        for chunk in self._chunks(range(self.passes)):
            gradients = self._timed(self.differentiate, np.stack([change(j) for j in chunk]))
            total += sum(gradient * (factor(j) if factor else 1) for j, gradient in zip(chunk, gradients, strict=True))
        return np.asarray(total / self.passes, np.float32)

    def _logits(self, masks: Masks) -> Floats:
        _, height, width = self.picture.shape
        found = []
        for chunk in self._chunks(masks):
            upsampled = [cv2.resize(mask.astype(np.float32), (width, height)) for mask in chunk]
            found.append(self._timed(self.answer, self.picture * np.stack(upsampled)[:, None]))
        return np.concatenate(found)

    def _timed(self, ask: Callable[[Floats], Floats], inputs: Floats) -> Floats:
        started = time.perf_counter()
        answer = ask(inputs)
        self.taken += len(inputs)
        self.spent_ms += (time.perf_counter() - started) * 1e3
        return answer

    @staticmethod
    def _chunks(whole: Any, at_once: int = _AT_ONCE) -> Iterator[Any]:
        return (whole[start : start + at_once] for start in range(0, len(whole), at_once))
