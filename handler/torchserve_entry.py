"""The entry file: the only one that knows TorchServe. It stands at the root of the archive, beside the package.

TorchServe wants exactly one class here, with ``initialize`` and ``handle``.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes

from handler.loading import load_service
from handler.protocol.answer import PROBE, Answer, failure_answer
from handler.protocol.row import Row
from handler.service import Service
from handler.telemetry.metrics import Metrics, record, resident_memory
from handler.telemetry.request_log import keep_on_one_line, request_line

logger = logging.getLogger(__name__)

_OPTION = "x-explain-"  # begins the headers that carry options


def read_row(fields: Mapping[str, Any], headers: Mapping[str, Any]) -> Row:
    """Translates what TorchServe hands to a handler.

    Args:
        fields: part name to bytes, text or parsed JSON.
        headers: of the same row. TorchServe mixes the multipart parts' own headers into them, as dictionaries under the
            part's name; only text counts here, so that a part named "Accept" changes nothing. Whether a row was posted
            to an address for explanations, and below which path, TorchServe says, whatever a client sends.
    """
    texts: dict[str, str] = {}
    for name, value in headers.items():
        if isinstance(value, str):
            texts.setdefault(name.lower(), value)
    size = texts.get("content-length", "")  # TorchServe checked it
    return Row(
        fields=fields,
        accept=texts.get("accept", ""),
        path=texts.get("url_path", "").strip("/"),
        explains=texts.get("explain") == "True",
        describes=texts.get("describe") == "True",
        options={name.removeprefix(_OPTION): value for name, value in texts.items() if name.startswith(_OPTION)},
        content_type=texts.get("content-type", ""),
        size=int(size) if size.isascii() and size.isdigit() and len(size) < 12 else None,
        json_size=texts.get("inference-header-content-length"),
    )


class ExplainedClassifier:
    """A classifier that shows its evidence, as a TorchServe custom handler."""

    def __init__(self) -> None:
        self._service: Service | None = None

    def initialize(self, context: Any) -> None:
        """Loads the model that the archive holds; TorchServe calls it once per worker."""
        properties = context.system_properties
        gpu = properties.get("gpu_id")
        device = f"cuda:{gpu}" if torch.cuda.is_available() and gpu is not None else "cpu"
        self._service = load_service(
            Path(properties["model_dir"]),
            context.model_name,  # as it is registered; the archive's own name may be another
            context.manifest["model"]["modelVersion"],
            context.model_yaml_config,
            device,
        )
        keep_on_one_line()  # only now: before the first client a failure's traceback is easier to read on many

    def handle(self, data: Sequence[dict[str, Any]], context: Any) -> list[bytes]:
        """Answers a batch: as many bodies as rows, each with its own status and content type."""
        started = time.perf_counter()
        rows = [read_row(fields, context.get_all_request_header(place)) for place, fields in enumerate(data)]
        answers = self._answer(rows)
        for place, answer in enumerate(answers):
            context.set_response_status(answer.status, answer.phrase, place)
            context.set_response_content_type(place, answer.content_type)
            for name, value in answer.headers.items():
                context.set_response_header(place, name, value)
        try:
            self._report(answers, [row.body_size for row in rows], time.perf_counter() - started, context)
        except Exception:  # a batch that is answered must not fail for want of a metric
            logger.exception("metrics are lost")
        return [answer.body for answer in answers]

    def _answer(self, rows: Sequence[Row]) -> list[Answer]:
        """Last line of defence: an exception here would fail the whole batch with TorchServe's own 503."""
        try:
            if self._service is None:
                raise RuntimeError("handle was called before initialize")
            return self._service.answer_batch(rows)
        except Exception:
            logger.exception("a batch of %d failed", len(rows))
            return [failure_answer() for _ in rows]

    def _report(self, answers: Sequence[Answer], sizes: Sequence[int], seconds: float, context: Any) -> None:
        """Metrics and a line of the log for each request; what was counted at start-up waits for the first batch."""
        metrics = self._service.metrics if self._service else Metrics()
        for place, (answer, size) in enumerate(zip(answers, sizes, strict=True)):
            if answer.outcome != PROBE:
                record(metrics, answer, seconds)
                logger.info(request_line(answer, context.get_request_id(place), size, seconds * 1e3))
        for one in [*metrics.take(), resident_memory()]:
            labels = [Dimension(name, value) for name, value in one.labels]
            context.metrics.add_metric(one.name, one.value, one.unit, None, labels, MetricTypes(one.kind))
