"""The result for one picture: it can be drawn, saved, shown in a notebook and turned into the JSON answer."""

import base64
import html
import io
import json
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from handler.atomic_write import write_whole
from handler.errors import BadRequest
from handler.explanation.evidence import Floats, probabilities
from handler.explanation.maps import MAP_KINDS, Map, resize, scale
from handler.explanation.methods import METHODS
from handler.explanation.trust import Trust
from handler.page.compose import page
from handler.picture.projection import hatched, three_bands
from handler.protocol.answer import GRADIENT_ALONE, NONE, Observation
from handler.protocol.model_card import ModelCard
from handler.protocol.receipt import digest
from handler.rendering.render import Canvas, draw_map, encode_map, encode_png, values_on
from handler.rendering.sheet import Panel, Picture, sheet

_FEWEST_LETTERS = 8  # of a label that is cut on a sheet
_MOST_OF_PATH = 32  # letters of a layer on a sheet
_PANELS = sorted(MAP_KINDS, key=lambda name: not MAP_KINDS[name].at_layer)  # maps in the order of the sheet


@dataclass(frozen=True)
class Prediction:
    """One predicted class of one picture."""

    index: int
    label: str
    probability: float  # 0 to 1


@dataclass(frozen=True, kw_only=True)
class Target:
    """A class that an explanation is about."""

    index: int
    label: str
    logit: float  # the score that was differentiated
    probability: float  # 0 to 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """The maps of one target."""

    target: Target
    contrast: Target | None = None  # explains the difference of the target's score and this class's
    against: bool = False  # explains the negative score: the evidence against the target
    method: str | None  # the CAM formula; None if no map is made at a layer
    layers: tuple[str, ...]  # module paths of the layers that the maps are made at; empty if none is
    maps: dict[str, Map]  # by name, in the order of the options
    passes: int = 0  # masked pictures that the method asked the network about
    trust: Trust | None = None  # None unless it was asked for

    def title(self, fits: Callable[[str], bool]) -> str:
        """The classes as a heading that fits, ``heart 0.61, not ring 0.20``; labels are cut, but for 8 letters."""
        classes = [found for found in (self.target, self.contrast) if found]

        def cut(most: int) -> str:
            labels = [one.label if len(one.label) <= most else one.label[: most - 3] + "..." for one in classes]
            said = [f"{label} {one.probability:.2f}" for label, one in zip(labels, classes, strict=True)]
            return ("against " if self.against else "") + ", not ".join(said)

        lengths = range(_FEWEST_LETTERS, max(_FEWEST_LETTERS, *(len(one.label) for one in classes)) + 1)
        return cut(lengths[max(0, bisect_left(lengths, True, key=lambda most: not fits(cut(most))) - 1)])

    def note(self, name: str) -> str:
        """What may be read out of a map, and the layer it was made at: ``evidence at conv5``."""
        kind, about = MAP_KINDS[name], METHODS[self.method or "gradcam"].of_class
        where = "".join(f" at {'...' * (len(path) > _MOST_OF_PATH)}{path[-_MOST_OF_PATH:]}" for path in self.layers)
        where = where if len(self.layers) < 2 else f", mean of {len(self.layers)} layers"
        return kind.shows.format("evidence" if about else "what stands out") + where * (kind.channels == 1)

    @property
    def measure(self) -> str:
        """The probability that the maps are tested with, in words: ``the probability of heart, less that of ring``."""
        less = f", less that of {self.contrast.label}" if self.contrast else ""
        return f"{'the negative of ' if self.against else ''}the probability of {self.target.label}{less}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """The predictions and explanations of one picture."""

    model: Mapping[str, str]  # name, version, architecture and the engine that computed the evidence
    logits: Floats  # (K,)
    predictions: Sequence[Prediction]  # the most probable classes, best first
    explanations: Sequence[Explanation]  # one per target; empty if no map was asked for
    canvas: Canvas  # the pictures that maps are drawn on
    provenance: Mapping[str, Any]  # what the receipt says of model, options and versions
    timings_ms: Mapping[str, float] = field(default_factory=dict)  # by name out of ``answer.STAGES``

    @property
    def probabilities(self) -> Floats:
        """The probabilities (K,) of the classes, by the model's head."""
        return probabilities(self.logits, self.model.get("activation", ""))

    def draw(self, explanation: int = 0, name: str | None = None) -> Picture:
        """Draws a map of an explanation, by its index, as the server does: uint8 RGB (H, W, 3), see ``draw_map``.

        Without a name it is Grad-CAM, or the first map if that was not made. BadRequest says that there is none.
        """
        if not 0 <= explanation < len(self.explanations):
            raise BadRequest(f"there are {len(self.explanations)} explanations, none has the index {explanation}")
        maps = self.explanations[explanation].maps
        name = name or min(maps, key=lambda made: made != "gradcam")
        if name not in maps:
            raise BadRequest(f"map {name!r} was not made, valid are {', '.join(maps)}")
        return draw_map(name, maps[name], self.canvas)

    def sheet(self) -> Picture:
        """Draws the crop and the maps of each target in a row, with captions and the scale of each map.

        Crops narrower than 192 pixels are enlarged by a whole factor. BadRequest says that there is no map.
        """
        if not self.explanations:
            raise BadRequest("the result has no map to draw; ask for maps")
        return sheet([(one.title, self._panels(one)) for one in self.explanations])

    def _panels(self, explanation: Explanation) -> list[Panel]:
        canvas, seen = replace(self.canvas, upload=None), three_bands(self.canvas.seen.picture)
        panels = [Panel(picture=seen, title="picture", note="what the network saw")]
        for name in (name for name in _PANELS if name in explanation.maps):
            drawn, kind = explanation.maps[name], MAP_KINDS[name]
            if drawn.values.shape[:2] != seen.shape[:2]:  # gradcam at the layer's size
                drawn = replace(drawn, values=scale(resize(drawn.values, *seen.shape[:2])))
            title = kind.title.replace(METHODS["gradcam"].title, METHODS[explanation.method or "gradcam"].title)
            panel = Panel(picture=draw_map(name, drawn, canvas), title=title, note=explanation.note(name))
            if drawn.degenerate:
                stamp = "no evidence" + " at this layer" * bool(explanation.layers) if kind.at_layer else "no detail"
                panel = replace(panel, picture=hatched(seen), stamp=stamp)
            elif kind.channels == 1:
                ends = _said(drawn.minimum), _said(drawn.maximum)
                panel = replace(panel, ends=ends, colormap=canvas.options.overlay.colormap)
            else:
                panel = replace(panel, ends=("grey is 0", f"largest {_said(drawn.maximum)}"))
            panels.append(panel)
        return panels

    def receipt(self, painters: Executor | None = None) -> dict[str, Any]:
        """The receipt, by which ``handler.client.replay`` checks the answer; ``painters`` hash side by side."""
        made, top = self.explanations, self.predictions[0]
        targets = [f"-{one.target.label}" if one.against else one.target.index for one in made]  # as requests say them
        options = {**self.provenance["options"], **({"target": targets} if targets else {})}
        maps = [_each(lambda _, drawn: digest(drawn.values), one.maps, painters) for one in made]
        found = {"prediction": {"index": top.index, "label": top.label}, "scores": digest(self.logits), "maps": maps}
        return {**self.provenance, "options": options, **found}

    def to_dict(self, painters: Executor | None = None, receipt: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The content of the JSON answer, with this receipt, if it is signed; ``painters`` encode maps side by side."""
        return {
            "model": dict(self.model),
            "predictions": [asdict(prediction) for prediction in self.predictions],
            "explanations": [
                {
                    "target": asdict(explanation.target),
                    **({"contrast": asdict(explanation.contrast)} if explanation.contrast else {}),
                    **({"against": True} if explanation.against else {}),
                    "method": explanation.method,
                    "layer": explanation.layers[0] if len(explanation.layers) == 1 else [*explanation.layers] or None,
                    **({"passes": explanation.passes} if explanation.passes else {}),
                    "maps": _each(partial(encode_map, canvas=self.canvas), explanation.maps, painters),
                    **({"trust": asdict(explanation.trust)} if explanation.trust else {}),
                }
                for explanation in self.explanations
            ],
            "image": self.provenance["image"],
            "receipt": receipt or self.receipt(painters),
            "view": self.canvas.seen.crop.to_dict(),
            "timings_ms": {stage: round(spent, 2) for stage, spent in self.timings_ms.items()},
        }

    def to_npz(self, receipt: Mapping[str, Any] | None = None) -> bytes:
        """The arrays as a compressed ``.npz`` file, in which no time is written: equal results give equal bytes.

        ``logits`` and ``probabilities`` are (K,), ``targets`` the class indices (T,), and every map by its name is
        (T, …), as its ``values`` or, with ``size="image"``, at the upload's size. ``receipt`` is a JSON text.
        """
        targets = np.array([one.target.index for one in self.explanations], np.int64)
        arrays: dict[str, Any] = {"logits": self.logits, "probabilities": self.probabilities, "targets": targets}
        arrays |= {**self.tensors(), "receipt": np.array(json.dumps(receipt or self.receipt()))}
        np.savez_compressed(file := io.BytesIO(), **arrays)
        return file.getvalue()

    def tensors(self) -> dict[str, Floats]:
        """The maps (T, …) of all targets by name, as ``to_npz`` has them."""
        made = self.explanations
        names = made[0].maps if made else ()
        return {name: np.stack([values_on(self.canvas, one.maps[name]) for one in made]) for name in names}

    def save(self, folder: Path | str, *, overwrite: bool = False) -> list[Path]:
        """Writes the sheet, ``sheet.png``, and each map's picture, ``<class index>_<map>.png``, into a folder.

        Returns the files, the sheet first; none if no map was asked for. Where a file exists already, FileExistsError
        says so and none is written, unless ``overwrite`` allows it.
        """
        if not self.explanations:
            return []
        pictures = {Path(folder, "sheet.png"): encode_png(self.sheet())}
        for place, explanation in enumerate(self.explanations):
            for name in explanation.maps:
                path = Path(folder, f"{explanation.target.index}_{name}.png")
                pictures[path] = encode_png(self.draw(place, name), smooth=MAP_KINDS[name].channels == 1)
        present = [path for path in pictures if path.exists()]
        if present and not overwrite:
            raise FileExistsError(f"{present[0]} is there already; give another folder, or say overwrite=True")
        for path, content in pictures.items():
            write_whole(path, content)
        return list(pictures)

    def _repr_html_(self) -> str:
        """The predictions and the sheet, for a notebook."""
        lines = "<br>".join(f"{html.escape(made.label)} {made.probability:.3f}" for made in self.predictions)
        if not self.explanations:
            return f"<p>{lines}</p>"
        picture = base64.b64encode(encode_png(self.sheet())).decode()
        return f'<p>{lines}</p><img alt="explanations" src="data:image/png;base64,{picture}">'


def report(card: ModelCard, answer: Mapping[str, Any], picture: str, name: str = "picture") -> bytes:
    """The static page about an answer, whose maps are ``npy`` at the input's size, and a picture as a data URI."""
    about = {"name": name, "picture": picture, "answer": answer}
    return page({"card": card.description(answer["model"]["engine"]), "static": True, "answers": [about]})


def _said(value: float | list[float]) -> str:
    """A value with three digits; of several the least and the largest."""
    return " to ".join(dict.fromkeys(f"{end:.3g}" for end in (np.min(value), np.max(value))))


def _each(describe: Callable[[str, Map], Any], maps: Mapping[str, Map], painters: Executor | None) -> dict[str, Any]:
    """Describes maps by name; threads help, because compression and hashes release the interpreter's lock."""
    return dict(zip(maps, (painters.map if painters else map)(describe, maps, maps.values()), strict=True))


def observe_result(result: Result, stages_ms: Mapping[str, float]) -> Observation:
    """The facts about a result for metrics and logs; ``stages_ms`` has the names of ``answer.STAGES``."""
    explanations, pixels = result.explanations, math.prod(result.canvas.seen.crop.image)
    maps = tuple(explanations[0].maps) if explanations else ()
    method = (explanations[0].method or GRADIENT_ALONE) if maps else NONE
    labels = {"engine": result.model["engine"], "method": method}
    degenerate = sum(made.degenerate for one in explanations for made in one.maps.values())
    counts = {"targets": len(explanations), "degenerate": degenerate, "pixels": pixels}
    return Observation(labels=labels, maps=maps, stages_ms=stages_ms, **counts)
