"""The reference engine: the eval-mode classifier with registered activation and gradient hooks.

One forward pass serves everything: the plain gradient is taken first, down to the layers only (and to the input where
saliency is wanted), the guided one second, down to the input. Several targets of one row share the forward pass too.
"""

import threading
import time
from collections.abc import Sequence

import numpy as np
import torch

from handler.classifier import Classifier
from handler.errors import Unprocessable
from handler.evidence import Evidence, Floats, Indices, LayerEvidence, Needs, resolve_pairs
from handler.guided import Gates, find_gates, guided
from handler.hooks import captured


class TorchEngine:
    """Every layer, every map, on the classifier's device. Calls are serialised: hooks live on the shared module."""

    name = "torch"

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._one_at_a_time = threading.Lock()

    def run(self, inputs: Floats, targets: Sequence[Sequence[int]], needs: Needs) -> Evidence:
        """See ``Engine.run``; the model is left as it was, also after an exception.

        Raises:
            Unprocessable: no ReLU to guide, or a layer the scores do not depend on.
        """
        # gradients are recorded here whatever mode the caller is in, no_grad and inference_mode included
        with self._one_at_a_time, torch.inference_mode(False), torch.enable_grad():
            batch = torch.from_numpy(inputs).to(self._classifier.device)
            return self._explain(batch, targets, needs) if needs.backward else self._predict(batch, targets)

    def _predict(self, batch: torch.Tensor, targets: Sequence[Sequence[int]]) -> Evidence:
        started = time.perf_counter()
        with torch.inference_mode():
            logits = _numpy(self._classifier.module(batch))
        rows, classes = resolve_pairs(targets, logits)
        return Evidence(logits, _size(batch), rows, classes, infer_ms=_since(started))

    def _explain(self, batch: torch.Tensor, targets: Sequence[Sequence[int]], needs: Needs) -> Evidence:
        started = time.perf_counter()
        with captured(self._classifier.module, needs.layers) as kept:
            batch.requires_grad_(needs.guided or needs.saliency)
            scores = self._classifier.module(batch)
        missing = [path for path in needs.layers if path not in kept]
        if missing:
            raise Unprocessable(f"layer {missing[0]!r} does not run in eval mode, so that it has no map")
        logits, infer_ms = _numpy(scores), _since(started)
        started = time.perf_counter()
        rows, classes = resolve_pairs(targets, logits)
        gates = find_gates(scores) if needs.guided else None
        found = _Gradients(kept, batch, needs, len(rows))
        for pairs in _rounds(rows):
            found.gather(scores, rows[pairs], classes[pairs], pairs, gates)
        layers = {path: LayerEvidence(_numpy(kept[path])[rows], gradient) for path, gradient in found.of_layers.items()}
        return Evidence(
            logits,
            _size(batch),
            rows,
            classes,
            layers,
            guided=found.guided,
            saliency=found.saliency,
            coverage=gates.coverage if gates else None,
            infer_ms=infer_ms,
            explain_ms=_since(started),
        )


class _Gradients:
    """Collects the gradients of M (row, class) pairs, one backward pass per round."""

    def __init__(self, kept: dict[str, torch.Tensor], batch: torch.Tensor, needs: Needs, pairs: int) -> None:
        self._kept, self._batch, self._needs = kept, batch, needs
        pixels = (pairs, *batch.shape[1:])
        self.of_layers = {path: np.empty((pairs, *kept[path].shape[1:]), np.float32) for path in needs.layers}
        self.guided = np.empty(pixels, np.float32) if needs.guided else None
        self.saliency = np.empty(pixels, np.float32) if needs.saliency else None

    def gather(
        self,
        scores: torch.Tensor,
        rows: Indices,
        classes: Indices,
        pairs: Indices,
        gates: Gates | None,
    ) -> None:
        """Writes the gradients of one round, in which each row appears at most once, to their places."""
        score = scores[torch.from_numpy(rows), torch.from_numpy(classes)].sum()  # rows do not mix in eval mode
        wanted = [self._kept[path] for path in self._needs.layers]
        if self.saliency is not None:
            wanted.append(self._batch)
        if wanted:
            gradients = list(torch.autograd.grad(score, wanted, retain_graph=True, allow_unused=True))
            if self.saliency is not None:
                self.saliency[pairs] = _reached(gradients.pop(), "the input")[rows]
            for path, gradient in zip(self._needs.layers, gradients, strict=True):
                self.of_layers[path][pairs] = _reached(gradient, f"layer {path!r}")[rows]
        if self.guided is not None and gates is not None:
            with guided(gates):
                gradient = torch.autograd.grad(score, self._batch, retain_graph=True)[0]
            self.guided[pairs] = _numpy(gradient)[rows]


def _rounds(rows: Indices) -> list[Indices]:
    """Splits pairs so that no round holds a row twice: the first targets of all rows, then the second and so on."""
    seen: dict[int, int] = {}
    turn = []
    for row in rows.tolist():
        turn.append(seen.get(row, 0))
        seen[row] = turn[-1] + 1
    return [np.flatnonzero(np.array(turn) == number) for number in range(max(turn, default=-1) + 1)]


def _reached(gradient: torch.Tensor | None, what: str) -> Floats:
    if gradient is None:
        raise Unprocessable(f"the scores do not depend on {what}, so that it has no gradient")
    return _numpy(gradient)


def _numpy(tensor: torch.Tensor) -> Floats:
    return np.asarray(tensor.detach().cpu().numpy(), np.float32)


def _size(batch: torch.Tensor) -> tuple[int, int]:
    return batch.shape[2], batch.shape[3]


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1e3
