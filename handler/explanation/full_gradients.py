"""The map of the whole network: what the input and every bias have to do with the score."""

from collections.abc import Iterable

import cv2
import numpy as np

from handler.explanation.evidence import Floats


def fullgrad(sums: Iterable[Floats], height: int, width: int) -> Floats:
    """FullGrad: the gradients of the whole network, at the input and at every bias.

    ``map = sum_c s(|x_c g_c|) + sum_l sum_k s(|b_lk g_lk|)``, x the input, ``b_lk`` the bias of channel k of layer l, g
    the score's gradients, s the scaling to [0, 1] and to the input's size (Srinivas and Fleuret 2019, arXiv 1905.00780,
    as in pytorch-grad-cam; the authors' code scales all channels of a layer together). One forward and one backward
    pass. Layers are ``Conv2d`` with a bias and ``BatchNorm2d``, whose mean belongs to its bias: in a ReLU network the
    products of these, of the input, and of all other biases, which have no cells and no share of the map, add up to the
    score. Choose it where no layer shows all: it needs none, and has the input's resolution.

    ``sums`` are (N, h, w) for each size of layers, the input's included: the scaled products, summed over the channels;
    the result is unscaled, (N, height, width).
    """
    upsampled = [[cv2.resize(one, (width, height)) for one in values] for values in sums]
    return np.asarray(np.sum(upsampled, axis=0), np.float32)
