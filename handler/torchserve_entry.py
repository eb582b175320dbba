"""The entry file: the only one that knows TorchServe. It stands at the root of the archive, beside the package.

TorchServe wants exactly one class here, with ``initialize`` and ``handle``.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from handler.answer import Answer, failure_answer
from handler.request import Headers
from handler.service import Service

logger = logging.getLogger(__name__)


class ExplainedClassifier:
    """A classifier that shows its evidence, as a TorchServe custom handler."""

    def __init__(self) -> None:
        self._service: Service | None = None

    def initialize(self, context: Any) -> None:
        """Loads the model that the archive holds; TorchServe calls it once per worker."""
        properties = context.system_properties
        gpu = properties.get("gpu_id")
        device = f"cuda:{gpu}" if torch.cuda.is_available() and gpu is not None else "cpu"
        model = context.manifest["model"]
        self._service = Service.load(
            Path(properties["model_dir"]),
            model["modelName"],
            model["modelVersion"],
            context.model_yaml_config,
            device,
        )

    def handle(self, data: Sequence[dict[str, Any]], context: Any) -> list[bytes]:
        """Answers a batch: as many bodies as rows, each with its own status and content type."""
        answers = self._answer(data, [Headers(context.get_all_request_header(i)) for i in range(len(data))])
        for place, answer in enumerate(answers):
            context.set_response_status(answer.status, answer.phrase, place)
            context.set_response_content_type(place, answer.content_type)
            for name, value in answer.headers.items():
                context.set_response_header(place, name, value)
        self._emit_counters(context)
        return [answer.body for answer in answers]

    def _answer(self, data: Sequence[dict[str, Any]], headers: list[Headers]) -> list[Answer]:
        """Last line of defence: an exception here would fail the whole batch with TorchServe's own 503."""
        try:
            if self._service is None:
                raise RuntimeError("handle was called before initialize")
            return self._service.answer(data, headers)
        except Exception:
            logger.exception("a batch of %d failed", len(data))
            return [failure_answer() for _ in data]

    def _emit_counters(self, context: Any) -> None:
        """TorchServe takes metrics only while it handles a batch; what was counted at start-up waits for the first."""
        try:
            for name, count in (self._service.counters.take() if self._service else {}).items():
                context.metrics.add_counter(name, count)
        except Exception:  # a batch that is answered must not fail for want of a metric
            logger.exception("counters are lost")
