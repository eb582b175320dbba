"""Asks the network about changed copies of a picture, in batches, and counts them."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from handler.explanation.evidence import Floats, softmax

Masks = Floats | npt.NDArray[np.bool_]
_AT_ONCE = 16  # limits the memory of changed pictures


@dataclass(kw_only=True)
class Probe:
    """A picture whose scores under masks, or whose gradients after changes, can be asked for."""

    picture: Floats  # (3, H, W), the network's input
    answer: Callable[[Floats], Floats]  # inputs (P, 3, H, W) to the logits (P, K)
    differentiate: Callable[[Floats], Floats]  # inputs (P, 3, H, W) to gradients of the same shape
    weights: Floats  # (K,) class weights
    passes: int  # the most pictures that a map asks about
    taken: int = 0  # pictures that were asked about
    spent_ms: float = 0.0  # time that the answers took

    def scores(self, masks: Masks) -> Floats:
        """The weighted scores (P,) under masks (P, h, w)."""
        return self._logits(masks) @ self.weights

    def probabilities(self, masks: Masks) -> Floats:
        """The weighted probabilities (P,) under masks (P, h, w)."""
        return softmax(self._logits(masks)) @ self.weights

    def mean_gradient(self, change: Callable[[int], Floats], factor: Callable[[int], Floats] | None = None) -> Floats:
        """The mean gradient (3, H, W) at the inputs ``change(j)``, each times ``factor(j)``, for all passes j."""
        total = np.zeros(self.picture.shape, np.float64)
        for chunk in self._chunks(range(self.passes)):
            gradients = self._timed(self.differentiate, np.stack([change(j) for j in chunk]))
            total += sum(gradient * (factor(j) if factor else 1) for j, gradient in zip(chunk, gradients, strict=True))
        return np.asarray(total / self.passes, np.float32)

    def _logits(self, masks: Masks) -> Floats:
        _, height, width = self.picture.shape
        found = []
        for chunk in self._chunks(range(len(masks))):
            some = [cv2.resize(mask.astype(np.float32), (width, height)) for mask in masks[chunk.start : chunk.stop]]
            found.append(self._timed(self.answer, self.picture * np.stack(some)[:, None]))
        return np.concatenate(found)

    def _timed(self, ask: Callable[[Floats], Floats], inputs: Floats) -> Floats:
        started = time.perf_counter()
        answer = ask(inputs)
        self.taken += len(inputs)
        self.spent_ms += (time.perf_counter() - started) * 1e3
        return answer

    @staticmethod
    def _chunks(whole: range) -> Iterator[range]:
        return (whole[start : start + _AT_ONCE] for start in range(0, len(whole), _AT_ONCE))
