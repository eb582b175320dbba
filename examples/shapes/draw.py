"""Draws the pictures of the embedded model: shapes of random colour, turn and size on a cluttered, noisy background.

The boxes of the drawn objects are known, so that the place of a map can be measured.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from examples.shapes.outlines import LABELS, OUTLINES

SIZES = (1 / 6, 1 / 2)  # smallest and largest object: longest side of the box, as a share of the picture's side
_SUBPIXEL_BITS = 4  # cv2 takes polygon corners as fixed-point numbers


@dataclass(frozen=True)
class Thing:
    """One drawn object."""

    label: str
    box: tuple[float, float, float, float]  # top, left, bottom, right in pixels; right and bottom are exclusive


@dataclass(frozen=True)
class Picture:
    """A drawn picture and the objects on it."""

    image: np.ndarray  # uint8 (side, side, 3), RGB
    things: list[Thing]


def draw(rng: np.random.Generator, labels: list[str], side: int = 224, sizes: tuple[float, float] = SIZES) -> Picture:
    """Draws one picture with an object for each of ``labels``; the boxes do not touch each other.

    Args:
        rng: the only source of chance; the same state gives the same picture.
        labels: one or two names out of ``LABELS``; more may find no room.
        side: side of the square picture in pixels.
        sizes: smallest and largest object, as shares of ``side``.
    """
    image = _background(rng, side)
    _clutter(rng, image)
    things: list[Thing] = []
    for label, contours in zip(labels, _place(rng, labels, side, sizes), strict=True):
        box = _box(contours)
        _fill(image, contours, _contrasting_colour(rng, image, box))
        things.append(Thing(label, box))
    noise = rng.standard_normal((side, side, 1), dtype=np.float32) * rng.uniform(2, 14)
    return Picture(np.clip(image + noise, 0, 255).astype(np.uint8), things)


def draw_random(
    rng: np.random.Generator, count: int = 1, side: int = 224, sizes: tuple[float, float] = SIZES
) -> Picture:
    """Draws a picture with ``count`` objects of different, random classes."""
    return draw(rng, [str(label) for label in rng.choice(LABELS, size=count, replace=False)], side, sizes)


def _background(rng: np.random.Generator, side: int) -> np.ndarray:
    cells = int(rng.integers(2, 7))
    coarse = rng.uniform(0, 255, size=(cells, cells, 3)).astype(np.float32)
    mean = rng.uniform(20, 235, size=3).astype(np.float32)
    blend = rng.uniform(0.15, 0.5)
    return np.asarray(cv2.resize(blend * coarse + (1 - blend) * mean, (side, side), interpolation=cv2.INTER_CUBIC))


def _clutter(rng: np.random.Generator, image: np.ndarray) -> None:
    side = image.shape[0]
    for _ in range(int(rng.integers(4, 22))):
        start = rng.uniform(0, side, size=2)
        colour = tuple(float(c) for c in rng.uniform(0, 255, size=3))
        kind = rng.integers(3)
        if kind == 0:
            stop = start + rng.normal(0, side / 3, size=2)
            width = int(rng.integers(1, max(2, side // 60)))
            cv2.line(image, start.astype(int).tolist(), stop.astype(int).tolist(), colour, width, cv2.LINE_AA)
        elif kind == 1:
            axes = rng.uniform(side / 100, side / 28, size=2).astype(int) + 1
            centre, turn = start.astype(int).tolist(), rng.uniform(0, 180)
            cv2.ellipse(image, centre, axes.tolist(), turn, 0, 360, colour, -1, cv2.LINE_AA)
        else:
            corners = start + rng.normal(0, side / 40, size=(4, 2))
            cv2.fillPoly(image, [corners.astype(np.int32)], colour, cv2.LINE_AA)


def _place(
    rng: np.random.Generator, labels: list[str], side: int, sizes: tuple[float, float]
) -> list[list[np.ndarray]]:
    """Turns, sizes and places an outline per label, anew until no two boxes touch."""
    while True:
        placed = [_transform(rng, label, side, sizes) for label in labels]
        boxes = [_box(contours) for contours in placed]
        if not any(_touch(a, b) for i, a in enumerate(boxes) for b in boxes[:i]):
            return placed


def _transform(rng: np.random.Generator, label: str, side: int, sizes: tuple[float, float]) -> list[np.ndarray]:
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    contours = [contour @ turn for contour in OUTLINES[label]]
    corners = np.concatenate(contours)
    low, high = corners.min(axis=0), corners.max(axis=0)
    scale = rng.uniform(*sizes) * side / (high - low).max()
    extent = (high - low) * scale
    origin = rng.uniform(0, side - extent)
    return [(contour - low) * scale + origin for contour in contours]


def _box(contours: list[np.ndarray]) -> tuple[float, float, float, float]:
    corners = np.concatenate(contours)
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    return float(top), float(left), float(bottom), float(right)


def _touch(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _contrasting_colour(
    rng: np.random.Generator, image: np.ndarray, box: tuple[float, float, float, float]
) -> tuple[float, ...]:
    top, left, bottom, right = (int(edge) for edge in box)
    around = image[top : bottom + 1, left : right + 1].reshape(-1, 3).mean(axis=0)
    while True:
        colour = rng.uniform(0, 255, size=3)
        if np.abs(colour - around).sum() > 160:
            return tuple(float(c) for c in colour)


def _fill(image: np.ndarray, contours: list[np.ndarray], colour: tuple[float, ...]) -> None:
    fixed = [np.round(contour * (1 << _SUBPIXEL_BITS)).astype(np.int32) for contour in contours]
    cv2.fillPoly(image, fixed, colour, cv2.LINE_AA, _SUBPIXEL_BITS)


def main() -> None:
    """The command line: draws one picture, ``python -m examples.shapes.draw --help``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("labels", nargs="+", choices=LABELS, metavar="LABEL", help=", ".join(LABELS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=480, help="pixels (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="a .jpg or .png file")
    options = parser.parse_args()
    picture = draw(np.random.default_rng(options.seed), options.labels, options.side)
    if not cv2.imwrite(str(options.output), cv2.cvtColor(picture.image, cv2.COLOR_RGB2BGR)):
        parser.error(f"{options.output} cannot be written")


if __name__ == "__main__":
    main()
