"""Makes pictures ready for an engine: checks what is asked against the model, decodes, sets limits."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from handler.errors import BadRequest, locating
from handler.explanation.evidence import Needs
from handler.explanation.maps import needs_of
from handler.picture.decode import decode
from handler.picture.preprocess import Input, preprocess
from handler.protocol.answer import PNG
from handler.protocol.model_card import ModelCard
from handler.protocol.options import Options
from handler.protocol.receipt import Receipt
from handler.protocol.request import Request
from handler.rendering.canvas import Canvas
from handler.serving.budget import Budget
from handler.serving.settings import Settings

_PAIRS_AT_ONCE = 16  # at one layer, in one pass: bounds the memory that pictures, targets and layers take


@dataclass(frozen=True, kw_only=True)
class Job:
    """A picture that can go to the engine."""

    canvas: Canvas
    targets: list[int]
    maps: tuple[str, ...]
    needs: Needs
    receipt: Receipt
    place: str = ""  # in the request, for messages; empty where it is the only one
    as_sheet: bool = False  # whether the answer is a sheet, whose panels have the size that the network saw
    decode_ms: float = 0.0


@dataclass(frozen=True)
class Asked:
    """What is asked about a picture, in the model's terms."""

    targets: list[int]
    maps: tuple[str, ...]
    layers: list[str]

    @classmethod
    def of(cls, options: Options, card: ModelCard) -> "Asked":
        """Checks options against the model.

        Raises:
            RequestError: what the model does not have.
        """
        asked = cls(card.target_indices(options), card.map_names(options), card.layer_paths(options))
        card.check_top_k(options)
        return asked

    @property
    def needs(self) -> Needs:
        """The evidence for it."""
        return needs_of(self.maps, self.layers)


def prepare(request: Request, card: ModelCard, settings: Settings) -> list[Job]:
    """A job per picture; the first mistake ends it, so that nothing is computed for a request that is refused.

    Raises:
        RequestError: what the model does not have, no picture, or a request too large.
    """
    budget = Budget(settings.max_pixels, settings.max_answer_bytes)
    as_sheet = request.accept == PNG
    jobs = []
    for one in request.asked:
        with locating(one.place):
            started = time.perf_counter()
            asked = Asked.of(one.options, card)
            if as_sheet and not asked.maps:
                raise BadRequest("image/png shows maps and maps is none, valid is Accept: application/json")
            upload = decode(one.image, settings.max_pixels)
            budget.decode(*upload.shape[:2])
            seen = preprocess(upload, card.preprocessing)
            on_upload = one.options.size == "image" and not as_sheet and asked.maps
            canvas = Canvas(seen, upload if on_upload else None, one.options)
            budget.draw(canvas, asked.maps, len(asked.targets))
            jobs.append(
                Job(
                    canvas=canvas,
                    targets=asked.targets,
                    maps=asked.maps,
                    needs=asked.needs,
                    receipt=one.receipt,
                    place=one.place,
                    as_sheet=as_sheet,
                    decode_ms=(time.perf_counter() - started) * 1e3,
                )
            )
    return jobs


def job_of(
    options: Options, card: ModelCard, seen: Input, receipt: Receipt, upload: npt.NDArray[np.uint8] | None = None
) -> Job:
    """A job without a request, for callers in the same process: no budget limits what it may cost.

    Args:
        options: what is asked.
        card: of the model.
        seen: what the network is shown.
        receipt: of the picture.
        upload: the whole picture, uint8 RGB (H, W, 3), for maps of its size.

    Raises:
        RequestError: what the model does not have.
    """
    asked = Asked.of(options, card)
    canvas = Canvas(seen, upload if options.size == "image" else None, options)
    return Job(canvas=canvas, targets=asked.targets, maps=asked.maps, needs=asked.needs, receipt=receipt)


def pairs_at_once(needs: Needs) -> int:
    """How many targets, of one picture or of several, a pass may have: fewer where each wants several layers."""
    return _PAIRS_AT_ONCE // min(max(1, len(needs.layers)), _PAIRS_AT_ONCE)


def in_passes(jobs: Iterable[Job]) -> list[list[Job]]:
    """Groups jobs with equal needs, up to the targets that a pass may have; a job with more targets is alone."""
    passes: list[list[Job]] = []
    open_passes: dict[Needs, tuple[list[Job], int]] = {}
    for job in jobs:
        together, pairs = open_passes.get(job.needs, ([], 0))
        if not together or pairs + len(job.targets) > pairs_at_once(job.needs):
            together, pairs = [], 0
            passes.append(together)
        together.append(job)
        open_passes[job.needs] = together, pairs + len(job.targets)
    return passes
