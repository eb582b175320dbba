"""Guided backpropagation on the autograd graph; the model stays as it is.

``R_in = 1[x > 0] · 1[R_out > 0] · R_out`` (Springenberg et al. 2015, arXiv 1412.6806). Autograd's ReLU nodes apply the
first gate, a hook on each node the second. All ReLUs have nodes, reused ones and those in place, too, however they are
spelt: ReLU6, ``clamp(min=0)``, ``maximum(x, 0)``, ``Threshold(0, 0)``. Coverage counts every node that is not known to
be linear, but not max-pooling, whose plain gradient guided backpropagation takes.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch._subclasses import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from handler.autograd.graph import Node, arriving, nodes, operation
from handler.errors import Unprocessable

# autograd's names of operations that are linear in the input that gradients pass through
_LINEAR = """Add Sub Rsub Neg Mean Sum Nansum Cumsum Clone Copy CopyBackwards torch::autograd::CopySlices ToCopy
    torch::autograd::AccumulateGrad View UnsafeView Reshape ReshapeAlias Alias AsStrided T Transpose Permute Expand
    Unsqueeze Squeeze Select Slice Split SplitWithSizes UnsafeSplit UnsafeSplitWithSizes Unbind Unfold Diagonal Cat
    Stack BlockDiag Index IndexSelect IndexAdd Gather Scatter ScatterAdd Flip Roll Rot90 Repeat Tril Triu ConstantPadNd
    ReflectionPad1D ReflectionPad2D ReplicationPad1D ReplicationPad2D PixelShuffle PixelUnshuffle ChannelShuffle Im2Col
    Col2Im AvgPool2D AvgPool3D AdaptiveAvgPool2D AdaptiveAvgPool3D MkldnnAdaptiveAvgPool2D UpsampleNearest1D
    UpsampleNearest2D UpsampleNearestExact2D UpsampleLinear1D UpsampleBilinear2D UpsampleBilinear2DAa UpsampleBicubic2D
    UpsampleBicubic2DAa FftR2C FftC2C FftC2R ViewAsReal ViewAsComplex Real Imag"""
_PRODUCTS = {  # operations that are linear unless gradients pass through all of these inputs
    **dict.fromkeys(("Mul", "Mm", "Bmm", "Mv", "Dot", "Convolution"), (0, 1)),
    **dict.fromkeys(("Addmm", "Addmv", "Addbmm", "Baddbmm"), (1, 2)),
    "Lerp": (0, 2),
    "Div": (1,),
}
_MAX_POOLING = ("MaxPool2DWithIndices", "MaxPool3DWithIndices", "AdaptiveMaxPool2D", "AdaptiveMaxPool3D")
_POPULAR_NAMES = {  # activations, by autograd's names
    **{"Silu": "SiLU", "Gelu": "GELU", "Elu": "ELU", "Celu": "CELU", "LeakyRelu": "LeakyReLU", "PreluKernel": "PReLU"},
    **{name: name for name in ("Hardtanh", "Hardswish", "Mish", "Softplus", "Tanh")},
    "RreluWithNoise": "RReLU",
}


def find_rectifiers(output: torch.Tensor) -> tuple[list[Node], str]:
    """The nodes of ReLUs in the autograd graph of ``output``, and the coverage: "57 of 57 activations" are guided.

    Unprocessable names the non-linear operations if there is no ReLU.
    """
    rectifiers, others = [], []
    for node in nodes(output.grad_fn):
        name = operation(node)
        if name in _LIMITS and _is_zero(_LIMITS[name](node)):
            rectifiers.append(node)
        elif not _is_linear(node, name) and name not in _MAX_POOLING:
            others.append(_POPULAR_NAMES.get(name, name))
    if not rectifiers:
        found = sorted(set(others) & set(_POPULAR_NAMES.values()) or set(others)) or ["no activation"]
        only = f"guided backpropagation is defined for ReLU networks only and this one has {', '.join(found)}"
        raise Unprocessable(f"{only}; valid maps are gradcam and saliency")
    return rectifiers, f"{len(rectifiers)} of {len(rectifiers) + len(others)} activations"


def guided(rectifiers: Sequence[Node]) -> AbstractContextManager[None]:
    """Inside the block, backward passes through the graph are guided; afterwards they are plain again."""
    return arriving(dict.fromkeys(rectifiers, torch.relu))


def _is_linear(node: Node, name: str) -> bool:
    if name in ("NativeBatchNorm", "CudnnBatchNorm"):
        return not node._saved_training
    if name not in _PRODUCTS:
        return name in _LINEAR.split()
    inputs = [place for place, (following, _) in enumerate(node.next_functions) if following is not None]
    if set(_PRODUCTS[name]) <= set(inputs):
        return False
    return name != "Mul" or not _is_mask(node._saved_self if 0 not in inputs else node._saved_other)


def _is_mask(factor: Any) -> bool:
    """Whether a constant factor is a mask of zeros and ones, as in ``x * (x > 0)``, which is not linear in x."""
    if not isinstance(factor, torch.Tensor) or isinstance(factor, FakeTensor) or factor.dim() == 0:
        return False
    with _disable_current_modes():  # a trace would leave open what the constant's values are
        return factor.dtype == torch.bool or bool(((factor == 0) | (factor == 1)).all())


def _is_zero(value: Any) -> bool:
    if isinstance(value, FakeTensor):
        valid = "valid spellings of a ReLU are relu, clamp(min=0)"
        raise ValueError(f"whether a tensor is 0 is not known in a trace; {valid}")
    return bool((value == 0).all()) if isinstance(value, torch.Tensor) else bool(value == 0)


def _other_value(node: Node) -> Any:
    """The constant that a maximum is taken with; None if gradients pass through both inputs."""
    (first, _), (second, _) = node.next_functions
    if first is not None and second is not None:
        return None
    return node._saved_other if second is None else node._saved_self


_LIMITS: dict[str, Callable[[Node], Any]] = {  # what makes an operation a ReLU if it is 0
    "Relu": lambda _node: 0,
    "Hardtanh": lambda node: node._saved_min_val,
    **dict.fromkeys(("Clamp", "ClampMin"), lambda node: node._saved_min),
    "Threshold": lambda node: node._saved_threshold,
    **dict.fromkeys(("Maximum", "Fmax"), _other_value),
}
