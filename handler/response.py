"""One row's result as the content of its answer: the JSON object, or all its pictures on one sheet."""

from dataclasses import dataclass
from typing import Any

from handler.canvas import Canvas, draw_map, encode_maps
from handler.evidence import Evidence, Floats, best_classes, softmax
from handler.maps import Map
from handler.model_card import ModelCard
from handler.receipt import Receipt
from handler.render import Picture, sheet

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

    pair: int  # index into the evidence's pairs
    maps: dict[str, Map]


@dataclass(frozen=True)
class Result:
    """What was found for one row."""

    evidence: Evidence
    row: int  # of the evidence's inputs
    explained: list[Explained]  # one per target; none for a prediction only
    canvas: Canvas
    receipt: Receipt

    @property
    def probabilities(self) -> Floats:
        """(K,), softmax of the row's logits."""
        return softmax(self.evidence.logits[self.row])


def describe_result(result: Result, card: ModelCard) -> dict[str, Any]:
    """The JSON answer, timings aside."""
    layers = list(result.evidence.layers)
    probabilities = result.probabilities
    return {
        "model": card.summary(result.evidence.engine),
        "predictions": _predictions(probabilities, card, result.canvas.options.top_k or DEFAULT_TOP_K),
        "explanations": [
            {
                "target": _target(result.evidence, one.pair, probabilities, card),
                "method": result.canvas.options.method if layers else None,
                "layer": layers[0] if len(layers) == 1 else layers or None,
                "maps": encode_maps(one.maps, result.canvas),
            }
            for one in result.explained
        ],
        "image": result.receipt.to_dict(),
        "view": result.canvas.seen.view.to_dict(),
    }


def draw_sheet(result: Result, card: ModelCard) -> Picture:
    """One row of captioned pictures per target, what the network saw first; all at the size it saw."""
    canvas = result.canvas
    rows = []
    for one in result.explained:
        target = _target(result.evidence, one.pair, result.probabilities, card)
        row = [(f"{target['label']} {target['probability']:.2f}", canvas.seen.picture)]
        row += [(_PANELS[name], draw_map(name, one.maps[name], canvas)) for name in _PANELS if name in one.maps]
        rows.append(row)
    return sheet(rows)


def _predictions(probabilities: Floats, card: ModelCard, top_k: int) -> list[dict[str, Any]]:
    return [
        {"index": index, "label": card.labels[index], "probability": float(probabilities[index])}
        for index in best_classes(probabilities, top_k)
    ]


def _target(evidence: Evidence, pair: int, probabilities: Floats, card: ModelCard) -> dict[str, Any]:
    index = int(evidence.classes[pair])
    return {
        "index": index,
        "label": card.labels[index],
        "logit": float(evidence.logits[evidence.rows[pair], index]),
        "probability": float(probabilities[index]),
    }
