"""The entry file of the archive, and the only file that knows TorchServe's requests and headers.

TorchServe needs exactly one class in it, with ``initialize`` and ``handle``.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes

from handler.archive import Unpacked
from handler.loading import load_service
from handler.protocol.answer import PROBE, Answer, error_answer
from handler.protocol.row import Row, header_options
from handler.service import Service
from handler.telemetry.metrics import Metrics, record, resident_memory
from handler.telemetry.request_log import keep_on_one_line, request_line

logger = logging.getLogger(__name__)

_WORKER = "model_service_worker.py"  # runs in the folder of the unpacked archive


def read_row(fields: Mapping[str, Any], headers: Mapping[str, Any]) -> Row:
    """Translates a request of TorchServe, which itself sets the headers for path, explanations and descriptions.

    It adds the headers of multipart parts, as dictionaries under the parts' names; they are ignored, so that a part
    named "Accept" changes nothing.
    """
    said = {name: value for name, value in headers.items() if isinstance(value, str)}
    texts = {name.lower(): said[name] for name in reversed(said)}  # the first value under a name of any spelling
    size = texts.get("content-length", "")  # TorchServe checked it
    return Row(
        fields=fields,
        accept=texts.get("accept", ""),
        path=texts.get("url_path", "").strip("/"),
        explains=texts.get("explain") == "True",
        describes=texts.get("describe") == "True",
        options=dict(header_options(said.items())),
        content_type=texts.get("content-type", ""),
        encoding=texts.get("content-encoding", ""),
        size=int(size) if size.isascii() and size.isdigit() and len(size) < 12 else None,
        json_size=texts.get("inference-header-content-length"),
    )


def running_workers() -> int:
    """Counts the workers that run this model, this process included; 0 if this process is no worker."""

    def place(process: psutil.Process) -> str:
        with suppress(psutil.Error):  # it may have ended
            return process.cwd() if any(part.endswith(_WORKER) for part in process.cmdline()) else ""
        return ""

    with suppress(psutil.Error):
        own = psutil.Process()
        here, server = place(own), own.parent()
        return sum(place(process) == here for process in server.children()) if here and server else 0
    return 0


class ExplainedClassifier:
    """TorchServe's custom handler of a classifier that shows its evidence."""

    def __init__(self) -> None:
        self._service: Service | None = None

    def initialize(self, context: Any) -> None:
        """Loads the archive's model, or raises ModelError; TorchServe calls this once per worker."""
        properties = context.system_properties
        gpu = properties.get("gpu_id")
        device = f"cuda:{gpu}" if torch.cuda.is_available() and gpu is not None else "cpu"
        archive = Unpacked(
            folder=Path(properties["model_dir"]),
            name=context.model_name,  # the registered one, which may differ from the archive's
            version=context.manifest["model"]["modelVersion"],
            config=context.model_yaml_config or {},
        )
        self._service = load_service(archive, device, running_workers)
        keep_on_one_line()  # not before: a traceback at start-up is easier to read on several lines

    def handle(self, data: Sequence[dict[str, Any]], context: Any) -> list[bytes]:
        """Answers a batch: returns a body for each row, and sets the row's status, content type and headers."""
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
        except Exception:  # an answered batch must not fail because of a metric
            logger.exception("metrics are lost")
        return [answer.body for answer in answers]

    def _answer(self, rows: Sequence[Row]) -> list[Answer]:
        """Answers a batch, and turns every exception into answers: TorchServe would answer with a 503 of its own."""
        try:
            if self._service is None:
                raise RuntimeError("handle was called before initialize")
            return self._service.answer_beside(rows)
        except Exception as error:
            logger.exception("a batch of %d failed", len(rows))
            return [error_answer(error) for _ in rows]

    def _report(self, answers: Sequence[Answer], sizes: Sequence[int], seconds: float, context: Any) -> None:
        """Reports metrics, those of start-up with the first batch, and writes a log line per request."""
        metrics = self._service.metrics if self._service else Metrics()
        for place, (answer, size) in enumerate(zip(answers, sizes, strict=True)):
            if answer.outcome != PROBE:
                record(metrics, answer, seconds)
                logger.info(request_line(answer, context.get_request_id(place), size, seconds * 1e3))
        for sample in [*metrics.take(), resident_memory()]:
            labels = [Dimension(name, value) for name, value in sample.labels]
            context.metrics.add_metric(sample.name, sample.value, sample.unit, None, labels, MetricTypes(sample.kind))
