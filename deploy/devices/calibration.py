"""Pictures by which a graph in other numbers is calibrated, and others by which it is compared with float32."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from handler.errors import ModelError, ServiceError
from handler.picture.bands import read_picture
from handler.picture.decode import FORMATS, endings
from handler.picture.preprocess import Preprocessing, by_band, preprocess

Floats = npt.NDArray[np.float32]
FEWEST = 8  # pictures of a folder
_DRAWN = 32, 64  # drawn pictures to calibrate by, and to compare by
_MOST = 128, 256  # the same of a folder, of whose pictures a third is kept for the comparison


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Normalised pictures (N, C, H, W), no picture in both halves, and what they are, in words."""

    calibrating: Floats
    comparing: Floats
    origin: str
    compared: str

    @classmethod
    def drawn(cls, how: Preprocessing, seed: int = 1) -> "Pictures":
        """Drawn pictures, equal for a seed."""
        both = draw(how, sum(_DRAWN), seed)
        origin, compared = (f"{count} drawn pictures" for count in _DRAWN)
        return cls(calibrating=both[: _DRAWN[0]], comparing=both[_DRAWN[0] :], origin=origin, compared=compared)

    @classmethod
    def of_folder(cls, folder: Path, how: Preprocessing) -> "Pictures":
        """The pictures of a folder and of those below it; a third, of 24 or more, is kept for the comparison.

        Of fewer, drawn pictures are compared. A ModelError names a picture that cannot be read, or says that there is
        no such folder, or how many pictures are needed.
        """
        if not folder.is_dir():
            raise ModelError(f"calibrate='{folder}' is no folder; valid is a folder of at least {FEWEST} pictures")
        known = endings()
        found = sorted(one for one in folder.rglob("*") if one.suffix.lower() in known and one.is_file())
        if len(found) < FEWEST:
            valid = f"valid are {', '.join(FORMATS)}, NumPy and DICOM files"
            raise ModelError(f"calibrate='{folder}' holds {len(found)} pictures, needed are {FEWEST} or more; {valid}")
        found = [found[place] for place in np.random.default_rng(0).permutation(len(found))]
        kept = min(len(found) // 3, _MOST[1]) if len(found) >= 3 * FEWEST else 0
        comparing, calibrating = found[:kept], found[kept:][: _MOST[0]]
        origin, compared = f"{len(calibrating)} pictures of {folder.name}", f"{kept} other pictures of {folder.name}"
        held = _read(comparing, how) if kept else draw(how, _DRAWN[1], 1)
        compared = compared if kept else f"{_DRAWN[1]} drawn pictures"
        return cls(calibrating=_read(calibrating, how), comparing=held, origin=origin, compared=compared)


def _read(paths: Sequence[Path], how: Preprocessing) -> Floats:
    found = []
    for path in paths:
        try:
            found.append(preprocess(read_picture(path.read_bytes(), channels=how.channels), how).tensor)
        except (OSError, ServiceError) as error:
            raise ModelError(f"picture {path} cannot be calibrated by: {error}") from error
    return np.stack(found)


def draw(how: Preprocessing, count: int, seed: int) -> Floats:
    """Normalised pictures (count, C, H, W) of one to four outlines, in plain colours, on fields with fine grain."""
    rng = np.random.default_rng(seed)
    return np.stack([how.normalise(_picture(rng, how)) for _ in range(count)])


def _picture(rng: np.random.Generator, how: Preprocessing) -> npt.NDArray[np.uint8]:
    cells = rng.integers(2, 9)
    field = rng.integers(0, 256, (cells, cells, how.channels), np.uint8)
    picture = by_band(partial(cv2.resize, dsize=how.size[::-1], interpolation=cv2.INTER_CUBIC), field)
    picture = picture.reshape(*how.size, how.channels) + rng.normal(0, rng.uniform(0, 14), (*how.size, 1))
    width_and_height = np.array(how.size[::-1])
    for _ in range(rng.integers(1, 5)):
        corners = rng.integers(3, 12)
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        reach = rng.uniform(0.05, 0.35) * rng.uniform(0.4, 1, corners)
        places = rng.uniform(0.2, 0.8, 2) + reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        mask = np.zeros(how.size, np.uint8)
        cv2.fillPoly(mask, [(places * width_and_height).astype(np.int32)], 1)
        picture[mask > 0] = rng.integers(0, 256, how.channels)
    return np.asarray(np.clip(picture, 0, 255), np.uint8)
