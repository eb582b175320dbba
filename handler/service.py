"""The served model: loads what the archive holds, and answers rows, probes and questions about the model."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handler.answer import Answer, error_answer, json_answer
from handler.checkpoint import read_checkpoint
from handler.classifier import Classifier, build_classifier
from handler.errors import ModelError, NotFound, RequestError, Unprocessable
from handler.evidence import TOP, Engine, Needs
from handler.explainer import Explainer
from handler.model_card import ModelCard
from handler.options import Options
from handler.request import Headers
from handler.settings import read_settings
from handler.torch_engine import TorchEngine

logger = logging.getLogger(__name__)

CHECKPOINT_NAME = "model.safetensors"  # in the archive


class Service:
    """One loaded model. It has explained a picture of zeros before it is ready, so that a probe finds it warm."""

    def __init__(self, explainer: Explainer, engine: Engine, card: ModelCard) -> None:
        self._explainer = explainer
        self._engine = engine
        self._card = card

    @classmethod
    def load(
        cls,
        folder: Path,
        name: str,
        version: str,
        config: Mapping[str, Any] | None = None,
        device: str = "cpu",
    ) -> "Service":
        """Loads the unpacked archive.

        Args:
            folder: where ``model.safetensors`` lies.
            name: the model's name on the server.
            version: likewise.
            config: ``model-config.yaml`` as parsed.
            device: torch device.

        Raises:
            ModelError: what the archive or its settings lack.
        """
        settings = read_settings((config or {}).get("explain"))
        torch.set_num_threads(settings.threads or len(os.sched_getaffinity(0)))
        classifier = build_classifier(read_checkpoint(folder / CHECKPOINT_NAME), device)
        engine = TorchEngine(classifier)
        card = describe_model(classifier, engine, name, version)
        check_defaults(settings.defaults, card)
        logger.info("%s is ready: %s on %s, layer %s", name, card.architecture, device, card.default_layer)
        return cls(Explainer(engine, card, settings), engine, card)

    def answer(self, rows: Sequence[Mapping[str, Any]], headers: Sequence[Headers]) -> list[Answer]:
        """Answers a batch, whatever its rows are: pictures, probes (``…/healthz``) or questions about the model."""
        answers = [self._answer_aside(its) for its in headers]
        pictures = [place for place, answer in enumerate(answers) if answer is None]
        explained = self._explainer.answer([rows[place] for place in pictures], [headers[place] for place in pictures])
        for place, answer in zip(pictures, explained, strict=True):
            answers[place] = answer
        return [answer for answer in answers if answer is not None]

    def _answer_aside(self, headers: Headers) -> Answer | None:
        """The answer to a row that carries no picture; None for those that do."""
        path = (headers.get("url_path") or "").strip("/")
        if headers.get("describe") == "True":
            return json_answer(self._card.description(self._engine.name))
        if path == "healthz":
            return json_answer({"status": "ready", "model": self._card.summary(self._engine.name)})
        if path:
            return error_answer(NotFound("nothing answers below the model's path but healthz"))
        return None


def check_defaults(defaults: Options, card: ModelCard) -> None:
    """Refuses defaults that every request would be refused for.

    Raises:
        ModelError: naming the default and what is valid.
    """
    try:
        card.target_indices(defaults)
        card.layer_paths(defaults)
        card.check_top_k(defaults)
    except RequestError as error:
        raise ModelError(f"model-config.yaml: explain.defaults: {error}") from error


def describe_model(classifier: Classifier, engine: Engine, name: str, version: str) -> ModelCard:
    """Makes the model's card; explains a picture of zeros to see what the architecture has."""
    side = classifier.preprocessing.crop_size
    blank = np.zeros((1, 3, side, side), np.float32)
    coverage, refusal = None, None
    try:
        needs = Needs((classifier.default_layer,), guided=True)
        coverage = engine.run(blank, [[TOP]], needs).coverage
    except Unprocessable as error:
        refusal = str(error)
        engine.run(blank, [[TOP]], Needs((classifier.default_layer,)))
    return ModelCard(
        name,
        version,
        classifier.architecture,
        classifier.labels,
        classifier.preprocessing,
        classifier.default_layer,
        classifier.layers,
        coverage,
        refusal,
    )
