"""Averages the maps of a picture's augmented copies, as pytorch-grad-cam's ``aug_smooth`` does."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from handler.explanation.evidence import Floats


class Augmentation(NamedTuple):
    """A change of the network's input."""

    mirrored: bool
    factor: float  # of the normalised values


_COPIES = [Augmentation(mirrored, factor) for mirrored in (False, True) for factor in (1.0, 0.9, 1.1)]
AUGMENTATIONS = _COPIES[1:]  # the first copy is the picture itself


def augmented(tensor: Floats) -> Floats:
    """The changed copies (5, 3, H, W) of a network's input (C, H, W), in the order of ``AUGMENTATIONS``."""
    either = {False: tensor, True: tensor[:, :, ::-1]}
    return np.stack([either[change.mirrored] * np.float32(change.factor) for change in AUGMENTATIONS])


def averaged(plain: Floats, changed: Sequence[Floats]) -> Floats:
    """Averages a picture's map (h, w) and the maps of its changed copies, which are mirrored back; stays on [0, 1]."""
    straight = [
        values[:, ::-1] if change.mirrored else values for change, values in zip(AUGMENTATIONS, changed, strict=True)
    ]
    return np.asarray(np.mean([plain, *straight], axis=0), np.float32)
