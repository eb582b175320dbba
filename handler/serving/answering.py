"""Answers a batch of rows: each on its own merits, whatever its neighbours are."""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from handler.errors import RequestError, locating
from handler.protocol.answer import JSON, PNG, Answer, error_answer, failure_answer, json_text
from handler.protocol.envelope import Written
from handler.protocol.observation import Observation
from handler.protocol.options import Options
from handler.protocol.request import Request, parse_row
from handler.protocol.row import Row
from handler.rendering.render import encode_png
from handler.rendering.result import Result, observe_result
from handler.serving.budget import check_size
from handler.serving.explainer import Explainer
from handler.serving.jobs import Job, prepare
from handler.serving.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Shown:
    """The outcome of one picture."""

    content: Written | bytes | Exception  # its answer as JSON, as a PNG, or what went wrong
    observed: Observation | None = None


@dataclass(frozen=True)
class _Opened:
    """A row on its way: read as far as possible."""

    request: Request | None = None
    jobs: Sequence[Job] = ()
    error: Exception | None = None


class Answering:
    """Rows in, answers out."""

    def __init__(self, explainer: Explainer, settings: Settings, threads: int = 1) -> None:
        """Makes the threads that draw; the engine has threads of its own, which rest while pictures are drawn."""
        self._painters = ThreadPoolExecutor(threads, "painter")
        self._explainer = explainer
        self._settings = settings

    @property
    def pictures(self) -> dict[str, int]:
        """How many pictures were computed since the start, and how many of them were not finite."""
        return self._explainer.pictures

    def answer_batch(self, rows: Sequence[Row]) -> list[Answer]:
        """Answers each row; one row's mistake, or ours with it, leaves its neighbours untouched.

        Returns:
            As many answers as rows, in their order.
        """
        batch = [self._open(row) for row in rows]
        shown: dict[int, _Shown] = {}  # by the job's identity: equal jobs are different rows' all the same
        for job, outcome in self._explainer.explain_all(job for row in batch for job in row.jobs):
            shown[id(job)] = self._show_safely(job, outcome)
        return [self._close(row, [shown[id(job)] for job in row.jobs]) for row in batch]

    def _open(self, row: Row) -> _Opened:
        request = None
        try:
            request = parse_row(row, self._defaults(row))
            return _Opened(request, prepare(request, self._explainer.card, self._settings))
        except Exception as error:
            return _Opened(request, error=error)

    def _defaults(self, row: Row) -> Options:
        """The options that a row does not say; an address for explanations shows maps even if the default is none."""
        defaults = self._settings.defaults
        return replace(defaults, maps=None) if defaults.maps == () and row.explains else defaults

    def _close(self, row: _Opened, shown: Sequence[_Shown]) -> Answer:
        try:
            answer = self._put_together(row, [one.content for one in shown])
        except Exception as error:
            answer = _answer_for(error)
        answer = replace(answer, observed=tuple(one.observed for one in shown if one.observed))
        if row.request is None or len(row.request.asked) != 1:
            return answer
        return replace(answer, headers=row.request.asked[0].receipt.headers())

    def _put_together(self, row: _Opened, shown: Sequence[Written | bytes | Exception]) -> Answer:
        if row.request is None or row.error:
            raise row.error or RuntimeError("a row has neither a request nor an error")
        written = []
        for job, content in zip(row.jobs, shown, strict=True):
            if isinstance(content, bytes):
                return self._checked(Answer(content, PNG))
            if isinstance(content, Exception):
                with locating(job.place):
                    raise content
            written.append(content)
        return self._checked(Answer(row.request.envelope.seal(written).encode(), JSON))

    def _checked(self, answer: Answer) -> Answer:
        check_size(len(answer.body), self._settings.max_answer_bytes)
        return answer

    def _show_safely(self, job: Job, outcome: Result | Exception) -> _Shown:
        if isinstance(outcome, Exception):
            return _Shown(outcome)
        try:
            return self._show(job, outcome)
        except Exception as error:
            return _Shown(error)

    def _show(self, job: Job, result: Result) -> _Shown:
        started = time.perf_counter()
        sheet = encode_png(result.sheet()) if job.as_sheet else None
        content = result.to_dict(self._painters) if sheet is None else {}
        drawn_ms = (time.perf_counter() - started) * 1e3
        timings = {**result.timings_ms, "render": result.timings_ms["render"] + drawn_ms}
        observed = observe_result(result, timings)
        if sheet is not None:
            return _Shown(sheet, observed)
        text = json_text({**content, "timings_ms": {stage: round(spent, 2) for stage, spent in timings.items()}})
        check_size(len(text), self._settings.max_answer_bytes)
        return _Shown(Written(text, content["model"], content["predictions"]), observed)


def _answer_for(error: Exception) -> Answer:
    if isinstance(error, RequestError):
        return error_answer(error)
    logger.error("a row failed", exc_info=error)
    return failure_answer()
