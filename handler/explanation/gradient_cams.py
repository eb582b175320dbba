"""Class activation maps from a layer's activations and the gradients of the target's score there.

``A_k`` is channel k of the activation, ``y`` the score that is explained, ``g_k = dy/dA_k`` its gradient, ``i`` one of
``n`` cells. ``combine`` makes the map of the weighted activations (N, C, h, w), by their sum or another projection.
A formula costs one forward and one backward pass, and uses what NumPy and torch share, so that graphs can hold it, too.
"""

from collections.abc import Callable
from typing import Any

from handler.errors import Unprocessable

Array = Any  # a NumPy array or a torch tensor
Combine = Callable[[Array], Array]


def positive_sum(weighted: Array) -> Array:
    """The sum over the channels, negative values cut off: (N, C, h, w) to (N, h, w)."""
    return weighted.sum(axis=1).clip(min=0)


def gradcam(activation: Array, gradient: Array, combine: Combine = positive_sum) -> Array:
    """Grad-CAM: channels weighted by their mean gradient, negative evidence cut off.

    ``map = relu(sum_k mean_i(g_k) A_k)`` (Selvaraju et al. 2017, arXiv 1610.02391).
    Choose it first: it is the best tried method for convolutional networks, at their last layer.
    """
    return combine(_mean(gradient) * activation)


def gradcam_plus_plus(activation: Array, gradient: Array, combine: Combine = positive_sum) -> Array:
    """Grad-CAM++: positive gradients, weighted so that each of several objects of a class counts.

    ``map = relu(sum_k sum_i(a_k relu(g_k)) A_k)``, ``a_k = g_k² / (2 g_k² + sum_i(A_k) g_k³)`` (Chattopadhay et al.
    2018, arXiv 1710.11063, equation 19, with pytorch-grad-cam's 1e-6 in the denominator; torchcam has none, and differs
    where gradients are small). Choose it where a class appears several times in a picture.
    """
    square = gradient * gradient
    share = square / (2 * square + _sum(activation) * square * gradient + 1e-6)
    return combine(_sum(gradient.clip(min=0) * share) * activation)


def xgradcam(activation: Array, gradient: Array, combine: Combine = positive_sum) -> Array:
    """XGrad-CAM: channels weighted by the gradients at their active cells.

    ``map = relu(sum_k sum_i(g_k A_k) / (sum_i(A_k) + 1e-7) A_k)`` (Fu et al. 2020, arXiv 2008.02312).
    Choose it where the map's sum should come close to the score; for a linear head it equals Grad-CAM.
    """
    return combine(_sum(gradient * activation) / (_sum(activation) + 1e-7) * activation)


def layercam(activation: Array, gradient: Array, combine: Combine = positive_sum) -> Array:
    """LayerCAM: every cell weighted by its own positive gradient.

    ``map = relu(sum_k relu(g_k) A_k)`` (Jiang et al. 2021, doi 10.1109/TIP.2021.3089943).
    Choose it for vision transformers, and at earlier layers: it stays sharp where means of gradients over cells blur.
    """
    return combine(gradient.clip(min=0) * activation)


def hirescam(activation: Array, gradient: Array, combine: Combine = positive_sum) -> Array:
    """HiResCAM: every cell weighted by its own gradient, of either sign.

    ``map = relu(sum_k g_k A_k)`` (Draelos and Carin 2020, arXiv 2011.08891).
    Choose it where the head weights every cell by itself, as a linear layer on the flattened cells does: there the sum
    before the ReLU, added up over the cells, and the bias are the score.
    """
    return combine(gradient * activation)


def gradcam_elementwise(activation: Array, gradient: Array, combine: Combine = positive_sum) -> Array:
    """Element-wise Grad-CAM: as HiResCAM, with negative products cut off before the sum over the channels.

    ``map = sum_k relu(g_k A_k)`` (pytorch-grad-cam's GradCAMElementWise).
    Choose it where channels against a class hide those for it.
    """
    return combine((gradient * activation).clip(min=0))


def finercam(activation: Array, gradient: Array, combine: Combine = positive_sum) -> Array:
    """FinerCAM: Grad-CAM of what tells a class from the three classes with the most similar scores.

    ``map = relu(sum_k mean_i(g_k) A_k)``, ``g_k`` the gradient of ``sum_j p_j (y - y_j) / sum_j p_j``, j the similar
    classes and p their probabilities (Zhang et al. 2025, arXiv 2501.11309; see ``class_weights``).
    Choose it between classes that look alike, such as breeds, whose Grad-CAM maps are nearly the same.
    """
    return gradcam(activation, gradient, combine)


def shapleycam(activation: Array, gradient: Array, curvature: Array, combine: Combine = positive_sum) -> Array:
    """ShapleyCAM: Grad-CAM with half of the curvature taken off the gradient.

    ``map = relu(sum_k mean_i(g_k - (H A)_k / 2) A_k)``, ``H`` the Hessian of the score with respect to the layer's
    activation (Cai 2025, arXiv 2501.06261). A second backward pass finds ``H A``; ReLU and max-pooling have no
    curvature: choose it where a smooth part lies behind the layer, such as attention, a normalisation of the picture's
    own values, or SiLU; elsewhere the map is Grad-CAM's.
    """
    return gradcam(activation, gradient - 0.5 * curvature, combine)


def cam(activation: Array, gradient: Array, combine: Combine = lambda weighted: weighted.sum(axis=1)) -> Array:
    """CAM: the weights of a linear head behind an average over the cells, on the channels; of either sign.

    ``map = sum_k w_k A_k``, so that ``mean_i(map)`` and the head's bias add up to the score (Zhou et al. 2016, arXiv
    1512.04150). The weight is read from the gradient, ``w_k = n g_k``, which is the same at all cells of such a head.
    Choose it where such a head allows it and the map should add up to the score. A gradient that differs between the
    cells of a channel, so that the head is another one, is Unprocessable.
    """
    mean = _mean(gradient)
    if abs(gradient - mean).max() > 1e-3 * abs(gradient).max():  # rounding makes equal gradients differ by less
        where = "the last layer before an average over the cells and a linear head"
        why = "this layer's gradient differs between cells"
        raise Unprocessable(f"method cam is defined at {where}, and {why}; valid here are the other methods")
    return combine(_sum(gradient) * activation)


def _mean(values: Array) -> Array:
    return values.mean(axis=(2, 3), keepdims=True)  # (N, C, 1, 1)


def _sum(values: Array) -> Array:
    return values.sum(axis=(2, 3), keepdims=True)  # (N, C, 1, 1)
