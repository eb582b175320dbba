"""Maps from the scores of masked pictures, and of masked activations: no gradient, many passes.

A mask M is laid on the network's input by multiplication, after it is upsampled to the input's size: where it is 0, the
picture becomes the mean colour. ``y(M)`` is the target's score of the picture under a mask, ``p(M)`` its probability.
``A`` is the layer's activation, ``y(B)`` the score if the layer returned ``B`` in its place.
"""

import numpy as np

from handler.explanation.evidence import Floats, Indices, softmax
from handler.explanation.gradient_cams import Combine, positive_sum
from handler.explanation.probe import Probe


def scorecam(activation: Floats, _gradient: Floats, probe: Probe) -> Floats:
    """Score-CAM: channels weighted by the score of the picture that they leave visible.

    ``map = relu(sum_k softmax_k(y(M_k)) A_k)``, M_k channel k scaled to [0, 1] (Wang et al. 2020, arXiv 1910.01279, and
    torchcam; pytorch-grad-cam upsamples the masks with aligned corners). Of more channels than passes those with the
    largest sum are taken. Choose it where gradients are noisy or vanish, and time does not matter.
    """
    channels = activation[0]  # (C, h, w)
    channels = channels[strongest(channels, probe.passes)]
    low, high = channels.min(axis=(1, 2), keepdims=True), channels.max(axis=(1, 2), keepdims=True)
    weights = softmax(probe.scores((channels - low) / (high - low + np.float32(1e-8))))
    return np.asarray(np.tensordot(weights, channels, 1)[None].clip(min=0))


def strongest(channels: Floats, count: int) -> Indices:
    """The indices of the channels (C, h, w) with the largest sums, in ascending order."""
    return np.sort(np.argsort(-channels.sum(axis=(1, 2)), kind="stable")[:count])


def occlusion(_activation: None, _gradient: None, probe: Probe) -> Floats:
    """Occlusion: how far the score falls when a window of the picture is covered.

    ``map_i = relu(y(1) - y(1 - W_i))``, W_i a window around cell i that reaches half a cell into its neighbours (Zeiler
    and Fergus 2014, arXiv 1311.2901). The cells are as many as passes allow, in a square.
    Choose it to check another method by the network's answers alone.
    """
    side = max(int(np.sqrt(max(probe.passes - 1, 1))), 1)
    fine = np.arange(2 * side)
    near = np.abs(fine[None] - (2 * np.arange(side) + 0.5)[:, None]) < 2  # (cells, half cells)
    windows = (near[:, None, :, None] & near[None, :, None, :]).reshape(side * side, 2 * side, 2 * side)
    scores = probe.scores(np.concatenate([np.ones_like(windows[:1]), ~windows]))
    return np.asarray((scores[0] - scores[1:]).reshape(1, side, side).clip(min=0))


def rise(_activation: None, _gradient: None, probe: Probe, seed: int = 0) -> Floats:
    """RISE: random masks, weighted by the probability of the picture under them.

    ``map = sum_j p(M_j) M_j / sum_j M_j``, M_j upsampled from 8 x 8 cells that are 1 with probability one half
    (Petsiuk et al. 2018, arXiv 1806.07421; without its shift, and divided by what was shown, not by the expectation).
    Choose it for networks of which nothing but the answers is known; it needs hundreds of passes.
    """
    masks = np.random.default_rng(seed).integers(0, 2, (probe.passes, 8, 8)).astype(np.float32)
    return np.asarray(np.tensordot(probe.probabilities(masks), masks, 1) / masks.sum(axis=0).clip(min=1))[None]


def ablationcam(activation: Floats, _gradient: Floats, probe: Probe, combine: Combine = positive_sum) -> Floats:
    """Ablation-CAM: channels weighted by how far the score falls without them.

    ``map = relu(sum_k w_k A_k)``, ``w_k = (y(A) - y(A without k)) / |y(A)|``, channel k set to 0 (Desai and Ramaswamy
    2020, doi 10.1109/WACV45572.2020.9093360). They and pytorch-grad-cam divide by ``y``, which turns maps round where
    it is negative; the latter sets channels that can be negative to -1e7. A pass for each channel, and one: of more
    channels than passes those with the largest sums are taken. Choose it where gradients vanish or saturate.
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
