"""Answers a batch of rows; a row that fails leaves the other rows untouched."""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from handler.errors import RequestError, locating
from handler.page.compose import HEADERS
from handler.protocol.answer import HTML, NPZ, PNG, Answer, Observation, error_answer, json_text
from handler.protocol.envelope import Written
from handler.protocol.options import TENSOR
from handler.protocol.receipt import HEADER, read_key, sign
from handler.protocol.request import Request, parse_row
from handler.protocol.row import Row
from handler.rendering.render import encode_png, png_with
from handler.rendering.result import Result, observe_result, report
from handler.serving.budget import check_size
from handler.serving.explainer import Explainer
from handler.serving.jobs import Job, prepare
from handler.serving.settings import Settings

logger = logging.getLogger(__name__)

_Content = Written | bytes | Exception  # of a picture's answer: as JSON, as the bytes of another form, or the error
_Encoded = tuple[_Content, Observation | None]


@dataclass(frozen=True)
class _ReadRow:
    """A row, read as far as it is valid."""

    request: Request | None = None
    jobs: Sequence[Job] = ()
    error: Exception | None = None


class Answering:
    """Makes answers of rows."""

    def __init__(self, explainer: Explainer, settings: Settings, threads: int = 1) -> None:
        """Starts the threads that draw; the engine's own threads rest meanwhile."""
        self._painters = ThreadPoolExecutor(threads, "painter")
        self._explainer = explainer
        self._settings = settings
        self._key = read_key(settings.receipt_key, "private") if settings.receipt_key else None

    def answer_batch(self, rows: Sequence[Row]) -> list[Answer]:
        """Answers the rows, each with one answer, in their order."""
        batch = [self._read(row) for row in rows]
        encoded: dict[int, _Encoded] = {}  # by the job's identity: equal jobs may belong to different rows
        for job, outcome in self._explainer.explain_all(job for row in batch for job in row.jobs):
            try:
                encoded[id(job)] = self._encode(job, outcome) if isinstance(outcome, Result) else (outcome, None)
            except Exception as error:
                encoded[id(job)] = error, None
        return [self._answer(row, [encoded[id(job)] for job in row.jobs]) for row in batch]

    def _read(self, row: Row) -> _ReadRow:
        request, defaults = None, self._settings.defaults
        if row.explains and defaults.maps == ():  # an address for explanations explains
            defaults = replace(defaults, maps=None)
        try:
            request = parse_row(row, defaults)
            return _ReadRow(request, prepare(request, self._explainer.card, self._settings))
        except Exception as error:
            return _ReadRow(request, error=error)

    def _answer(self, row: _ReadRow, pictures: Sequence[_Encoded]) -> Answer:
        try:
            answer = self._assemble(row, [content for content, _ in pictures])
            check_size(len(answer.body), self._settings.max_answer_bytes)
        except Exception as error:
            if not isinstance(error, RequestError):
                logger.error("a row failed", exc_info=error)
            answer = error_answer(error)
        answer = replace(answer, observed=tuple(observed for _, observed in pictures if observed))
        if row.request is None or len(row.request.asked) != 1:
            return answer
        return replace(answer, headers={**answer.headers, HEADER: row.request.asked[0].image_hash["sha256"]})

    def _assemble(self, row: _ReadRow, contents: Sequence[_Content]) -> Answer:
        if row.request is None or row.error:
            raise row.error or RuntimeError("a row has neither a request nor an error")
        written = []
        for job, content in zip(row.jobs, contents, strict=True):
            if isinstance(content, bytes):
                return Answer(body=content, content_type=job.form, headers=HEADERS if job.form == HTML else {})
            if isinstance(content, Exception):
                with locating(job.place):
                    raise content
            written.append(content)
        return row.request.envelope.seal(written)

    def _encode(self, job: Job, result: Result) -> _Encoded:
        started = time.perf_counter()
        receipt = result.receipt(self._painters)
        receipt = sign(receipt, self._key) if self._key else receipt
        png = png_with(encode_png(result.sheet()), receipt) if job.form == PNG else None
        other = result.to_npz(receipt) if job.form == NPZ else png
        content = result.to_dict(self._painters, receipt) if other is None else {}
        drawn_ms = (time.perf_counter() - started) * 1e3
        timings = {**result.timings_ms, "render": result.timings_ms["render"] + drawn_ms}
        observed = observe_result(result, timings)
        if other is not None:
            return other, observed
        content["timings_ms"] = {stage: round(spent, 2) for stage, spent in timings.items()}
        if job.form == HTML:
            return report(self._explainer.card, content, job.shown), observed
        text = json_text(content)
        check_size(len(text), self._settings.max_answer_bytes)
        known = {"model": content["model"], "predictions": content["predictions"]}
        tensors = result.tensors() if job.options.encoding == TENSOR else {}
        return Written(text=text, tensors=tensors, **known), observed
