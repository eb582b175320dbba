"""Class activation maps: pure formulas over activations and gradients.

Every function is written in operations that NumPy arrays and torch tensors share, so that one definition serves the
engines and can be traced into an ONNX graph. ``A_k`` is channel k of a layer's activation, ``y_c`` the logit of the
class. A new method is one more function with ``@method``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Array = Any  # a NumPy array or a torch tensor
Formula = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class CamMethod:
    """A formula, its name and its summary."""

    name: str
    formula: Formula
    summary: str  # first line of the formula's docstring


METHODS: dict[str, CamMethod] = {}


def method(name: str) -> Callable[[Formula], Formula]:
    """Registers a formula under the name that requests use.

    Raises:
        ValueError: the name is taken.
    """

    def register(formula: Formula) -> Formula:
        if name in METHODS:
            raise ValueError(f"CAM method {name!r} is registered already")
        METHODS[name] = CamMethod(name, formula, (formula.__doc__ or "").partition("\n")[0])
        return formula

    return register


@method("gradcam")
def gradcam(activation: Array, gradient: Array) -> Array:
    """Grad-CAM: channels weighted by their mean gradient, negative evidence cut off.

    ``a_k = mean_ij dy_c/dA_k(ij)``, ``map = relu(sum_k a_k A_k)`` (Selvaraju et al. 2017, arXiv 1610.02391).

    Args:
        activation: (N, C, h, w).
        gradient: (N, C, h, w), of the class's logit with respect to the activation.

    Returns:
        The unscaled maps (N, h, w), at least 0.
    """
    weights = gradient.mean(axis=(2, 3), keepdims=True)  # (N, C, 1, 1)
    return (weights * activation).sum(axis=1).clip(min=0)
