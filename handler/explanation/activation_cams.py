"""Class activation maps from a layer's activations: what a layer reacts to; their values are at least 0.

``X`` is the activation as a matrix of n cells times C channels. Only eigengradcam uses the gradient; the engines
compute it all the same. The other methods' maps are equal for all targets: they do not say what speaks for a class.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from handler.errors import Unprocessable
from handler.explanation.evidence import Floats
from handler.explanation.gradient_cams import Combine, positive_sum

_MOST_CELLS = 1024  # the kernel matrix has the square of that, and its decomposition takes the cube
_Exact = npt.NDArray[np.float64]


def eigencam(activation: Floats, _gradient: Floats) -> Floats:
    """Eigen-CAM: the activations' first principal component.

    ``map = relu(X v)``, ``v`` the first right singular vector of the centred X (Muhammad and Yeasin 2020, arXiv
    2008.00299; centred as in pytorch-grad-cam). The decomposition leaves the sign of v open: here X v goes up where the
    sum over the channels does. Choose it to see what stands out for a layer, without a class.
    """
    return principal_component(activation)


def eigengradcam(activation: Floats, gradient: Floats) -> Floats:
    """Eigen-Grad-CAM: the first principal component of gradients times activations.

    As Eigen-CAM, of ``g_k A_k`` (pytorch-grad-cam's EigenGradCAM); costs a backward pass, and depends on the class.
    Choose it for cleaner maps than HiResCAM's, of which it is the strongest pattern.
    """
    return principal_component(activation * gradient)


def kpca_cam(activation: Floats, _gradient: Floats) -> Floats:
    """KPCA-CAM: the activations' first component in the space of a sigmoid kernel.

    ``map = relu(sqrt(s) u)``, s and u the first eigenvalue and eigenvector of the centred kernel matrix of
    ``tanh(x·y / C + 1)`` (Karmani et al. 2024, arXiv 2410.00267). The sign is scikit-learn's: the value of the largest
    magnitude is positive. Choose it where Eigen-CAM's linear component mixes several objects, in layers of at most 1024
    cells: others are Unprocessable.
    """
    return _by_picture(_first_kernel_component, activation)


def fem(activation: Floats, _gradient: Floats, combine: Combine = positive_sum) -> Floats:
    """FEM: channels weighted by the share of their cells that stand out.

    ``map = relu(sum_k mean_i(A_k > m_k + 2 s_k) A_k)``, m_k and s_k mean and standard deviation of channel k (Fuad et
    al. 2020, hal-02963298). Choose it as Eigen-CAM, for layers whose channels are sparse.
    """
    mean, deviation = activation.mean((2, 3), keepdims=True), activation.std((2, 3), keepdims=True)
    weights = (activation > mean + 2 * deviation).mean((2, 3), np.float32, keepdims=True)
    return np.asarray(combine(weights * activation))


def random_cam(activation: Floats, _gradient: Floats, combine: Combine = positive_sum, seed: int = 0) -> Floats:
    """RandomCAM: channels weighted at random: the baseline that a method must beat.

    ``map = relu(sum_k u_k A_k)``, u_k uniform on [-1, 1], drawn with the seed; every picture gets the same weights.
    Choose it to find out how much of another method's map is the layer's activations alone.
    """
    weights = np.asarray(np.random.default_rng(seed).uniform(-1, 1, activation.shape[1]), np.float32)
    return np.asarray(combine(weights[:, None, None] * activation))


def _by_picture(component: Callable[[_Exact], _Exact], values: Floats) -> Floats:
    """The positive part of each picture's component (n), which is computed of its cells (n, C)."""
    count, channels, height, width = values.shape
    pictures = values.reshape(count, channels, -1).transpose(0, 2, 1).astype(np.float64)  # (N, n, C)
    found = [component(cells).clip(min=0) for cells in pictures]
    return np.asarray(found, np.float32).reshape(count, height, width)


def _first_component(cells: _Exact) -> _Exact:
    centred = cells - cells.mean(axis=0)
    if len(centred) < centred.shape[1]:  # the smaller of the two products has the same eigenvalues
        projection = _largest(centred @ centred.T)
    else:
        projection = centred @ np.linalg.eigh(centred.T @ centred)[1][:, -1]
    return np.asarray(np.sign(projection @ centred.sum(axis=1)) * projection)


principal_component = partial(_by_picture, _first_component)  # of values (N, C, h, w), (N, h, w)


def _first_kernel_component(cells: _Exact) -> _Exact:
    count, channels = cells.shape
    if count > _MOST_CELLS:
        valid = f"valid are layers of at most {_MOST_CELLS}"
        raise Unprocessable(f"method kpcacam compares all pairs of cells, and this layer has {count} cells; {valid}")
    centred = cells - cells.mean(axis=0)
    kernel = np.tanh(centred @ centred.T / channels + 1)
    kernel -= kernel.mean(axis=0)
    projection = _largest(kernel - kernel.mean(axis=1, keepdims=True))
    return np.asarray(np.sign(projection[np.abs(projection).argmax()]) * projection)


def _largest(matrix: _Exact) -> _Exact:
    """The eigenvector of the largest eigenvalue, times the eigenvalue's root."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray(vectors[:, -1] * np.sqrt(max(float(values[-1]), 0.0)))
