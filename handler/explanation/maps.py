"""Makes the maps of an explanation from evidence, at the size that was asked for; refuses what is not finite."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import cv2
import numpy as np

from handler.errors import NotFinite
from handler.explanation.activation_cams import principal_component
from handler.explanation.evidence import Evidence, Floats, Needs
from handler.explanation.methods import METHODS, Method
from handler.explanation.probe import Probe

# whether the network's input is mirrored, and the factor of its values, as in pytorch-grad-cam's ``aug_smooth``
AUGMENTATIONS = list(product((False, True), (1.0, 0.9, 1.1)))[1:]  # without the first, which is the picture itself
DETAIL = "detail, not evidence"  # what gradients at the input show (Adebayo et al. 2018, arXiv 1810.03292)


@dataclass(frozen=True, kw_only=True)
class MapKind:
    """The properties of all maps of one name."""

    title: str  # caption on a sheet
    shows: str  # below it: what may be read out of the map; {} is evidence, where the method depends on the class
    channels: int = 3  # 1: evidence at a layer's cells, upsampled; more: signed values at the input's pixels
    at_layer: bool = False  # needs the activation and the gradient at a layer
    guided: bool = False  # needs the guided gradient at the input
    saliency: bool = False  # needs the plain gradient at the input


MAP_KINDS = {
    "gradcam": MapKind(title="Grad-CAM", shows="{}", channels=1, at_layer=True),
    "guided_backprop": MapKind(title="guided backprop", shows=DETAIL, guided=True),
    "guided_gradcam": MapKind(title="guided Grad-CAM", shows="{} times detail", at_layer=True, guided=True),
    "saliency": MapKind(title="saliency", shows=DETAIL, saliency=True),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Map:
    """One map of one explanation."""

    values: Floats  # gradcam: (h, w) on [0, 1]; other maps: (H, W, C), signed and unscaled
    maximum: float | list[float]  # gradcam: of the unscaled map, one per layer; other maps: of the absolute values
    degenerate: bool  # gradcam: no positive evidence; other maps: all values are 0
    minimum: float | list[float] = 0.0  # gradcam: as ``maximum``; where it is not 0, the map's 0 does not stand for 0
    cells: tuple[int, ...] | None = None  # gradcam: (h, w) of the unscaled map, of the first layer
    coverage: str | None = None  # guided maps: how many activations were guided, "57 of 57 activations"


def makes_cam(maps: Sequence[str]) -> bool:
    """Whether one of the maps (names out of ``MAP_KINDS``) is made by a method."""
    return any(MAP_KINDS[name].at_layer for name in maps)


def needs_of(maps: Sequence[str], layers: Sequence[str], method: str = "gradcam") -> Needs:
    """The evidence for maps (names out of ``MAP_KINDS``) by a method, at layers (module paths)."""
    kinds = [MAP_KINDS[name] for name in maps]
    return Needs(
        layers=tuple(layers) if makes_cam(maps) and METHODS[method].takes("activation") else (),
        attention=method if makes_cam(maps) and METHODS[method].attention else "",
        beside=METHODS[method].beside if makes_cam(maps) else "",
        guided=any(kind.guided for kind in kinds),
        saliency=any(kind.saliency for kind in kinds),
    )


def make_maps(
    evidence: Evidence,
    pair: int,
    maps: Sequence[str],
    method: str,
    *,
    at_layer: bool,
    seed: int = 0,
    eigen: bool = False,
    changed: Evidence | None = None,
    probe: Probe | None = None,
) -> dict[str, Map]:
    """Makes the maps, names out of ``MAP_KINDS``, of one (input, target) pair of evidence with what ``needs_of`` names.

    ``at_layer`` leaves gradcam at the layer's size (h, w), instead of the input's (H, W); ``eigen`` takes the principal
    component of the weighted channels instead of their sum; ``changed`` is the evidence of the picture's changed copies
    for the same class, one pair each, whose maps are averaged with the picture's, see ``averaged``; methods that take
    a probe ask it about changed pictures. Raises ValueError if the evidence lacks a gradient at the input, and
    Unprocessable if the method is not defined at a layer.
    """
    chosen = METHODS[method]
    given = {"seed": seed, "probe": probe, **({"combine": principal_component} if eigen else {})}
    options = {name: value for name, value in given.items() if chosen.takes(name)}

    plain = _unscaled(evidence, pair, chosen, options) if makes_cam(maps) else []
    copies = [_unscaled(changed, copy, chosen, options) for copy in range(len(changed.rows))] if changed else []

    def cam(size: tuple[int, ...] | None) -> Map:
        first, *others = (_cam(layers, size) for layers in (plain, *copies))
        values = averaged(first.values, [made.values for made in others]) if others else first.values
        return replace(first, values=values, degenerate=all(made.degenerate for made in (first, *others)))

    made: dict[str, Map] = {}
    for name in maps:
        kind = MAP_KINDS[name]
        if kind.channels == 1:
            made[name] = cam(None if at_layer else evidence.input_size)
            continue
        gradients = evidence.guided if kind.guided else evidence.saliency
        if gradients is None:
            raise ValueError("the evidence lacks the gradient at the input")
        pixels = np.ascontiguousarray(gradients[pair].transpose(1, 2, 0))
        pixels = pixels * cam(evidence.input_size).values[:, :, None] if kind.at_layer else pixels
        largest, coverage = float(np.abs(pixels).max()), evidence.coverage if kind.guided else None
        made[name] = Map(values=pixels, maximum=largest, degenerate=largest == 0, coverage=coverage)
    return made


def _unscaled(evidence: Evidence, pair: int, method: Method, options: dict[str, Any]) -> list[Floats]:
    """The unscaled maps (h, w) of a pair: a map for each layer, or a single map if the method needs no layer."""
    for whole in (evidence.attention, evidence.full_gradient):
        if whole is not None:
            return [whole[pair]]
    if not method.takes("activation"):
        return [method.formula(None, None, **options)[0]]
    row, made = slice(pair, pair + 1), []
    for path, layer in evidence.layers.items():
        if "probe" in options:
            options["probe"].layer = path
        curvature = {} if layer.curvature is None else {"curvature": layer.curvature[row]}
        made.append(method.formula(layer.activation[row], layer.gradient[row], **options, **curvature)[0])
    return made


def _cam(unscaled: list[Floats], size: tuple[int, ...] | None) -> Map:
    """The map of a size (H, W), or of the first layer's."""
    minima, maxima = ([float(end(values)) for values in unscaled] for end in (np.min, np.max))
    alone, cells = len(unscaled) == 1, unscaled[0].shape
    least, largest = (ends[0] if alone else ends for ends in (minima, maxima))
    values = scale(unscaled[0]) if alone and cells == (size or cells) else combine(unscaled, *(size or cells))
    return Map(values=values, minimum=least, maximum=largest, degenerate=max(maxima) <= 0, cells=cells)


def scale(values: Floats) -> Floats:
    """Scales a map (h, w) to [0, 1], as pytorch-grad-cam does: subtracts the minimum, divides by ``1e-7 + maximum``."""
    shifted = values - values.min()
    return np.asarray(shifted / (1e-7 + shifted.max()), np.float32)


def resize(values: Floats, height: int, width: int) -> Floats:
    """Resizes a map (h, w) or (h, w, 3), bilinearly with half-pixel centres, to float32 (height, width) or (…, 3)."""
    return np.asarray(cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def combine(maps: Sequence[Floats], height: int, width: int) -> Floats:
    """Scales, resizes and averages unscaled maps (h, w) of any sizes; the average, scaled, is (height, width)."""
    upsampled = [resize(scale(values), height, width) for values in maps]
    return scale(np.mean(np.stack(upsampled), axis=0).clip(min=0))


def augmented(tensor: Floats) -> Floats:
    """The changed copies (5, C, H, W) of a network's input (C, H, W), in the order of ``AUGMENTATIONS``."""
    either = {False: tensor, True: tensor[:, :, ::-1]}
    return np.stack([either[mirrored] * np.float32(factor) for mirrored, factor in AUGMENTATIONS])


def averaged(plain: Floats, changed: Sequence[Floats]) -> Floats:
    """Averages a picture's map (h, w) and the maps of its changed copies, which are mirrored back; stays on [0, 1]."""
    pairs = zip(AUGMENTATIONS, changed, strict=True)
    straight = [values[:, ::-1] if mirrored else values for (mirrored, _), values in pairs]
    return np.asarray(np.mean([plain, *straight], axis=0), np.float32)


def check_scores(logits: Floats) -> None:
    """Raises NotFinite if a score of a picture, (K,), is NaN or infinite."""
    _check("scores", logits)


def check_evidence(evidence: Evidence, pair: int) -> None:
    """Raises NotFinite, which names the array, for a value of a pair's evidence; its map can be finite all the same."""
    for path, layer in evidence.layers.items():
        _check(f"activations at layer {path}", layer.activation[pair])
        _check(f"gradients at layer {path}", layer.gradient[pair])
    others = {"guided gradients": evidence.guided, "gradients at the input": evidence.saliency}
    for name, values in (others | {"maps of attention": evidence.attention}).items():
        if values is not None:
            _check(name, values[pair])


def check_maps(maps: Mapping[str, Map]) -> None:
    """Raises NotFinite, which names the map, for a map with an end that is not finite, as its evidence may be."""
    for name, made in maps.items():
        _check(f"values of {name}", np.hstack([made.minimum, made.maximum]))


def _check(what: str, values: Floats) -> None:
    if not np.isfinite(values).all():
        why = f"the network gives {what} that are not finite (NaN or infinity), which mean nothing"
        raise NotFinite(f"for this picture {why}; valid are pictures for which all values are finite")
