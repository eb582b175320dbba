"""Measures every way to make a map on a network's pictures."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from benchmarks.evaluation import metrics
from benchmarks.evaluation.subjects import SUBJECTS, Subject
from benchmarks.evaluation.ways import Way, ways
from export.graphs.exporters import export_graph
from handler.autograd.torch_engine import TorchEngine
from handler.errors import NotFinite, Unprocessable
from handler.explanation import trust
from handler.explanation.evidence import Engine, EngineTarget, Evidence, Floats, Needs, softmax
from handler.explanation.maps import scale
from handler.graphs.session import GraphSession
from handler.loading import describe_model
from handler.model.classifier import Classifier
from handler.serving.explainer import Explainer

STAGES = (0.0, 0.25, 0.5, 0.75, 1.0)  # shares of the layers that are randomised; at 0 the layer of the logits alone
_SEED = 7
_AT_ONCE = 16
_ACROSS = 0.02  # standard deviation by the side, as TorchRay blurs gradients before the pointing game
_QUICK_PASSES = 4
_BULK = 8  # rows of pixels in a step of deletion and insertion, as RISE does for many pictures
Row = dict[str, Any]


def measure(name: str, quick: bool, position: int = 0) -> Row:
    """All measures of a network's maps, by way; runs in a process of its own."""
    torch.set_num_threads(1)
    subject = SUBJECTS[name](quick)
    known = ways(_QUICK_PASSES if quick else None)
    with tqdm(total=len(known) + len(STAGES), desc=name, unit="step", position=position, disable=None) as bar:
        return {"quick": quick, **Judge(subject).judge(known, bar.update)}


class FastEngine:
    """The torch engine, but scores alone come from the exported graph, which is several times faster.

    It is what a server with graphs does. Deletion curves and methods that mask the picture ask for scores alone.
    """

    name = "torch"

    def __init__(self, classifier: Classifier, graph: Path) -> None:

        self._torch = TorchEngine(classifier)
        export_graph(classifier, graph, "prediction")
        self._graph = GraphSession.open(graph, threads=1)

    def run(self, inputs: Floats, targets: Sequence[Sequence[EngineTarget]], needs: Needs) -> Evidence:
        """See ``Engine.run``."""
        if needs != Needs() or any(targets):
            return self._torch.run(inputs, targets, needs)
        none = np.zeros(0, np.int64)
        return Evidence(logits=self.logits(inputs), input_size=inputs.shape[2:], rows=none, classes=none)

    def behind(self, inputs: Floats, layer: str, activations: Floats) -> Floats:
        """See ``Engine.behind``."""
        return self._torch.behind(inputs, layer, activations)

    def logits(self, tensors: Floats) -> Floats:
        """The logits (N, K) of inputs (N, 3, S, S), in batches that limit the memory."""
        starts = range(0, len(tensors), _AT_ONCE)
        parts = [self._graph.infer({"input": tensors[start : start + _AT_ONCE]}, ["logits"])[0] for start in starts]
        return np.concatenate(parts)


def _explainer(classifier: Classifier, engine: Engine) -> Explainer:
    return Explainer(engine, describe_model(classifier, engine, classifier.architecture, "evaluated"))


class Judge:
    """A network, its pictures, and what is known of them whatever the map."""

    def __init__(self, subject: Subject) -> None:

        self._subject = subject
        with TemporaryDirectory() as folder:
            self._engine = FastEngine(subject.classifier, Path(folder) / "scores.onnx")
        self._explainer = _explainer(subject.classifier, self._engine)
        self._tensors = np.stack([picture.tensor for picture in subject.pictures])
        scores = self._engine.logits(self._tensors)
        self._classes: list[int] = scores.argmax(axis=1).tolist()
        self._whole = softmax(scores)[np.arange(len(scores)), self._classes]
        grid = metrics.patches(self._tensors.shape[2])
        self._drops = []  # of the logit, when a patch is the mean colour
        for tensor, target, score in zip(self._tensors, self._classes, scores, strict=True):
            self._drops.append(score[target] - self._engine.logits(tensor * ~grid[:, None])[:, target])
        self._ties = np.random.default_rng(_SEED).permutation(self._tensors[0, 0].size)

    def judge(self, known: Sequence[Way], done: Callable[[], object]) -> Row:
        """Measures all ways; those that the network lacks are refused with the reason."""
        measured: dict[str, Row] = {}
        refused: dict[str, str] = {}
        kept: dict[str, Floats] = {}
        for way in known:
            try:
                row = self.localisation(way)
                maps = self._maps(way, self._explainer, self._subject.few if way.masking else len(self._tensors))
                measured[way.name] = {"title": way.title, "baseline": way.baseline, **row, **self._answers(way, maps)}
                measured[way.name] |= self._repeatability(way, maps)
                kept[way.name] = maps
            except Unprocessable as error:
                refused[way.name] = str(error)
            done()
        self._randomise([way for way in known if way.name in measured], kept, measured, done)
        right = [target in picture.masks for picture, target in zip(self._subject.pictures, self._classes, strict=True)]
        return {
            "title": self._subject.title,
            "layer": self._explainer.card.default_layer,
            "method": self._explainer.card.default_method,
            "side": self._tensors.shape[2],
            "pictures": len(self._tensors),
            "named_right": sum(right),
            "few": self._subject.few,
            "ways": measured,
            "refused": refused,
        }

    def _maps(self, way: Way, explainer: Explainer, count: int, seed: int = 0) -> Floats:
        return way.maps(explainer, self._tensors[:count], self._classes[:count], seed)

    def _probability(self, tensors: Floats, target: int) -> Floats:
        return np.asarray(softmax(self._engine.logits(tensors))[:, target])

    def localisation(self, way: Way) -> Row:
        """Pointing game, mass in the box, two objects told apart."""
        scenes = self._subject.scenes[: self._subject.scenes_masking if way.masking else None]
        pairs = [(scene, target) for scene in scenes for target in scene.masks]
        tensors, targets = np.stack([scene.tensor for scene, _ in pairs]), [target for _, target in pairs]
        found = defaultdict[str, dict[int, list[float]]](lambda: defaultdict(list))
        for values, (scene, target) in zip(way.maps(self._explainer, tensors, targets, 0), pairs, strict=True):
            own, across = scene.masks[target], _ACROSS * len(values)
            pointed = metrics.peak(np.asarray(cv2.GaussianBlur(values, (0, 0), across) if way.fine else values))
            found["pointing"][target].append(metrics.points_at(pointed, own))
            found["exact_pointing"][target].append(metrics.points_at(pointed, own, tolerance=0))
            found["mass"][target].append(metrics.mass_in(values, own))
            for other in scene.masks.keys() - {target}:
                found["own_share"][target].append(metrics.own_share(values, own, scene.masks[other]))
        row: Row = {name: _mean([_mean(one) for one in classes.values()]) for name, classes in found.items()}
        return row | {"boxes": len(pairs)}

    def _answers(self, way: Way, maps: Floats) -> Row:
        """What the network answers to pictures that are changed in the map's order."""
        scaled, targets = np.stack([scale(values) for values in maps]), self._classes[: len(maps)]
        masked = self._tensors[: len(maps)] * scaled[:, None]
        again, under = way.maps(self._explainer, masked, targets, 0), self._engine.logits(masked)
        found = defaultdict[str, list[float]](list)
        for index, (values, target) in enumerate(zip(scaled, targets, strict=True)):
            tensor, order, steps = self._tensors[index], trust.pixel_order(values, self._ties), -(-len(values) // _BULK)
            whole, kept = float(self._whole[index]), float(softmax(under[index])[target])
            dropped, like = metrics.drop(whole, kept), metrics.coherency(values, again[index])
            complexity = float(values.mean())
            one = {
                "deletion": float(trust.auc(self._probability(trust.deletion(tensor, order, steps), target))),
                "insertion": float(trust.auc(self._probability(trust.insertion(tensor, order, steps), target))),
                "drop": dropped,
                "increase": float(whole < kept),
                "coherency": like,
                "complexity": complexity,
                "adcc": metrics.adcc(like, complexity, dropped),
                "single_deletion": metrics.single_deletion(values, self._drops[index]),
            }
            one |= {"road": self._road(tensor, order, target)} if index < self._subject.few else {}
            for name, value in one.items():
                found[name].append(value)
        return {name: _mean(values) for name, values in found.items()} | {"maps": len(maps)}

    def _road(self, tensor: Floats, order: np.ndarray[Any, np.dtype[np.int64]], target: int) -> float:
        """ROAD's combined score: half of what the least important pixels cost less than the most important ones."""
        pictures = []
        for ranked in (order[::-1], order):  # least relevant first, then most relevant first
            for share in metrics.SHARES:
                missing = np.zeros(order.size, np.bool_)
                missing[ranked[: round(share * order.size)]] = True
                pictures.append(metrics.impute(tensor, missing.reshape(tensor.shape[1:]), _SEED))
        least, most = np.split(self._probability(np.stack(pictures), target), 2)
        return float(least.mean() - most.mean()) / 2

    def _repeatability(self, way: Way, maps: Floats) -> Row:
        """How far a picture's map alone is from its map in a batch, and how like the maps of two seeds are."""
        few = min(self._subject.few, len(maps))
        far = [0.0]
        for row, values in enumerate(maps[:few]):
            alone = way.maps(self._explainer, self._tensors[row : row + 1], self._classes[row : row + 1], 0)
            far.append(float(np.abs(alone - values).max() / max(values.max(), 1e-12)))
        other = self._maps(way, self._explainer, few, seed=1)
        return {"alone": max(far), "seeds": _mean(map(metrics.spearman, maps[:few], other))}

    def _randomise(
        self, known: Sequence[Way], kept: dict[str, Floats], measured: dict[str, Row], done: Callable[[], object]
    ) -> None:
        """The cascading randomisation of Adebayo et al. 2018, from the logits to the input: Spearman at each stage."""
        copy = replace(self._subject.classifier, module=deepcopy(self._subject.classifier.module))
        explainer, few = _explainer(copy, TorchEngine(copy)), self._subject.few
        for stage, _ in zip(STAGES, cascade(copy.module), strict=True):
            for way in known:
                if way.masking and stage not in (STAGES[0], STAGES[-1]):
                    continue
                try:
                    values = self._maps(way, explainer, max(few // 2, 1) if way.masking else few)
                except NotFinite:  # a network with random weights may overflow
                    like = None
                else:
                    like = _mean(map(metrics.spearman, kept[way.name], values))
                measured[way.name].setdefault("randomised", []).append(like)
            done()


def cascade(module: nn.Module, stages: Sequence[float] = STAGES) -> Iterator[int]:
    """Gives a network's layers new random weights, from the logits to the input; yields their number at each stage."""
    torch.manual_seed(_SEED)
    layers = [part for part in reversed(list(module.modules())) if [*part.parameters(recurse=False)]]
    counts = [max(1, round(stage * len(layers))) for stage in stages]
    for done, goal in pairwise([0, *counts]):
        for layer in layers[done:goal]:
            _reset(layer)
        yield goal


@torch.no_grad()
def _reset(layer: nn.Module) -> None:
    """As the layer's class initialises it; parameters of other classes are drawn with the spread that they have."""
    initialise = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
    if initialise:
        initialise()
    else:
        for parameter in layer.parameters(recurse=False):
            parameter.normal_(0, float(parameter.std(correction=0)))


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))
