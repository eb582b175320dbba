"""The ways to make a map: every method and every map, by the explainer that the server has, and two baselines."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from zlib import crc32

import numpy as np

from handler.explanation import input_gradients
from handler.explanation.evidence import Floats
from handler.explanation.maps import MAP_KINDS, resize
from handler.explanation.methods import METHODS
from handler.picture.preprocess import Crop, Input
from handler.protocol.options import Options
from handler.protocol.receipt import hash_image
from handler.serving.explainer import Explainer
from handler.serving.jobs import job_of

_CAM = "gradcam"  # the map that methods make
_CELLS = 7  # a side, of the random baseline: as coarse as most maps of layers

Maps = Callable[[Explainer, Floats, Sequence[int], int], Floats]


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to make maps."""

    name: str
    title: str
    maps: Maps  # explainer, inputs (N, 3, S, S), a class for each, seed; to maps (N, S, S), 0 or more
    fine: bool = False  # made of gradients at the input, pixel by pixel
    masking: bool = False  # takes many passes
    baseline: bool = False


def ways(passes: int | None = None) -> list[Way]:
    """All ways, in the order of the tables; a network may lack some of them.

    ``passes`` are those of methods that mask the picture; None is each method's own number.
    """
    methods = []
    for name, known in METHODS.items():
        options = Options(maps=(_CAM,), method=name, passes=passes if known.passes else None)
        masking = bool(known.passes)
        fine = masking and known.formula in vars(input_gradients).values()
        maps = partial(_explained, options)
        methods.append(Way(name=name, title=known.title, maps=maps, fine=fine, masking=masking))
    kinds = [
        Way(name=name, title=kind.title, maps=partial(_explained, Options(maps=(name,))), fine=kind.channels == 3)
        for name, kind in MAP_KINDS.items()
        if name != _CAM
    ]
    baselines = [
        Way(name="centre", title="a blob at the centre", maps=_centre, baseline=True),
        Way(name="random", title="random cells", maps=_random, baseline=True),
    ]
    return methods + kinds + baselines


def _explained(options: Options, explainer: Explainer, tensors: Floats, targets: Sequence[int], seed: int) -> Floats:
    """Maps by the explainer; of a map with three channels, the largest absolute value of each pixel."""
    jobs = []
    for tensor, target in zip(tensors, targets, strict=True):
        side = tensor.shape[1:]
        seen = Input(tensor, np.zeros((*side, 3), np.uint8), Crop(side, (0, 0, *side)))
        jobs.append(
            job_of(replace(options, target=(target,), seed=seed), explainer.card, seen, hash_image(tensor.tobytes()))
        )
    values = []
    for _, outcome in explainer.explain_all(jobs):  # equal needs: in their order
        if isinstance(outcome, Exception):
            raise outcome
        (made,) = outcome.explanations[0].maps.values()
        values.append(made.values)
    return np.stack([np.abs(one).max(axis=2) if one.ndim == 3 else one for one in values])


def _centre(_explainer: Explainer, tensors: Floats, _targets: Sequence[int], _seed: int) -> Floats:
    side = tensors.shape[2]
    line = np.exp(-(((np.arange(side) + 0.5) / side - 0.5) ** 2) / (2 * 0.25**2)).astype(np.float32)
    return np.repeat((line[:, None] * line)[None], len(tensors), axis=0)


def _random(_explainer: Explainer, tensors: Floats, _targets: Sequence[int], seed: int) -> Floats:
    """Other cells for every picture, whatever batch it is in."""
    generators = [np.random.default_rng([seed, crc32(tensor.tobytes())]) for tensor in tensors]
    return np.stack([resize(rng.random((_CELLS, _CELLS), np.float32), *tensors.shape[2:]) for rng in generators])
