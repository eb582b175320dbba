"""Maps from the scores of masked pictures: no gradient, many forward passes.

A mask M is laid on the network's input by multiplication, after it is upsampled to the input's size: where it is 0, the
picture becomes the mean colour. ``y(M)`` is the target's score of the picture under a mask, ``p(M)`` its probability.
"""

import numpy as np

from handler.explanation.evidence import Floats, softmax
from handler.explanation.probe import Probe


def scorecam(activation: Floats, _gradient: Floats, probe: Probe) -> Floats:
    """Score-CAM: channels weighted by the score of the picture that they leave visible.

    ``map = relu(sum_k softmax_k(y(M_k)) A_k)``, M_k channel k scaled to [0, 1] (Wang et al. 2020, arXiv 1910.01279, and
    torchcam; pytorch-grad-cam upsamples the masks with aligned corners). Of more channels than passes those with the
    largest sum are taken. Choose it where gradients are noisy or vanish, and time does not matter.
    """
    channels = activation[0]  # (C, h, w)
    chosen = np.sort(np.argsort(-channels.sum(axis=(1, 2)), kind="stable")[: probe.passes])
    channels = channels[chosen]
    low, high = channels.min(axis=(1, 2), keepdims=True), channels.max(axis=(1, 2), keepdims=True)
    weights = softmax(probe.scores((channels - low) / (high - low + np.float32(1e-8))))
    return np.asarray(np.tensordot(weights, channels, 1)[None].clip(min=0))


def occlusion(_activation: Floats, _gradient: Floats, probe: Probe) -> Floats:
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


def rise(_activation: Floats, _gradient: Floats, probe: Probe, seed: int = 0) -> Floats:
    """RISE: random masks, weighted by the probability of the picture under them.

    ``map = sum_j p(M_j) M_j / sum_j M_j``, M_j upsampled from cells that are 1 with probability one half (Petsiuk et
    al. 2018, arXiv 1806.07421; without its random shift, and divided by what was shown instead of by the expectation).
    Choose it for networks of which nothing but the answers is known; it needs hundreds of passes.
    """
    masks = np.random.default_rng(seed).integers(0, 2, (probe.passes, _RISE_CELLS, _RISE_CELLS)).astype(np.float32)
    return np.asarray(np.tensordot(probe.probabilities(masks), masks, 1) / masks.sum(axis=0).clip(min=1))[None]


_RISE_CELLS = 8
