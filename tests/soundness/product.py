"""The product as a user has it: a checkpoint, a classifier, engines; and what it says when it refuses."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from export.graphs.exporters import explanation_kind
from handler.autograd.torch_engine import TorchEngine
from handler.errors import ServiceError
from handler.explanation.evidence import TOP, Engine, Evidence, Needs
from handler.graphs.description import KIND_GRADCAM, KIND_PREDICTION, KINDS
from handler.graphs.onnx_engine import OnnxEngine
from handler.graphs.session import open_graphs
from handler.loading import origin_of
from handler.model.classifier import Classifier, build_classifier, in_fast_layout
from handler.model.sources import find_checkpoint
from handler.picture.preprocess import Preprocessing
from tests.support.exports import export_explanation, export_gradcam, export_prediction

T = TypeVar("T")
_EXPORTS = {KIND_PREDICTION: export_prediction, KIND_GRADCAM: export_gradcam}


class Refused(Exception):
    """The product says in one line that it will not do this."""


class Crashed(Exception):
    """The product raised what no user should see."""


@dataclass(frozen=True)
class Answer:
    """Of one engine to one batch, by (row, class): float64 tensors."""

    classes: list[int]  # the rows' top classes
    scores: Tensor  # (N, K)
    activation: list[Tensor]  # of each pair (C, h, w)
    gradient: list[Tensor]
    pixels: list[Tensor]  # guided gradient, or the plain one of a network without a ReLU
    pairs: list[tuple[int, int]]  # row, class
    coverage: str | None


def ask(what: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Calls the product.

    Raises:
        Refused: with its sentence.
        Crashed: with the exception and the place in the product's code.
    """
    try:
        return what(*args, **kwargs)
    except ServiceError as error:
        raise Refused(str(error)) from error
    except Exception as error:  # whatever the product lets through
        frames = [one for one in traceback.extract_tb(error.__traceback__) if "/tests/" not in one.filename]
        place = next(
            (one for one in reversed(frames) if "/handler/" in one.filename or "/export/" in one.filename), None
        )
        where = f" at {Path(place.filename).name}:{place.lineno}" if place else ""
        said = (str(error).strip().splitlines() or [""])[0][:200]
        raise Crashed(f"{type(error).__name__}: {said}{where}") from error


def classifier_of(architecture: str, state: Path, labels: list[str], how: Preprocessing) -> Classifier:
    """What ``make archive ARCH= CHECKPOINT= LABELS=`` builds."""
    return build_classifier(replace(find_checkpoint(architecture, checkpoint=state, labels=labels), preprocessing=how))


def torch_engine(classifier: Classifier) -> TorchEngine:
    """As the server makes it."""
    return TorchEngine(in_fast_layout(classifier))


def answer(engine: Engine, pictures: Tensor, layer: str, *, guided: bool, seconds: Sequence[int]) -> Answer:
    """Evidence for each row's top class and for another one of its own."""
    targets = [[TOP, second] for second in seconds]
    found: Evidence = engine.run(pictures.numpy(), targets, Needs(layers=(layer,), guided=guided, saliency=not guided))
    pixels = found.guided if guided else found.saliency
    assert pixels is not None
    its = found.layers[layer]
    return Answer(
        found.logits.argmax(1).tolist(),
        _double(found.logits),
        list(_double(its.activation)),
        list(_double(its.gradient)),
        list(_double(pixels)),
        list(zip(found.rows.tolist(), found.classes.tolist(), strict=True)),
        found.coverage,
    )


def has_guided(engine: Engine, picture: Tensor) -> tuple[bool, str]:
    """Whether guided backpropagation is offered; what is said if not."""
    try:
        ask(engine.run, picture.numpy(), [[TOP]], Needs(guided=True))
    except Refused as refusal:
        return False, str(refusal)
    return True, ""


def write_graphs(classifier: Classifier, folder: Path) -> tuple[OnnxEngine | None, dict[str, str]]:
    """Every graph that can be made, opened; why the others cannot, by kind."""
    refused = {}
    for kind in (KIND_PREDICTION, KIND_GRADCAM, ask(explanation_kind, classifier)):
        export = _EXPORTS.get(kind, export_explanation)
        try:
            ask(export, classifier, folder / KINDS[kind].file)
        except Refused as refusal:
            refused[kind] = str(refusal).splitlines()[0]
    if not any(folder.glob("*.onnx")):
        return None, refused
    graphs = ask(open_graphs, folder, origin_of(classifier), threads=torch.get_num_threads())
    return OnnxEngine(graphs), refused


def _double(values: Any) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float64))
