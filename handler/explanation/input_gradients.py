"""Maps that need no layer, and whose cells are the input's pixels: of gradients at the input, and at every bias.

``x`` is the network's input (C, H, W), normalised, so that 0 is the mean colour; ``g(x)`` is the gradient of the score
that is explained with respect to it. Maps are (1, H, W); each of many changed pictures takes a pass in both directions.
"""

from collections.abc import Iterable

import cv2
import numpy as np

from handler.explanation.evidence import Floats
from handler.explanation.probe import Probe


def integrated_gradients(_activation: None, _gradient: None, probe: Probe) -> Floats:
    """Integrated Gradients: the gradient along the straight way from the mean colour to the picture.

    ``map = relu(sum_c x_c mean_j g(a_j x)_c)``, ``a_j = (j - 1/2) / n`` for n passes (Sundararajan et al. 2017, arXiv
    1703.01365; captum's ``riemann_middle``). The sum before the ReLU, over all pixels, comes close to ``y(x) - y(0)``.
    Choose it where a map should have the input's resolution and add up to the score.
    """
    shares = (np.arange(probe.passes, dtype=np.float32) + 0.5) / probe.passes
    return _positive(probe.picture * probe.mean_gradient(lambda j: shares[j] * probe.picture))


def expected_gradients(_activation: None, _gradient: None, probe: Probe, seed: int = 0) -> Floats:
    """Expected Gradients: Integrated Gradients from many starts, here pictures of one random colour.

    ``map = relu(sum_c mean_j((x - b_j) g(b_j + a_j (x - b_j)))_c)``, ``a_j`` uniform on [0, 1], ``b_j`` a colour of
    standard normal values (Erion et al. 2021, arXiv 1906.10670, who take ``b_j`` from the training pictures, which a
    server does not have). Choose it where objects of the mean colour would be invisible to Integrated Gradients.
    """
    rng, picture = np.random.default_rng(seed), probe.picture
    colours = rng.standard_normal((probe.passes, len(picture), 1, 1), np.float32)
    shares = rng.random(probe.passes, np.float32)
    return _positive(
        probe.mean_gradient(lambda j: colours[j] + shares[j] * (picture - colours[j]), lambda j: picture - colours[j])
    )


def smoothgrad(_activation: None, _gradient: None, probe: Probe, seed: int = 0) -> Floats:
    """SmoothGrad: the gradient averaged over noisy copies of the picture.

    ``map = max_c |mean_j g(x + e_j)_c|``, ``e_j`` normal noise of 15 % of the input's range (Smilkov et al. 2017, arXiv
    1706.03825). Of either sign: it shows which pixels the score is sensitive to, not what speaks for the class.
    Choose it instead of ``saliency``, whose gradient changes from one pixel to the next.
    """
    rng, picture = np.random.default_rng(seed), probe.picture
    deviation = np.float32(0.15 * np.ptp(picture))  # the authors find 0.1 to 0.2 the best
    mean = probe.mean_gradient(lambda _: picture + deviation * rng.standard_normal(picture.shape, np.float32))
    return np.asarray(np.abs(mean).max(axis=0, keepdims=True))


def fullgrad(sums: Iterable[Floats], height: int, width: int) -> Floats:
    """FullGrad: the gradients of the whole network, at the input and at every bias.

    ``map = sum_c s(|x_c g_c|) + sum_l sum_k s(|b_lk g_lk|)``, ``b_lk`` the bias of channel k of layer l, g the score's
    gradients, s the scaling to [0, 1] and to the input's size (Srinivas and Fleuret 2019, arXiv 1905.00780, as in
    pytorch-grad-cam; the authors' code scales all channels of a layer together). One forward and one backward pass.
    Layers are ``Conv2d`` with a bias and ``BatchNorm2d``, whose mean belongs to its bias: in a ReLU network the sum of
    their products, the input's, and those of all other biases, which have no share of the map, is the score. ``sums``
    (N, h, w) for each size of layers, the input's included, are the scaled products, summed over the channels; the
    result is (N, height, width). Choose it where no layer shows all.
    """
    upsampled = [[cv2.resize(one, (width, height)) for one in values] for values in sums]
    return np.asarray(np.sum(upsampled, axis=0), np.float32)


def _positive(attribution: Floats) -> Floats:
    return np.asarray(attribution.sum(axis=0, keepdims=True).clip(min=0))
