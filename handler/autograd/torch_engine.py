"""The reference engine: the classifier in eval mode, with hooks for activations and gradients.

A batch takes one forward pass, however many targets its rows have.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import nn

from handler.autograd.attention import AttentionLayout, attend, relevance
from handler.autograd.channel_layout import ChannelLayout
from handler.autograd.precision import full_precision
from handler.autograd.tape import Gradients, Tape, differentiate, record
from handler.errors import Unprocessable
from handler.explanation.evidence import (
    EngineTarget,
    Evidence,
    Floats,
    Indices,
    LayerEvidence,
    Needs,
    check_targets,
    class_seeds,
    flat_weights,
    joined,
    resolve_pairs,
)
from handler.explanation.methods import METHODS, OF_BLOCKS, Method


class Network(Protocol):
    """The part of a classifier that the engine needs."""

    @property
    def module(self) -> nn.Module:
        """The network, in eval mode."""

    @property
    def views(self) -> Mapping[str, ChannelLayout]:
        """Layouts by module path, of layers whose output is not a single tensor (N, C, h, w) of a single run."""

    @property
    def attention(self) -> AttentionLayout | str:
        """Where the attention is, or why there are no maps of attention."""

    @property
    def alone(self) -> str:
        """Why pictures are run one by one; empty if they are run together."""

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""


class TorchEngine:
    """Computes all evidence on the network's device. Calls take turns, because the module's hooks are shared."""

    name = "torch"

    def __init__(self, network: Network) -> None:
        self._network = network
        self._one_at_a_time = threading.Lock()

    def run(self, inputs: Floats, targets: Sequence[Sequence[EngineTarget]], needs: Needs) -> Evidence:
        """See ``Engine.run``; the model is left as it was, also after an exception.

        Raises:
            Unprocessable: no ReLU to guide, or a layer that does not exist or that the scores do not depend on.
            BadRequest: a target is neither ``TOP`` nor a class, nor a weight for each class.
        """
        # gradients are recorded here whatever mode the caller is in, no_grad and inference_mode included
        with self._one_at_a_time, full_precision(), torch.inference_mode(False), torch.enable_grad():
            batch = torch.from_numpy(inputs).to(self._network.device)
            run = self._explain if needs.backward else self._predict
            if needs.attention:
                found = run(batch, targets, needs)
                seeds = class_seeds(flat_weights(targets, found.logits.shape[1]), found.classes)
                return self._attend(batch, found, seeds, METHODS[needs.attention])
            if not self._network.alone:
                return run(batch, targets, needs)
            return joined([run(batch[row : row + 1], targets[row : row + 1], needs) for row in range(len(batch))])

    def _predict(self, batch: torch.Tensor, targets: Sequence[Sequence[EngineTarget]], _needs: Needs) -> Evidence:
        started = time.perf_counter()
        with torch.no_grad():  # what a network keeps in inference mode could not be differentiated later
            logits = _numpy(self._network.module(batch.clone()))  # a network may begin with an operation in place
        check_targets(targets, logits.shape[1])
        rows, classes = resolve_pairs(targets, logits)
        return Evidence(
            logits=logits,
            input_size=_size(batch),
            rows=rows,
            classes=classes,
            engine=self.name,
            infer_ms=_since(started),
        )

    def _explain(self, batch: torch.Tensor, targets: Sequence[Sequence[EngineTarget]], needs: Needs) -> Evidence:
        started = time.perf_counter()
        tape = record(self._network.module, batch, needs, self._network.views)
        logits, infer_ms = _numpy(tape.scores), _since(started)
        started = time.perf_counter()
        check_targets(targets, logits.shape[1])
        rows, classes = resolve_pairs(targets, logits)
        seeds = class_seeds(flat_weights(targets, logits.shape[1]), classes)
        collected = _Collected(tape, len(rows))
        for pairs in _rounds(rows):
            score = (tape.scores[rows[pairs]] * torch.from_numpy(seeds[pairs]).to(batch.device)).sum()
            collected.add(differentiate(tape, score), rows[pairs], pairs)  # rows do not mix in eval mode
        return Evidence(
            logits=logits,
            input_size=_size(batch),
            rows=rows,
            classes=classes,
            layers={
                path: LayerEvidence(_numpy(activation)[rows], collected.layers[path])
                for path, activation in tape.layers.items()
            },
            guided=collected.guided,
            saliency=collected.saliency,
            coverage=tape.gates.coverage if tape.gates else None,
            engine=self.name,
            infer_ms=infer_ms,
            explain_ms=_since(started),
        )

    def _attend(self, batch: torch.Tensor, evidence: Evidence, seeds: Floats, method: Method) -> Evidence:
        """Adds maps of attention, by a pass of their own, so that the other evidence is the same as without them."""
        started, layout = time.perf_counter(), self._network.attention
        if isinstance(layout, str):
            raise Unprocessable(layout)
        attended = attend(self._network.module, batch, layout, by_block=method.attention == OF_BLOCKS)
        maps = np.empty((len(evidence.rows), *(layout.view.grid or ())), np.float32)
        for pairs in _rounds(evidence.rows):
            rows, of_rows = evidence.rows[pairs], np.zeros_like(evidence.logits)
            of_rows[rows] = seeds[pairs]
            maps[pairs] = _numpy(relevance(attended, layout, method, torch.from_numpy(of_rows).to(batch.device)))[rows]
        return replace(evidence, attention=maps, explain_ms=evidence.explain_ms + _since(started))


class _Collected:
    """The gradients of M (row, class) pairs, collected over rounds in which each row appears at most once."""

    def __init__(self, tape: Tape, pairs: int) -> None:
        pixels = (pairs, *tape.pictures.shape[1:])
        self.layers = {
            path: np.empty((pairs, *activation.shape[1:]), np.float32) for path, activation in tape.layers.items()
        }
        self.guided = np.empty(pixels, np.float32) if tape.gates else None
        self.saliency = np.empty(pixels, np.float32) if tape.saliency else None

    def add(self, gradients: Gradients, rows: Indices, pairs: Indices) -> None:
        """Writes the gradients of a round, in which pair ``pairs[i]`` is about row ``rows[i]``."""
        for path, gradient in gradients.layers.items():
            self.layers[path][pairs] = _numpy(gradient)[rows]
        if self.guided is not None and gradients.guided is not None:
            self.guided[pairs] = _numpy(gradients.guided)[rows]
        if self.saliency is not None and gradients.saliency is not None:
            self.saliency[pairs] = _numpy(gradients.saliency)[rows]


def _rounds(rows: Indices) -> list[Indices]:
    """Splits pairs into rounds that hold no row twice: first the first targets of all rows, then the second ones."""
    seen: dict[int, int] = {}
    turn = []
    for row in rows.tolist():
        turn.append(seen.get(row, 0))
        seen[row] = turn[-1] + 1
    return [np.flatnonzero(np.array(turn) == number) for number in range(max(turn, default=-1) + 1)]


def _numpy(tensor: torch.Tensor) -> Floats:
    return np.array(tensor.detach().float().cpu().numpy())  # a copy: a network may answer with its own memory


def _size(batch: torch.Tensor) -> tuple[int, int]:
    return batch.shape[2], batch.shape[3]


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1e3
