"""Measures on two-object pictures whether the map for A lies on A and the map for B on B.

python -m examples.shapes.localisation

Grad-CAM of each object's class is computed at the size of the picture; a hit is a peak inside the object's box (the
pointing game with tolerance 0). The centre of the picture is the baseline to beat.
"""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from examples.shapes.draw import Picture, Thing, draw_random
from examples.shapes.outlines import LABELS
from examples.shapes.train import CHECKPOINT
from handler.autograd.torch_engine import TorchEngine
from handler.explanation.evidence import Needs
from handler.explanation.maps import make_maps
from handler.model.sources import load_classifier
from handler.picture.preprocess import preprocess

_BATCH = 16
TWO_OBJECTS = 2  # second part of a picture's seed, which neither training nor held-out pictures have


def two_object_pictures(count: int, seed: int, side: int) -> list[Picture]:
    """Pictures with two objects of different classes."""
    return [draw_random(np.random.default_rng([seed, TWO_OBJECTS, i]), count=2, side=side) for i in range(count)]


def lies_in_box(point: tuple[float, float], thing: Thing) -> bool:
    """Whether a pixel's centre (row, column) is inside the object's box."""
    top, left, bottom, right = thing.box
    return bool(top <= point[0] + 0.5 <= bottom and left <= point[1] + 0.5 <= right)


def peaks(engine: TorchEngine, layer: str, inputs: np.ndarray, targets: list[list[int]]) -> list[tuple[int, int]]:
    """The (row, column) of Grad-CAM's maximum for each input and target, in that order."""
    evidence = engine.run(inputs, targets, Needs(layers=(layer,)))
    found = []
    for pair in range(len(evidence.rows)):
        values = make_maps(evidence, pair, ["gradcam"], "gradcam", at_layer=False)["gradcam"].values
        row, column = np.unravel_index(values.argmax(), values.shape)
        found.append((int(row), int(column)))
    return found


def measure(checkpoint: Path, count: int, seed: int) -> tuple[float, float]:
    """Share of peaks inside their target's box, and share of boxes that hold the picture's centre."""
    classifier = load_classifier(checkpoint=checkpoint)
    engine = TorchEngine(classifier)
    pictures = two_object_pictures(count, seed, classifier.preprocessing.crop_size)
    hits, centre_hits = 0, 0
    for start in tqdm(range(0, count, _BATCH), desc="two objects", unit="batch"):
        some = pictures[start : start + _BATCH]
        inputs = np.stack([preprocess(picture.image, classifier.preprocessing).tensor for picture in some])
        targets = [[LABELS.index(thing.label) for thing in picture.things] for picture in some]
        found = peaks(engine, classifier.default_layer, inputs, targets)
        things = [thing for picture in some for thing in picture.things]
        middle = classifier.preprocessing.crop_size / 2
        hits += sum(lies_in_box(point, thing) for point, thing in zip(found, things, strict=True))
        centre_hits += sum(lies_in_box((middle, middle), thing) for thing in things)
    return hits / (2 * count), centre_hits / (2 * count)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    share, centre = measure(options.checkpoint, options.pictures, options.seed)
    tqdm.write(f"peak in the target's box: {share:.1%} of {2 * options.pictures} maps (picture centre: {centre:.1%})")


if __name__ == "__main__":
    main()
