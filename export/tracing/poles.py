"""Whether a network's gradients can become infinite, as those of ``sqrt``, ``log``, norms and quotients are at zero.

Where they can, a closed gate must not multiply them: ``0 · inf`` is NaN where PyTorch has 0.
"""

from typing import Any

import torch

from handler.autograd.graph import nodes, operation

# autograd's names of operators whose gradient is finite where the gradient at their output is finite
_NAMES = """
AdaptiveAvgPool2D Add Addmm Alias AsStrided AvgPool2D Baddbmm Bmm Cat Celu Clamp ClampMax ClampMin Clone ConstantPadNd
Convolution Elu Expand Gather Gelu Hardsigmoid Hardswish Hardtanh Index IndexSelect LeakyRelu MaskedFill Max
MaxPool2DWithIndices Mean Mish Mm Mul NativeBatchNorm NativeGroupNorm NativeLayerNorm Neg Permute PixelShuffle
PreluKernel Relu Repeat ReshapeAlias Roll ScaledDotProductFlashAttentionForCpu Select Sigmoid Silu Slice Softmax
Softplus Split SplitWithSizes Squeeze Stack Sub Sum T Tanh Threshold ToCopy Transpose Unbind UnsafeSplit UnsafeView
Unsqueeze UpsampleBilinear2D UpsampleNearest2D View Where
"""
_BOUNDED = frozenset(_NAMES.split()) | {"torch::autograd::AccumulateGrad"}
_OF_NUMBERS = torch.float64, torch.int64  # how autograd keeps a Python number; networks' own tensors are float32


def has_poles(scores: torch.Tensor) -> bool:
    """Whether some operator behind the scores (N, K) is not known to have a bounded gradient; unknown ones count."""
    return not all(_is_bounded(node) for node in nodes(scores.grad_fn))


def _is_bounded(node: Any) -> bool:
    if node.name() == "DivBackward0":
        return node._saved_other.dim() == 0 and node._saved_other.dtype in _OF_NUMBERS
    if node.name() == "PowBackward0":
        return bool(node._saved_exponent >= 1)
    return operation(node) in _BOUNDED
