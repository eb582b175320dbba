"""Prepares pictures for the engine: checks options against the model, decodes, sets limits, groups passes."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from handler.errors import BadRequest, Unprocessable, locating
from handler.explanation.class_weights import Mixture
from handler.explanation.evidence import Needs
from handler.explanation.maps import makes_cam, needs_of
from handler.explanation.methods import METHODS
from handler.explanation.trust import PASSES as TRUST_PASSES
from handler.picture.bands import read_picture
from handler.picture.preprocess import Input, preprocess
from handler.protocol.answer import HTML, JSON, NPZ, PNG
from handler.protocol.model_card import ModelCard
from handler.protocol.options import Options
from handler.protocol.receipt import ImageHash
from handler.protocol.request import Request
from handler.rendering.render import Canvas, data_uri
from handler.rendering.sheet import Picture
from handler.serving.budget import Budget
from handler.serving.settings import Settings

_PAIRS_AT_ONCE = 16  # (picture, target) pairs in a pass with one layer: limits the memory of the evidence
_LAYERS_OF_ATTENTION = 4  # whose evidence takes as much memory as the attention of all blocks and its gradients
_OF_FORM: dict[str, Any] = {JSON: {}, HTML: {"size": "input", "encoding": "npy"}}  # options that an answer's form sets
_OF_FORM |= {PNG: {"size": "input", "trust": False}, NPZ: {"encoding": "npy", "trust": False}}
_SHOWN = ("top_k", "trust", "encoding", "overlay")  # options that change no score and no map


@dataclass(frozen=True, kw_only=True)
class CheckedOptions:
    """A picture's options, checked against the model and in the model's terms."""

    targets: list[Mixture]  # the classes to explain
    maps: tuple[str, ...]  # names out of MAP_KINDS
    needs: Needs  # the evidence for these maps
    options: Options  # with a method out of METHODS

    @classmethod
    def of(cls, options: Options, card: ModelCard) -> "CheckedOptions":
        """Checks options against the model and the method; the RequestError says which values are valid."""
        options = card.resolved(options)
        targets = card.targets(options)
        check_method(options, targets)
        card.check(options)
        maps = card.map_names(options)
        needs = needs_of(maps, card.layer_paths(options), options.method)
        return cls(targets=targets, maps=maps, needs=needs, options=options)


@dataclass(frozen=True, kw_only=True)
class Job(CheckedOptions):
    """A picture that is ready for the engine."""

    canvas: Canvas
    image_hash: ImageHash
    place: str = ""  # the picture's place in the request, for messages; empty for a single picture
    form: str = JSON  # the answer's content type, out of FORMS
    shown: str = ""  # the whole picture as a data URI, for reports
    decode_ms: float = 0.0  # time of checking, decoding and preprocessing

    @property
    def passes(self) -> int:
        """The most pictures that a map's method asks about, for each target and layer; 0 for methods of one pass."""
        return (self.options.passes or METHODS[self.options.method].passes) if makes_cam(self.maps) else 0

    @property
    def resolved(self) -> dict[str, Any]:
        """The options that scores and maps depend on, as a request says them, without the targets."""
        layers, size = self.needs.layers or None, "layer" if self.options.size == "layer" else "input"
        known = {"maps": self.maps, "layer": layers, "passes": self.passes or None, "size": size, "target": None}
        said = {name: value for name, value in {**asdict(self.options), **known}.items() if name not in _SHOWN}
        lists = {name: list(value) or "none" for name, value in said.items() if isinstance(value, tuple)}
        return {name: value for name, value in {**said, **lists}.items() if value is not None}


def check_method(options: Options, targets: Sequence[Mixture]) -> None:
    """Raises Unprocessable if the method cannot honour an option; the message names the methods that can."""
    name, method = options.method, METHODS[options.method]
    masking = ", ".join(name for name, known in METHODS.items() if known.passes)
    weighted = ", ".join(name for name, known in METHODS.items() if known.takes("combine"))
    of_class = ", ".join(name for name, known in METHODS.items() if known.of_class)
    if not method.of_class and not all(target.alone for target in targets):
        raise Unprocessable(f"contrast needs a method that depends on the class, not {name}; valid are {of_class}")
    if method.similar and any(target.contrast is not None for target in targets):
        raise Unprocessable(f"method {name} chooses the contrast by itself, valid is contrast none")
    if options.passes is not None and not method.passes:
        raise Unprocessable(f"passes needs a method of many passes, not {name}; valid are {masking}")
    if "augment" in options.smooth and method.passes:
        raise Unprocessable(f"smooth augment needs a method of one pass, not {name}; valid are all but {masking}")
    if "eigen" in options.smooth and not method.takes("combine"):
        raise Unprocessable(f"smooth eigen needs a method that weights channels, not {name}; valid are {weighted}")


def prepare(request: Request, card: ModelCard, settings: Settings) -> list[Job]:
    """Makes a job of each picture; the first RequestError refuses the request, before the engine runs."""
    budget = Budget(settings.max_pixels, settings.max_answer_bytes, settings.max_passes)
    jobs = []
    for asked in request.asked:
        with locating(asked.place):
            started = time.perf_counter()
            checked = CheckedOptions.of(asked.options, card)
            if request.accept == PNG and not checked.maps:
                raise BadRequest("image/png shows maps and maps is none, valid is Accept: application/json")
            upload = read_picture(asked.image, settings.max_pixels, card.preprocessing.channels)
            budget.decode(*upload.shape[:2])
            seen = preprocess(upload, card.preprocessing)
            options = replace(checked.options, **_OF_FORM[request.accept])
            options = replace(options, trust=options.trust and bool(checked.maps))
            canvas = Canvas(seen, upload if options.size == "image" and checked.maps else None, options)
            shown = data_uri(upload) if request.accept == HTML else ""
            budget.draw(canvas, checked.maps, len(checked.targets), len(shown))
            known: Any = {"image_hash": asked.image_hash, "place": asked.place, "form": request.accept, "shown": shown}
            decode_ms = (time.perf_counter() - started) * 1e3
            job = Job(**vars(replace(checked, options=options)), canvas=canvas, decode_ms=decode_ms, **known)
            passes = job.passes * max(1, len(checked.needs.layers)) + TRUST_PASSES * options.trust
            budget.mask(passes * len(checked.targets))
            jobs.append(job)
    return jobs


def job_of(options: Options, card: ModelCard, seen: Input, image_hash: ImageHash, upload: Picture | None = None) -> Job:
    """Makes a job without a request, whose cost is not limited; maps of the upload's size need the upload (H, W, C)."""
    checked = CheckedOptions.of(options, card)
    canvas = Canvas(seen, upload if options.size == "image" else None, checked.options)
    return Job(**vars(checked), canvas=canvas, image_hash=image_hash)


def pairs_at_once(needs: Needs) -> int:
    """The most (picture, target) pairs of a pass; the more layers, the fewer pairs."""
    layers = _LAYERS_OF_ATTENTION if needs.attention else max(1, len(needs.layers))
    return _PAIRS_AT_ONCE // min(layers, _PAIRS_AT_ONCE)


def in_passes(jobs: Iterable[Job]) -> list[list[Job]]:
    """Groups jobs with equal needs to passes of at most ``pairs_at_once`` targets; a job with more has a pass alone."""
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
