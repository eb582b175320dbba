"""The networks whose maps are judged, and pictures on which the place of each class is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.evaluation.metrics import Mask
from examples.efficientnet_lite0.photographs import known_photographs, photograph
from examples.shapes import transformer
from examples.shapes.draw import SIZES, draw_random
from examples.shapes.outlines import LABELS
from examples.shapes.train import CHECKPOINT, HELD_OUT, PREPROCESSING
from handler.explanation.evidence import Floats
from handler.model.classifier import Classifier, of_module
from handler.model.sources import load_classifier
from handler.picture.decode import decode
from handler.picture.preprocess import Crop, Preprocessing, preprocess

PARTS = {1: HELD_OUT, 2: 2}  # second part of a picture's seed, by its number of objects; none is in the training
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


def drawn(count: int, objects: int, sizes: tuple[float, float], how: Preprocessing) -> list[Picture]:
    """Drawn pictures with objects of different classes, each from its own seed."""
    pictures, side = [], how.size[0]
    for index in range(count):
        picture = draw_random(np.random.default_rng([SEED, PARTS[objects], index]), objects, side, sizes)
        crop = Crop((side, side), (0, 0, side, side))
        masks = {LABELS.index(thing.label): mask_of([thing.box], crop, side) for thing in picture.things}
        pictures.append(Picture(how.normalise(picture.image), masks))
    return pictures


def photographs(how: Preprocessing) -> list[Picture]:
    """The photographs with their boxes, as the network sees them."""
    pictures = []
    for entry in known_photographs():
        seen = preprocess(decode(photograph(entry["name"])), how)
        mask = mask_of(entry["boxes"], seen.crop, how.size[0])
        pictures.append(Picture(seen.tensor, {entry["class"]: mask} if mask.any() else {}))
    return pictures


def shapes(quick: bool) -> Subject:
    """The embedded model on drawn scenes."""
    classifier = load_classifier(checkpoint=CHECKPOINT)
    scenes, masking, pictures, few = (2, 1, 2, 1) if quick else (60, 12, 12, 4)
    return Subject(
        title="the embedded model (ShuffleNetV2 x0.5) on drawn scenes",
        classifier=classifier,
        scenes=drawn(scenes, 2, SIZES, classifier.preprocessing),
        scenes_masking=masking,
        pictures=drawn(pictures, 1, SIZES, classifier.preprocessing),
        few=few,
    )


def vision_transformer(quick: bool) -> Subject:
    """The small vision transformer on drawn scenes."""
    how = replace(PREPROCESSING, resize_size=transformer.SIDE, crop_size=transformer.SIDE)
    scenes, masking, pictures, few = (2, 1, 2, 1) if quick else (100, 25, 32, 8)
    return Subject(
        title="a small vision transformer on drawn scenes",
        classifier=of_module(transformer.trained(), "vision_transformer", LABELS, how),
        scenes=drawn(scenes, 2, (transformer.SIZES[0], 0.5), how),  # two of the largest would find no room
        scenes_masking=masking,
        pictures=drawn(pictures, 1, transformer.SIZES, how),
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
