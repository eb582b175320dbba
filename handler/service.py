"""The served model: loads what the archive holds, and answers rows, probes and questions about the model."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handler.engine_choice import Choice, choose_engine
from handler.errors import ModelError, NotFound, RequestError, Unprocessable
from handler.explanation.evidence import TOP, Engine, Floats
from handler.explanation.maps import needs_of
from handler.model.checkpoint import read_checkpoint
from handler.model.classifier import Classifier, build_classifier
from handler.picture.preprocess import Preprocessing
from handler.protocol.answer import PROBE, Answer, error_answer, json_answer
from handler.protocol.model_card import ModelCard
from handler.protocol.options import Options
from handler.protocol.request import Headers
from handler.serving.explainer import Explainer
from handler.serving.settings import read_settings
from handler.serving.threads import threads_per_worker
from handler.telemetry.metrics import ENGINE_DISAGREEMENTS, Metrics

logger = logging.getLogger(__name__)

CHECKPOINT_NAME = "model.safetensors"  # in the archive


class Service:
    """One loaded model. It has explained a picture of zeros before it is ready, so that a probe finds it warm."""

    def __init__(self, explainer: Explainer, choice: Choice, card: ModelCard, metrics: Metrics) -> None:
        self._explainer = explainer
        self._choice = choice
        self._card = card
        self.metrics = metrics  # for the entry file to emit

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
        threads = threads_per_worker(settings.threads, config or {})
        torch.set_num_threads(threads)
        if settings.engine == "onnx":
            device = "cpu"  # where the graphs run, and what they are compared with
        classifier = build_classifier(read_checkpoint(folder / CHECKPOINT_NAME), device)
        if classifier.alone:
            logger.warning("%s runs pictures one by one: %s", name, classifier.alone)
        metrics = Metrics()
        metrics.count(ENGINE_DISAGREEMENTS, 0)  # a series that starts with its first rise would hide it from rate()
        choice = choose_engine(settings.engine, folder, classifier, threads, metrics)
        card = describe_model(classifier, choice.engine, name, version)
        check_defaults(settings.defaults, card, choice.engine)
        logger.info(
            "%s is ready: %s on %s, layer %s, engine %s with %d threads, graphs: %s",
            *(name, card.architecture, device, card.default_layer, choice.engine.name, threads),
            ", ".join(choice.graphs) or "none",
        )
        return cls(Explainer(choice.engine, card, settings, threads), choice, card, metrics)

    def answer(self, rows: Sequence[Mapping[str, Any]], headers: Sequence[Headers]) -> list[Answer]:
        """Answers a batch, whatever its rows are: pictures, probes (``…/healthz``) or questions about the model."""
        answers = [self._answer_aside(row, its) for row, its in zip(rows, headers, strict=True)]
        pictures = [place for place, answer in enumerate(answers) if answer is None]
        explained = self._explainer.answer([rows[place] for place in pictures], [headers[place] for place in pictures])
        for place, answer in zip(pictures, explained, strict=True):
            answers[place] = answer
        return [answer for answer in answers if answer is not None]

    def _answer_aside(self, row: Mapping[str, Any], headers: Headers) -> Answer | None:
        """The answer to a row that carries no picture; None for those that do, whatever their headers say."""
        path = (headers.get("url_path") or "").strip("/")
        if any(row.values()):  # clients may send the headers by which TorchServe tells probes and questions
            return error_answer(NotFound("nothing answers pictures below the model's path")) if path else None
        if headers.get("describe") == "True":
            description = self._card.description(self._choice.engine.name)
            return _probe_answer({**description, "engines": self._choice.to_dict()})
        if path == "healthz":
            summary = self._card.summary(self._choice.engine.name)
            state = {"status": "ready", "model": summary, "engines": self._choice.to_dict()}
            return _probe_answer({**state, "pictures": self._explainer.pictures})
        if path:
            return error_answer(NotFound("nothing answers below the model's path but healthz"))
        return None


def _probe_answer(content: dict[str, Any]) -> Answer:
    return replace(json_answer(content), outcome=PROBE)


def check_defaults(defaults: Options, card: ModelCard, engine: Engine) -> None:
    """Refuses defaults that every request would be refused for, with a picture of zeros.

    Raises:
        ModelError: naming the default and what is valid.
    """
    try:
        targets = card.target_indices(defaults)
        card.check_top_k(defaults)
        engine.run(
            _blank(card.preprocessing), [targets], needs_of(card.map_names(defaults), card.layer_paths(defaults))
        )
    except RequestError as error:
        raise ModelError(f"model-config.yaml: explain.defaults: {error}") from error


def describe_model(classifier: Classifier, engine: Engine, name: str, version: str) -> ModelCard:
    """Makes the model's card; explains a picture of zeros to see what the architecture and the engine have."""
    blank, layer = _blank(classifier.preprocessing), classifier.default_layer
    coverage: str | None = None
    refusals: dict[str, str] = {}
    for maps in (("gradcam", "guided_gradcam"), ("guided_backprop", "guided_gradcam"), ("saliency",)):
        try:
            evidence = engine.run(blank, [[TOP]], needs_of(maps[:1], [layer]))
            coverage = evidence.coverage or coverage
        except Unprocessable as error:
            refusals |= dict.fromkeys(maps, str(error))
    return ModelCard(
        name,
        version,
        classifier.architecture,
        classifier.labels,
        classifier.preprocessing,
        layer,
        classifier.layers,
        coverage,
        refusals,
        classifier.layer_rule,
        classifier.refused_layers,
        classifier.alone,
    )


def _blank(how: Preprocessing) -> Floats:
    return np.zeros((1, 3, how.crop_size, how.crop_size), np.float32)
