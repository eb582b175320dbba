"""One row's result as the content of its answer: the JSON object, or all its pictures on one sheet."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from handler.explanation.evidence import Floats, best_classes, softmax
from handler.explanation.maps import Map
from handler.protocol.model_card import ModelCard
from handler.protocol.observation import GRADIENT_ALONE, NONE, Observation
from handler.protocol.receipt import Receipt
from handler.rendering.canvas import Canvas, draw_map, encode_maps
from handler.rendering.render import Picture, sheet

DEFAULT_TOP_K = 5
_PANELS = {  # in the order of the sheet
    "gradcam": "Grad-CAM",
    "guided_gradcam": "guided Grad-CAM",
    "guided_backprop": "guided backprop",
    "saliency": "saliency",
}


@dataclass(frozen=True)
class Explained:
    """The maps of one of the row's targets."""

    target: int  # the class
    maps: dict[str, Map]


@dataclass(frozen=True)
class Result:
    """What was found for one row."""

    engine: str  # which one found it
    logits: Floats  # (K,)
    layers: tuple[str, ...]  # those that the maps are of, by their paths
    explained: list[Explained]  # one per target; none for a prediction only
    canvas: Canvas
    receipt: Receipt

    @property
    def probabilities(self) -> Floats:
        """(K,), softmax of the logits."""
        return softmax(self.logits)


def describe_result(result: Result, card: ModelCard) -> dict[str, Any]:
    """The JSON answer, timings aside."""
    layers = list(result.layers)
    probabilities = result.probabilities
    return {
        "model": card.summary(result.engine),
        "predictions": _predictions(probabilities, card, result.canvas.options.top_k or DEFAULT_TOP_K),
        "explanations": [
            {
                "target": _target(one.target, result.logits, probabilities, card),
                "method": result.canvas.options.method if layers else None,
                "layer": layers[0] if len(layers) == 1 else layers or None,
                "maps": encode_maps(one.maps, result.canvas),
            }
            for one in result.explained
        ],
        "image": result.receipt.to_dict(),
        "view": result.canvas.seen.crop.to_dict(),
    }


def draw_sheet(result: Result, card: ModelCard) -> Picture:
    """One row of captioned pictures per target, what the network saw first; all at the size it saw."""
    canvas = result.canvas
    rows = []
    for one in result.explained:
        target = _target(one.target, result.logits, result.probabilities, card)
        row = [(f"{target['label']} {target['probability']:.2f}", canvas.seen.picture)]
        row += [(_PANELS[name], draw_map(name, one.maps[name], canvas)) for name in _PANELS if name in one.maps]
        rows.append(row)
    return sheet(rows)


def observe_result(result: Result, stages_ms: Mapping[str, float]) -> Observation:
    """What metrics and logs tell of it; ``stages_ms`` has the names of ``observation.STAGES``."""
    maps = tuple(result.explained[0].maps) if result.explained else ()
    method = result.canvas.options.method if result.layers else GRADIENT_ALONE if maps else NONE
    height, width = result.canvas.seen.crop.image
    return Observation(
        result.engine,
        method,
        maps,
        len(result.explained),
        sum(one.degenerate for explained in result.explained for one in explained.maps.values()),
        height * width,
        stages_ms,
    )


def _predictions(probabilities: Floats, card: ModelCard, top_k: int) -> list[dict[str, Any]]:
    return [
        {"index": index, "label": card.labels[index], "probability": float(probabilities[index])}
        for index in best_classes(probabilities, top_k)
    ]


def _target(index: int, logits: Floats, probabilities: Floats, card: ModelCard) -> dict[str, Any]:
    return {
        "index": index,
        "label": card.labels[index],
        "logit": float(logits[index]),
        "probability": float(probabilities[index]),
    }
