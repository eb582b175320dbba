"""Answers a batch of rows: each on its own merits, those with equal needs in one pass through the engine."""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from handler.answer import PNG, Answer, error_answer, failure_answer, json_answer
from handler.canvas import Canvas, check_budget
from handler.decode import decode
from handler.errors import BadRequest, RequestError, TooLarge
from handler.evidence import Engine, Evidence, Needs
from handler.maps import make_maps, needs_of
from handler.model_card import ModelCard
from handler.options import Options
from handler.preprocess import preprocess
from handler.receipt import Receipt
from handler.render import encode_png
from handler.request import Headers, Request, parse_row
from handler.response import Explained, Result, describe_result, draw_sheet
from handler.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    """A row that can go to the engine: parsed, checked, decoded."""

    place: int  # in the batch
    options: Options
    accept: str
    canvas: Canvas
    receipt: Receipt
    targets: list[int]
    maps: tuple[str, ...]
    needs: Needs
    decode_ms: float


@dataclass(frozen=True)
class _Found:
    """A job's share of the evidence."""

    evidence: Evidence
    row: int  # the job's row in the evidence
    pairs: list[int]  # its pairs, in the order of its targets


class Explainer:
    """Stateless apart from the engine and what is known of the model."""

    def __init__(self, engine: Engine, card: ModelCard, settings: Settings, threads: int = 1) -> None:
        """Threads are those that draw; the engine has its own, which rest then."""
        self._painters = ThreadPoolExecutor(threads, "painter")
        self._engine = engine
        self._card = card
        self._settings = settings

    def answer(self, rows: Sequence[Mapping[str, Any]], headers: Sequence[Headers]) -> list[Answer]:
        """Answers each row; one row's mistake, or ours with it, leaves its neighbours untouched.

        Args:
            rows: as TorchServe hands them to a handler.
            headers: of each row.

        Returns:
            As many answers as rows, in their order.
        """
        answers: dict[int, Answer] = {}
        jobs: list[_Job] = []
        for place, (row, its_headers) in enumerate(zip(rows, headers, strict=True)):
            try:
                jobs.append(self._prepare(place, parse_row(row, its_headers, self._defaults(its_headers))))
            except Exception as error:
                answers[place] = _answer_for(error)
        for group in _with_equal_needs(jobs):
            answers.update(self._answer_group(group))
        return [answers[place] for place in range(len(rows))]

    def _defaults(self, headers: Headers) -> Options:
        """What is not said: on /explanations the maps are shown even where predictions are the default."""
        defaults = self._settings.defaults
        if defaults.maps == () and headers.get("explain") == "True":
            return replace(defaults, maps=None)
        return defaults

    def _prepare(self, place: int, request: Request) -> _Job:
        started = time.perf_counter()
        options = request.options
        targets = self._card.target_indices(options)
        maps = self._card.map_names(options)
        layers = self._card.layer_paths(options)
        self._card.check_top_k(options)
        if request.accept == PNG and not maps:
            raise BadRequest("image/png shows maps and maps is none, valid is Accept: application/json")
        upload = decode(request.image, self._settings.max_pixels)
        seen = preprocess(upload, self._card.preprocessing)
        on_upload = options.size == "image" and request.accept != PNG
        canvas = Canvas(seen, upload if on_upload else None, options, self._settings.max_answer_bytes, self._painters)
        check_budget(canvas, maps, len(targets))
        return _Job(
            place,
            options,
            request.accept,
            canvas,
            Receipt.of(request.image),
            targets,
            maps,
            needs_of(maps, layers),
            (time.perf_counter() - started) * 1e3,
        )

    def _answer_group(self, jobs: list[_Job]) -> dict[int, Answer]:
        try:
            found = self._run(jobs)
        except Exception as error:
            if len(jobs) == 1:
                return {jobs[0].place: _answer_for(error)}
            return {place: answer for job in jobs for place, answer in self._answer_group([job]).items()}
        answers = {}
        for job, its in zip(jobs, found, strict=True):
            try:
                answers[job.place] = self._present(job, its)
            except Exception as error:
                answers[job.place] = _answer_for(error)
        return answers

    def _run(self, jobs: list[_Job]) -> list[_Found]:
        inputs = np.stack([job.canvas.seen.tensor for job in jobs])
        evidence = self._engine.run(inputs, [job.targets for job in jobs], jobs[0].needs)
        return [_Found(evidence, row, np.flatnonzero(evidence.rows == row).tolist()) for row in range(len(jobs))]

    def _present(self, job: _Job, found: _Found) -> Answer:
        started = time.perf_counter()
        at_layer = job.options.size == "layer" and job.accept != PNG
        explained = [
            Explained(
                pair,
                make_maps(found.evidence, pair, job.maps, job.options.method, at_layer=at_layer),
            )
            for pair in (found.pairs if job.maps else [])
        ]
        result = Result(found.evidence, found.row, explained, job.canvas, job.receipt)
        if job.accept == PNG:
            answer = Answer(encode_png(draw_sheet(result, self._card)), PNG)
        else:
            content = describe_result(result, self._card)
            timings = {
                "decode": job.decode_ms,
                "infer": found.evidence.infer_ms,
                "explain": found.evidence.explain_ms,
                "render": (time.perf_counter() - started) * 1e3,
            }
            answer = json_answer(
                {
                    **content,
                    "timings_ms": {name: round(value, 2) for name, value in timings.items()},
                }
            )
        if len(answer.body) > self._settings.max_answer_bytes:
            raise TooLarge(
                f"the answer would take {len(answer.body)} bytes, valid are at most {self._settings.max_answer_bytes}; "
                "ask for fewer targets or maps, a smaller size (layer, input) or another encoding (png)"
            )
        return replace(answer, headers=job.receipt.headers())


def _with_equal_needs(jobs: Iterable[_Job]) -> list[list[_Job]]:
    groups: dict[Needs, list[_Job]] = {}
    for job in jobs:
        groups.setdefault(job.needs, []).append(job)
    return list(groups.values())


def _answer_for(error: Exception) -> Answer:
    if isinstance(error, RequestError):
        return error_answer(error)
    logger.error("a row failed", exc_info=error)
    return failure_answer()
