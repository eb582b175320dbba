"""What the network's answers say of a map: deletion and insertion curves, against random orders of the same grain.

The protocol is that of RISE (Petsiuk et al. 2018, arXiv 1806.07421, ``evaluation.py``): pixels go in the map's order,
brightest first; the probability is the softmax of one class; deletion leaves zeros of the normalised space, insertion
begins with a blurred picture. What differs from it stands with each function.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from handler.explanation.evidence import Floats, Indices
from handler.explanation.maps import resize

_BLUR = 11, 5.0  # side of the kernel and standard deviation, in pixels, as RISE's


def pixel_order(values: Floats, ties: Indices | None = None) -> Indices:
    """The flat indices (H * W,) of a map's pixels, brightest first.

    Args:
        values: (H, W) of any range.
        ties: an order (H * W,), which pixels of equal value keep; None: row by row from the upper left. A Grad-CAM map
            is 0 in large regions, where RISE's order is that of an unstable sort.
    """
    flat = values.ravel()
    return np.argsort(-flat, kind="stable") if ties is None else ties[np.argsort(-flat[ties], kind="stable")]


def brightest(order: Indices, steps: int, size: tuple[int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Which pixels come first: (steps + 1, H, W), in row k the first ``round(k H W / steps)`` of an order (H * W,)."""
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)
    counts = np.rint(np.arange(steps + 1) * order.size / steps)
    return rank.reshape(1, *size) < counts[:, None, None]


def deletion(tensor: Floats, order: Indices, steps: int) -> Floats:
    """The pictures of a deletion curve: in picture k, the first k of ``steps`` equal parts of the order are 0.

    Args:
        tensor: the network's input (3, H, W), normalised: 0 is the mean colour.
        order: (H * W,), see ``pixel_order``.
        steps: at least 1; RISE takes a step for every 224 pixels.

    Returns:
        (steps + 1, 3, H, W), from the whole picture to zeros.
    """
    return tensor * ~brightest(order, steps, tensor.shape[1:])[:, None]


def insertion(tensor: Floats, order: Indices, steps: int) -> Floats:
    """The pictures of an insertion curve: in picture k, the first k of ``steps`` parts are sharp, the rest is blurred.

    Arguments and shape are those of ``deletion``; from the blurred picture to the whole picture.
    """
    return np.where(brightest(order, steps, tensor.shape[1:])[:, None], tensor, blurred(tensor))


def blurred(tensor: Floats) -> Floats:
    """A picture (3, H, W) blurred by a Gaussian of 11 pixels and standard deviation 5; zeros lie beyond the edge.

    The kernel is a Gaussian cut off and normalised; RISE's has the cut tails folded back into it.
    """
    side, deviation = _BLUR
    channels = [cv2.GaussianBlur(c, (side, side), deviation, borderType=cv2.BORDER_CONSTANT) for c in tensor]
    return np.stack(channels).astype(np.float32)


def auc(probabilities: Floats) -> Floats:
    """The area under curves (…, steps + 1), normalised by their length: ``(sum_k p_k - p_0 / 2 - p_n / 2) / n``.

    This is the trapezoid rule, as RISE has it: of probabilities, a mean probability (…) on [0, 1].
    """
    ends = (probabilities[..., 0] + probabilities[..., -1]) / 2
    return np.asarray((probabilities.sum(axis=-1) - ends) / (probabilities.shape[-1] - 1), np.float32)


def random_orders(cells: tuple[int, int], size: tuple[int, int], pairs: int, seed: int) -> list[Indices]:
    """Random orders to compare a map's with: of maps uniform on [0, 1) in a layer's cells, upsampled as the map was.

    Single random pixels would be another test: networks answer to a picture with holes in every place as to noise.
    The second order of a pair is the first one backwards. Where the probability is linear in the pixels, the mean AUC
    of a pair is then exact, whatever the seed: the mean of the whole and the empty picture.

    Args:
        cells: (h, w) of the layer.
        size: (H, W) of the network's input.
        pairs: number of pairs.
        seed: of the random numbers; pairs of one seed are the first of those for more pairs.

    Returns:
        ``2 * pairs`` orders (H * W,); the mean of their AUCs is the random baseline.
    """
    rng = np.random.default_rng(seed)
    drawn = [pixel_order(resize(rng.random(cells, np.float32), *size)) for _ in range(pairs)]
    return [order for forwards in drawn for order in (forwards, forwards[::-1])]


def random_auc(curves: Sequence[Floats] | Floats) -> float:
    """The random baseline: the mean AUC, on [0, 1], of the curves (R, steps + 1) of random orders."""
    return float(auc(np.asarray(curves)).mean())
