"""Makes a parsed request ready for an engine: checks it against the model, decodes its pictures, sets limits."""

import time
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass

from handler.errors import BadRequest, locating
from handler.explanation.evidence import Needs
from handler.explanation.maps import needs_of
from handler.picture.decode import decode
from handler.picture.preprocess import preprocess
from handler.protocol.answer import PNG
from handler.protocol.model_card import ModelCard
from handler.protocol.request import Asked, Request
from handler.rendering.canvas import Canvas
from handler.serving.budget import Budget
from handler.serving.settings import Settings

_PAIRS_AT_ONCE = 16  # at one layer, in one pass: bounds the memory that pictures, targets and layers take


@dataclass(frozen=True)
class Job:
    """A picture that can go to the engine."""

    asked: Asked
    accept: str
    canvas: Canvas
    targets: list[int]
    maps: tuple[str, ...]
    needs: Needs
    decode_ms: float


def prepare(request: Request, card: ModelCard, settings: Settings, painters: Executor) -> list[Job]:
    """A job per picture; the first mistake ends it, so that nothing is computed for a request that is refused.

    Raises:
        RequestError: what the model does not have, no picture, or a request too large.
    """
    budget = Budget(settings.max_pixels, settings.max_answer_bytes)
    jobs = []
    for asked in request.asked:
        with locating(asked.place):
            jobs.append(_prepare(asked, request.accept, card, settings, painters, budget))
    return jobs


def _prepare(asked: Asked, accept: str, card: ModelCard, settings: Settings, painters: Executor, budget: Budget) -> Job:
    started = time.perf_counter()
    options = asked.options
    targets = card.target_indices(options)
    maps = card.map_names(options)
    layers = card.layer_paths(options)
    card.check_top_k(options)
    if accept == PNG and not maps:
        raise BadRequest("image/png shows maps and maps is none, valid is Accept: application/json")
    upload = decode(asked.image, settings.max_pixels)
    budget.decode(*upload.shape[:2])
    seen = preprocess(upload, card.preprocessing)
    on_upload = options.size == "image" and accept != PNG and maps
    canvas = Canvas(seen, upload if on_upload else None, options, painters)
    budget.draw(canvas, maps, len(targets))
    return Job(asked, accept, canvas, targets, maps, needs_of(maps, layers), (time.perf_counter() - started) * 1e3)


def pairs_at_once(needs: Needs) -> int:
    """How many targets, of one picture or of several, a pass may have: fewer where each wants several layers."""
    return _PAIRS_AT_ONCE // min(max(1, len(needs.layers)), _PAIRS_AT_ONCE)


def in_passes(jobs: Iterable[Job]) -> list[list[Job]]:
    """The jobs by equal needs, no more together than a pass may have; a job with more targets than that is alone."""
    passes: list[list[Job]] = []
    open_passes: dict[Needs, tuple[list[Job], int]] = {}
    for job in jobs:
        its, pairs = open_passes.get(job.needs, ([], 0))
        if not its or pairs + len(job.targets) > pairs_at_once(job.needs):
            its, pairs = [], 0
            passes.append(its)
        its.append(job)
        open_passes[job.needs] = its, pairs + len(job.targets)
    return passes
