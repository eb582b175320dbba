"""The reference engine, with hooks. A batch takes one forward pass, whatever the number of targets."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from handler.autograd.attention import AttentionLayout, attend, relevance
from handler.autograd.layer_maps import CHANNELS_FIRST, ChannelLayout, scores_behind
from handler.autograd.tape import differentiate, record, summed
from handler.errors import Unprocessable
from handler.explanation.class_weights import Pairs
from handler.explanation.evidence import FULL_GRADIENT, Evidence, Floats, Indices, LayerEvidence, Needs, Targets, joined
from handler.explanation.input_gradients import fullgrad
from handler.explanation.methods import METHODS, OF_BLOCKS, Method

# what can round the inputs of convolutions and matrix products to 10 bits (TF32)
_ROUNDING = attrgetter("cudnn.conv", "cuda.matmul", "mkldnn.conv", "mkldnn.matmul")(torch.backends)


@contextmanager
def full_precision() -> Iterator[None]:
    """Inside the block, convolutions and matrix products compute in float32, in all threads of the process.

    On a GPU PyTorch rounds their inputs by default: ShuffleNet's scores are then off by 0.6 % of the largest score,
    MobileNetV2's by 1.7 %, and so are the maps.
    """
    with ExitStack() as stack:
        for operation in _ROUNDING:
            stack.callback(setattr, operation, "fp32_precision", operation.fp32_precision)
            operation.fp32_precision = "ieee"
        yield


@dataclass(frozen=True, kw_only=True)
class Network:
    """The part of a classifier that the engine needs."""

    module: nn.Module  # eval mode, all parameters frozen
    # layouts by module path, of layers whose output is not a single tensor (N, C, h, w) of a single run
    views: Mapping[str, ChannelLayout] = field(default_factory=dict)
    attention: AttentionLayout | str = "the network was not run"  # where it is, or why there are no maps of attention
    alone: str = ""  # why pictures are run one by one; empty if they are run together

    @property
    def device(self) -> torch.device:
        """The device of the network, see ``device_of``."""
        return device_of(self.module)


def device_of(module: nn.Module) -> torch.device:
    """The device of a network's parameters and buffers; the CPU for a network without any."""
    return next(chain(module.parameters(), module.buffers()), torch.empty(0)).device


class TorchEngine:
    """Computes all evidence on the network's device. Calls take turns, because the module's hooks are shared."""

    name = "torch"

    def __init__(self, network: Network) -> None:
        self._network = network
        self._one_at_a_time = threading.Lock()

    def run(self, inputs: Floats, targets: Targets, needs: Needs) -> Evidence:
        """See ``Engine.run``; the model is left as it was, also after an exception."""
        # gradients are recorded here whatever mode the caller is in, no_grad and inference_mode included
        with self._one_at_a_time, full_precision(), torch.inference_mode(False), torch.enable_grad():
            batch = torch.from_numpy(inputs).to(self._network.device)
            run = self._explain if needs.backward else self._predict
            if needs.attention:
                return self._attend(batch, *run(batch, targets, needs), METHODS[needs.attention])
            if not self._network.alone:
                return run(batch, targets, needs)[0]
            return joined([run(batch[row : row + 1], targets[row : row + 1], needs)[0] for row in range(len(batch))])

    def behind(self, inputs: Floats, layer: str, activations: Floats) -> Floats:
        """See ``Engine.behind``."""
        network, view = self._network, self._network.views.get(layer, CHANNELS_FIRST)
        with self._one_at_a_time, full_precision(), torch.inference_mode(False), torch.no_grad():
            picture, maps = (torch.from_numpy(values).to(network.device) for values in (inputs, activations))
            parts = torch.split(maps, 1 if network.alone else len(maps))
            return np.concatenate([_numpy(scores_behind(network.module, picture, layer, part, view)) for part in parts])

    def _predict(self, batch: Tensor, targets: Targets, _needs: Needs) -> tuple[Evidence, Floats]:
        started = time.perf_counter()
        with torch.no_grad():  # what a network keeps in inference mode could not be differentiated later
            scores = self._network.module(batch.clone())  # a network may begin with an operation in place
        return self._scored(batch, targets, scores, started)

    def _scored(self, batch: Tensor, targets: Targets, scores: Tensor, started: float) -> tuple[Evidence, Floats]:
        """The evidence of a forward pass that gave these scores, and the weights (M, K) of the pairs' scores."""
        logits = _numpy(scores)
        spent = (time.perf_counter() - started) * 1e3
        pairs = Pairs.of(targets, logits.shape[1])
        classes, size = pairs.classes(logits[pairs.rows]), batch.shape[2:]
        evidence = Evidence(logits=logits, input_size=size, rows=pairs.rows, classes=classes, infer_ms=spent)
        return evidence, pairs.seeds(classes)

    def _explain(self, batch: Tensor, targets: Targets, needs: Needs) -> tuple[Evidence, Floats]:
        started = time.perf_counter()
        tape = record(self._network.module, batch, needs, self._network.views)
        evidence, seeds = self._scored(batch, targets, tape.scores, started)
        started, rows = time.perf_counter(), evidence.rows
        found: dict[str, dict[str, Any]] = {}  # the fields of ``Gradients``, with the arrays of all pairs
        for pairs, of_rows in _rounds(evidence, seeds):
            weights = torch.from_numpy(of_rows).to(batch.device)
            gradients = differentiate(tape, (tape.scores * weights).sum())  # rows do not mix in eval mode
            if needs.beside == FULL_GRADIENT:
                sums = summed(self._network.module, batch, weights)
                gradients.at_input["full_gradient"] = torch.from_numpy(fullgrad(map(_numpy, sums), *batch.shape[2:]))
            for place, tensors in vars(gradients).items():
                arrays = found.setdefault(place, {})
                for name, tensor in tensors.items():
                    whole = arrays.setdefault(name, np.empty((len(rows), *tensor.shape[1:]), np.float32))
                    whole[pairs] = _numpy(tensor)[rows[pairs]]
        layers = {
            path: LayerEvidence(_numpy(activation)[rows], found["layers"][path], found["curvature"].get(path))
            for path, activation in tape.layers.items()
        }
        spent = (time.perf_counter() - started) * 1e3
        return replace(evidence, layers=layers, coverage=tape.coverage, explain_ms=spent, **found["at_input"]), seeds

    def _attend(self, batch: Tensor, evidence: Evidence, seeds: Floats, method: Method) -> Evidence:
        """Adds maps of attention, by a pass of their own, so that the other evidence is the same as without them."""
        started, layout = time.perf_counter(), self._network.attention
        if isinstance(layout, str):
            raise Unprocessable(layout)
        attended = attend(self._network.module, batch, layout, by_block=method.attention == OF_BLOCKS)
        maps = np.empty((len(evidence.rows), *(layout.view.grid or ())), np.float32)
        for pairs, of_rows in _rounds(evidence, seeds):
            found = relevance(attended, layout, method, torch.from_numpy(of_rows).to(batch.device))
            maps[pairs] = _numpy(found)[evidence.rows[pairs]]
        return replace(evidence, attention=maps, explain_ms=evidence.explain_ms + (time.perf_counter() - started) * 1e3)


def _rounds(evidence: Evidence, seeds: Floats) -> Iterator[tuple[Indices, Floats]]:
    """Yields M pairs in rounds without a row twice, each with the rows' weights (N, K), of ``seeds`` (M, K) or 0."""
    rows = evidence.rows
    turns = np.array([np.count_nonzero(rows[:pair] == row) for pair, row in enumerate(rows)], int)
    for turn in range(max(turns, default=0) + 1):  # at least one, which gives the arrays their shapes
        pairs = np.flatnonzero(turns == turn)
        of_rows = np.zeros_like(evidence.logits)
        of_rows[rows[pairs]] = seeds[pairs]
        yield pairs, of_rows


def _numpy(tensor: Tensor) -> Floats:
    return np.array(tensor.detach().float().cpu().numpy())  # a copy: a network may answer with its own memory
