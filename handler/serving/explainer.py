"""Answers a batch of rows: each on its own merits, all pictures with equal needs in one pass through the engine."""

import logging
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from handler.errors import NotFinite, RequestError, locating
from handler.explanation.evidence import Engine, Evidence, Floats
from handler.explanation.finiteness import check_evidence, check_maps, check_scores
from handler.explanation.maps import make_maps
from handler.protocol.answer import JSON, PNG, Answer, error_answer, failure_answer, json_text
from handler.protocol.envelope import Written
from handler.protocol.model_card import ModelCard
from handler.protocol.observation import Observation
from handler.protocol.options import Options
from handler.protocol.request import Headers, Request, parse_row
from handler.rendering.render import encode_png
from handler.rendering.result import Explained, Result, describe_result, draw_sheet, observe_result
from handler.serving.budget import check_size
from handler.serving.jobs import Job, in_passes, pairs_at_once, prepare
from handler.serving.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Shown:
    """What came of a picture."""

    content: Written | bytes | Exception  # its answer as JSON, as a PNG, or what went wrong
    observed: Observation | None = None


@dataclass(frozen=True)
class _Row:
    """A row on its way: read as far as possible."""

    request: Request | None = None
    jobs: Sequence[Job] = ()
    error: Exception | None = None


@dataclass(frozen=True)
class _Found:
    """What came of a job's targets, or of some of them."""

    engine: str
    logits: Floats  # (K,)
    layers: tuple[str, ...]
    explained: list[Explained]
    timings_ms: Mapping[str, float]


class Explainer:
    """Stateless apart from the engine, what is known of the model, and two counts."""

    def __init__(self, engine: Engine, card: ModelCard, settings: Settings, threads: int = 1) -> None:
        """Threads are those that draw; the engine has its own, which rest then."""
        self._painters = ThreadPoolExecutor(threads, "painter")
        self._engine = engine
        self._card = card
        self._settings = settings
        self.pictures = {"computed": 0, "not_finite": 0}  # since the start; the second are part of the first

    def answer(self, rows: Sequence[Mapping[str, Any]], headers: Sequence[Headers]) -> list[Answer]:
        """Answers each row; one row's mistake, or ours with it, leaves its neighbours untouched.

        Args:
            rows: as TorchServe hands them to a handler.
            headers: of each row.

        Returns:
            As many answers as rows, in their order.
        """
        batch = [self._open(row, its) for row, its in zip(rows, headers, strict=True)]
        shown: dict[int, _Shown] = {}  # by the job's identity: equal jobs are different rows' all the same
        for jobs in in_passes(job for row in batch for job in row.jobs):
            shown.update(zip(map(id, jobs), self._show_all(jobs), strict=True))
        return [self._close(row, [shown[id(job)] for job in row.jobs]) for row in batch]

    def _open(self, row: Mapping[str, Any], headers: Headers) -> _Row:
        request = None
        try:
            request = parse_row(row, headers, self._defaults(headers))
            return _Row(request, prepare(request, self._card, self._settings, self._painters))
        except Exception as error:
            return _Row(request, error=error)

    def _defaults(self, headers: Headers) -> Options:
        """What is not said: on /explanations the maps are shown even where predictions are the default."""
        defaults = self._settings.defaults
        return replace(defaults, maps=None) if defaults.maps == () and headers.explains else defaults

    def _close(self, row: _Row, shown: Sequence[_Shown]) -> Answer:
        try:
            answer = self._put_together(row, [one.content for one in shown])
        except Exception as error:
            answer = _answer_for(error)
        answer = replace(answer, observed=tuple(one.observed for one in shown if one.observed))
        if row.request is None or len(row.request.asked) != 1:
            return answer
        return replace(answer, headers=row.request.asked[0].receipt.headers())

    def _put_together(self, row: _Row, shown: Sequence[Written | bytes | Exception]) -> Answer:
        if row.request is None or row.error:
            raise row.error or RuntimeError("a row has neither a request nor an error")
        written = []
        for job, one in zip(row.jobs, shown, strict=True):
            if isinstance(one, bytes):
                return self._checked(Answer(one, PNG))
            if isinstance(one, Exception):
                with locating(job.asked.place):
                    raise one
            written.append(one)
        return self._checked(Answer(row.request.envelope.seal(written).encode(), JSON))

    def _checked(self, answer: Answer) -> Answer:
        check_size(len(answer.body), self._settings.max_answer_bytes)
        return answer

    def _show_all(self, jobs: Sequence[Job]) -> list[_Shown]:
        found: Sequence[_Found | Exception] | None = None
        try:
            found = self._find(jobs)
        except Exception as error:
            if len(jobs) == 1:
                found = [_without_variables(error)]
        if found is None:  # here, where nothing holds the memory of the pass that failed any more
            return [one for job in jobs for one in self._show_all([job])]
        return [self._show_safely(job, its) for job, its in zip(jobs, found, strict=True)]

    def _find(self, jobs: Sequence[Job]) -> list[_Found | Exception]:
        if len(jobs) > 1:
            return self._run(jobs, [job.targets for job in jobs])
        # a picture with many targets at many layers goes through in parts: what is found is many times its maps' size
        (job,) = jobs
        most = pairs_at_once(job.needs)
        parts: list[_Found] = []
        for start in range(0, len(job.targets), most):
            (part,) = self._run(jobs, [job.targets[start : start + most]])
            if isinstance(part, Exception):
                return [part]
            parts.append(part)
        return [_joined(parts)]

    def _run(self, jobs: Sequence[Job], targets: Sequence[Sequence[int]]) -> list[_Found | Exception]:
        inputs = np.stack([job.canvas.seen.tensor for job in jobs])
        evidence = self._engine.run(inputs, targets, jobs[0].needs)
        return [_take_safely(evidence, row, job) for row, job in enumerate(jobs)]

    def _show_safely(self, job: Job, found: _Found | Exception) -> _Shown:
        self.pictures["computed"] += 1
        self.pictures["not_finite"] += isinstance(found, NotFinite)
        if isinstance(found, Exception):
            return _Shown(found)
        try:
            return self._show(job, found)
        except Exception as error:
            return _Shown(error)

    def _show(self, job: Job, found: _Found) -> _Shown:
        started = time.perf_counter()
        result = Result(found.engine, found.logits, found.layers, found.explained, job.canvas, job.asked.receipt)
        sheet = encode_png(draw_sheet(result, self._card)) if job.accept == PNG else None
        content = describe_result(result, self._card) if sheet is None else {}
        render_ms = found.timings_ms["render"] + (time.perf_counter() - started) * 1e3
        timings = {"decode": job.decode_ms, **found.timings_ms, "render": render_ms}
        rounded = {name: round(value, 2) for name, value in timings.items()}
        observed = observe_result(result, timings)
        if sheet is not None:
            return _Shown(sheet, observed)
        text = json_text({**content, "timings_ms": rounded})
        check_size(len(text), self._settings.max_answer_bytes)
        return _Shown(Written(text, content["model"], content["predictions"]), observed)


def _take_safely(evidence: Evidence, row: int, job: Job) -> _Found | Exception:
    try:
        return _take(evidence, row, job)
    except Exception as error:
        return _without_variables(error)


def _without_variables(error: Exception) -> Exception:
    """The same error; its traceback no longer keeps what the functions in it had in memory."""
    traceback.clear_frames(error.__traceback__)
    return error


def _take(evidence: Evidence, row: int, job: Job) -> _Found:
    """A job's maps out of the evidence of a pass, which can be forgotten then."""
    started = time.perf_counter()
    check_scores(evidence.logits[row])
    at_layer = job.asked.options.size == "layer" and job.accept != PNG
    explained = []
    for pair in np.flatnonzero(evidence.rows == row).tolist() if job.maps else ():
        check_evidence(evidence, pair)
        maps = make_maps(evidence, pair, job.maps, job.asked.options.method, at_layer=at_layer)
        check_maps(maps)
        explained.append(Explained(int(evidence.classes[pair]), maps))
    # a picture's share: the sum over a pass's pictures is the time of the pass
    pictures = len(evidence.logits)
    timings = {
        "infer": evidence.infer_ms / pictures,
        "explain": evidence.explain_ms / pictures,
        "render": (time.perf_counter() - started) * 1e3,
    }
    return _Found(evidence.engine, evidence.logits[row], tuple(evidence.layers), explained, timings)


def _joined(parts: Sequence[_Found]) -> _Found:
    """The parts of one picture, whose scores are the same in all."""
    return replace(
        parts[0],
        explained=[one for part in parts for one in part.explained],
        timings_ms={stage: sum(part.timings_ms[stage] for part in parts) for stage in parts[0].timings_ms},
    )


def _answer_for(error: Exception) -> Answer:
    if isinstance(error, RequestError):
        return error_answer(error)
    logger.error("a row failed", exc_info=error)
    return failure_answer()
