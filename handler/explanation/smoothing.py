"""Averages the maps of a picture's augmented copies, as pytorch-grad-cam's ``aug_smooth`` does."""

from collections.abc import Sequence
from itertools import product

import numpy as np

from handler.explanation.evidence import Floats

# whether the network's input is mirrored, and the factor of its values; the first copy would be the picture itself
AUGMENTATIONS = list(product((False, True), (1.0, 0.9, 1.1)))[1:]


def augmented(tensor: Floats) -> Floats:
    """The changed copies (5, 3, H, W) of a network's input (C, H, W), in the order of ``AUGMENTATIONS``."""
    either = {False: tensor, True: tensor[:, :, ::-1]}
    return np.stack([either[mirrored] * np.float32(factor) for mirrored, factor in AUGMENTATIONS])


def averaged(plain: Floats, changed: Sequence[Floats]) -> Floats:
    """Averages a picture's map (h, w) and the maps of its changed copies, which are mirrored back; stays on [0, 1]."""
    pairs = zip(AUGMENTATIONS, changed, strict=True)
    straight = [values[:, ::-1] if mirrored else values for (mirrored, _), values in pairs]
    return np.asarray(np.mean([plain, *straight], axis=0), np.float32)
