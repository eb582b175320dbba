"""The networks whose maps are judged, and pictures on which the place of each class is known."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.evaluation.metrics import Mask
from examples.efficientnet_lite0.photographs import photograph
from examples.shapes import transformer
from examples.shapes.draw import SIZES, draw_random
from examples.shapes.outlines import LABELS
from examples.shapes.train import CHECKPOINT, HELD_OUT, PREPROCESSING
from handler.explanation.evidence import Floats
from handler.model.classifier import Classifier, of_module
from handler.model.sources import load_classifier
from handler.picture.decode import decode
from handler.picture.preprocess import Crop, Preprocessing, preprocess

TWO_OBJECTS = 2  # second part of a picture's seed, which neither training nor held-out pictures have
SEED = 7
Box = Sequence[float]  # top, left, bottom, right in pixels; bottom and right are exclusive


@dataclass(frozen=True, eq=False)
class Picture:
    """A network's input, and where its classes are."""

    tensor: Floats  # (3, S, S), normalised
    masks: dict[int, Mask]  # by class; empty if the object fills the crop


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network and its pictures."""

    title: str
    classifier: Classifier
    scenes: list[Picture]  # with boxes
    scenes_masking: int  # so many of them for methods that mask the picture, which take hundreds of passes
    pictures: list[Picture]  # for deletion, drops and so on, which need no box
    few: int  # so many of them for ROAD, repeatability, random networks, and all that a masking method is judged on


def mask_of(boxes: Sequence[Box], crop: Crop, side: int) -> Mask:
    """The pixels (side, side) of a crop whose centres lie in one of the boxes, which are in pixels of the upload."""
    top, left, bottom, right = crop.box
    rows = top + (np.arange(side) + 0.5) * (bottom - top) / side
    columns = left + (np.arange(side) + 0.5) * (right - left) / side
    mask = np.zeros((side, side), np.bool_)
    for first, start, last, stop in boxes:
        mask |= ((first <= rows) & (rows < last))[:, None] & ((start <= columns) & (columns < stop))
    return mask


def drawn(count: int, objects: int, part: int, sizes: tuple[float, float], how: Preprocessing) -> list[Picture]:
    """Drawn pictures with objects of different classes, each from its own seed."""
    pictures, side = [], how.crop_size
    for index in range(count):
        picture = draw_random(np.random.default_rng([SEED, part, index]), objects, side, sizes)
        crop = Crop((side, side), (0, 0, side, side))
        masks = {LABELS.index(thing.label): mask_of([thing.box], crop, side) for thing in picture.things}
        pictures.append(Picture(how.normalise(picture.image), masks))
    return pictures


def photographs(how: Preprocessing) -> list[Picture]:
    """The photographs that ``photographs.json`` names, from the installed packages."""
    pictures = []
    for entry in known_photographs():
        name = entry["name"]
        sample = Path(matplotlib.get_data_path()) / "sample_data" / f"{name}.jpg"
        upload = decode(sample.read_bytes() if entry["package"] == "matplotlib" else photograph(name))
        seen = preprocess(upload, how)
        mask = mask_of(entry["boxes"], seen.crop, how.crop_size)
        pictures.append(Picture(seen.tensor, {entry["class"]: mask} if mask.any() else {}))
    return pictures


def known_photographs() -> list[dict[str, Any]]:
    """Of each photograph: name, package, class, boxes in its own pixels, licence and owner."""
    read: list[dict[str, Any]] = json.loads(Path(__file__).with_name("photographs.json").read_bytes())
    return read


def shapes(quick: bool) -> Subject:
    """The embedded model on drawn scenes."""
    classifier = load_classifier(checkpoint=CHECKPOINT)
    title = "the embedded model (ShuffleNetV2 x0.5) on drawn scenes"
    return _on_drawings(title, classifier, SIZES, SIZES, (2, 1, 2, 1) if quick else (60, 12, 12, 4))


def vision_transformer(quick: bool) -> Subject:
    """The small vision transformer on drawn scenes."""
    how = replace(PREPROCESSING, resize_size=transformer.SIDE, crop_size=transformer.SIDE)
    classifier = of_module(transformer.trained(), "vision_transformer", LABELS, how)
    sizes, counts = transformer.SIZES, (2, 1, 2, 1) if quick else (100, 25, 32, 8)
    return _on_drawings("a small vision transformer on drawn scenes", classifier, sizes, (sizes[0], 0.5), counts)


def _on_drawings(
    title: str,
    classifier: Classifier,
    sizes: tuple[float, float],
    sizes_of_two: tuple[float, float],
    counts: tuple[int, int, int, int],
) -> Subject:
    """A network with scenes of two objects and pictures of one; ``counts`` are the numbers of ``Subject``."""
    how, (scenes, scenes_masking, pictures, few) = classifier.preprocessing, counts
    return Subject(
        title=title,
        classifier=classifier,
        scenes=drawn(scenes, 2, TWO_OBJECTS, sizes_of_two, how),
        scenes_masking=scenes_masking,
        pictures=drawn(pictures, 1, HELD_OUT, sizes, how),
        few=few,
    )


def efficientnet(quick: bool) -> Subject:
    """EfficientNet-Lite0 with its ImageNet weights on photographs."""
    classifier = load_classifier(architecture="examples.efficientnet_lite0.network:efficientnet_lite0")
    pictures = photographs(classifier.preprocessing)
    pictures = pictures[1:3] if quick else pictures
    scenes = [picture for picture in pictures if picture.masks]
    return Subject(
        title="EfficientNet-Lite0 with ImageNet weights on photographs",
        classifier=classifier,
        scenes=scenes,
        scenes_masking=len(scenes),
        pictures=pictures,
        few=1 if quick else 4,
    )


SUBJECTS: dict[str, Callable[[bool], Subject]] = {
    "shapes": shapes,
    "efficientnet_lite0": efficientnet,
    "vision_transformer": vision_transformer,
}
