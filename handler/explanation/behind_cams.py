"""Maps from the scores of changed activations: no gradient, many passes through what lies behind the layer.

``A`` is the layer's activation, ``y(B)`` the score that is explained if the layer returned ``B`` in its place.
"""

import numpy as np

from handler.explanation.evidence import Floats
from handler.explanation.gradient_cams import Combine, positive_sum
from handler.explanation.masking_cams import strongest
from handler.explanation.probe import Probe


def ablationcam(activation: Floats, _gradient: Floats, probe: Probe, combine: Combine = positive_sum) -> Floats:
    """Ablation-CAM: channels weighted by how far the score falls without them.

    ``map = relu(sum_k w_k A_k)``, ``w_k = (y(A) - y(A without k)) / |y(A)|``, channel k set to 0 (Desai and Ramaswamy
    2020, doi 10.1109/WACV45572.2020.9093360; they divide by ``y``, which turns the map round where the score is
    negative. pytorch-grad-cam, too, and it sets channels to -1e7 where activations can be negative). A pass for each
    channel, and one: of more channels than passes those with the largest sums are taken.
    Choose it where gradients vanish or saturate; it says what the network does without a channel.
    """
    channels = activation[0]  # (C, h, w)
    chosen = strongest(channels, probe.passes - 1)
    factors = np.ones((len(chosen) + 1, len(channels), 1, 1), np.float32)
    factors[np.arange(len(chosen)) + 1, chosen] = 0
    whole, *without = probe.scores_behind(channels, factors)
    weights = (whole - np.array(without, np.float32)) / max(abs(whole), np.finfo(np.float32).tiny)
    return np.asarray(combine((weights[:, None, None] * channels[chosen])[None]))


def reciprocam(activation: Floats, _gradient: Floats, probe: Probe) -> Floats:
    """Recipro-CAM: the score that each cell has by itself, all other cells being 0; of either sign.

    ``map_i = y(A · 1_i)`` (Byun and Lee 2022, arXiv 2209.14074, without its smoothing window). A pass for each cell: of
    more cells than passes squares of cells are kept together. For an average and a linear head it is CAM and the bias.
    Choose it for its few passes, where a network has no gradient.
    """
    height, width = activation.shape[2:]
    side = 1
    while -(-height // side) * -(-width // side) > probe.passes:
        side += 1
    down, across = -(-height // side), -(-width // side)
    squares = np.arange(down * across).reshape(down, across).repeat(side, 0).repeat(side, 1)[:height, :width]
    alone = squares == np.arange(down * across)[:, None, None]  # (P, h, w)
    return np.asarray(probe.scores_behind(activation[0], alone[:, None])[squares][None])
