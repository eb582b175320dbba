"""Tells by the operations that made a layer's output whether its cells lie as the picture's pixels do.

Convolutions, pooling, pointwise operations and shuffles of channels keep the order of rows and columns, whatever the
weights. ``handler.model.layers.cells`` measures the cells behind all other operations.
"""

from collections.abc import Callable, Collection, Iterable

import numpy as np

from handler.autograd.graph import Node, axes, nodes, operation

# pointwise operations, windows that slide over rows and columns, operations between whole maps
_NAMES = """
Add Sub Rsub Neg Mul Div Addcmul Clone ToCopy Contiguous Relu Hardtanh Hardswish Hardsigmoid Sigmoid Silu Gelu Elu Celu
LeakyRelu PreluKernel Mish Softplus Tanh Clamp ClampMin Threshold Maximum Fmax Abs Pow Sqrt Exp NativeBatchNorm
CudnnBatchNorm NativeGroupNorm MaxPool2DWithIndices AvgPool2D AdaptiveAvgPool2D AdaptiveMaxPool2D
MkldnnAdaptiveAvgPool2D UpsampleNearest2D UpsampleNearestExact2D UpsampleBilinear2D UpsampleBilinear2DAa
UpsampleBicubic2D UpsampleBicubic2DAa PixelShuffle PixelUnshuffle ChannelShuffle Mean Amax Expand
"""
_KEEPING = frozenset(_NAMES.split())

Shape = tuple[int, ...]


def keeps_arrangement(root: Node, leaf: Node, known: Collection[Node]) -> bool:
    """Whether every path from a layer's output (N, C, h, w) to the picture keeps the order of rows and columns.

    ``root`` and ``leaf`` are nodes of the output and the picture, ``known`` those of tensors (N, C, h, w) whose cells
    are known to lie as the picture's pixels.
    """

    def ends(node: Node) -> bool:
        return node is leaf or node in known or _shape(node)[2:] == (1, 1)  # as gates of whole channels are

    return all(_keeps(node, operation(node), _shape(node)) for node in nodes(root, avoided=ends))


def _keeps(node: Node, name: str, after: Shape) -> bool:
    # without channels a tensor still has rows and columns
    return len(after) > 2 and (name in _KEEPING or name in _IF and _IF[name](node, after))


def _shape(node: Node) -> Shape:
    """The shape of an operation's output, of several that of the first; () if it is not known."""
    return next((tuple(output.shape) for output in node._input_metadata), ())


def _same_maps(node: Node, after: Shape) -> bool:
    before = [_shape(following) for following, _ in node.next_functions if following is not None]
    return all(len(shape) >= 4 and shape[-2:] == after[-2:] for shape in before)


def _is_padded_within_reach(node: Node) -> bool:
    """Whether a convolution's padding is no wider than the reach of its kernel."""
    reach = np.asarray(node._saved_dilation) * (np.asarray(node._saved_weight.shape[2:]) - 1)
    return bool(np.all(np.asarray(node._saved_padding) <= reach))  # padding="valid" is (0,) for all axes


def _is_narrow(padding: Iterable[int], after: Shape, share: int) -> bool:
    """Whether padding takes at most one part out of ``share`` of the shorter side, or one cell."""
    return max(padding) <= max(1, min(after[-2:]) // share)


_IF: dict[str, Callable[[Node, Shape], bool]] = {
    "Convolution": lambda node, _after: node._saved_transposed or _is_padded_within_reach(node),
    # wider padding would make the map show more than the picture
    "ConstantPadNd": lambda node, after: _is_narrow(map(abs, node._saved_pad), after, 8),
    "ReflectionPad2D": lambda node, after: _is_narrow(node._saved_padding, after, 2),
    "ReplicationPad2D": lambda node, after: _is_narrow(node._saved_padding, after, 2),
    "Index": lambda node, after: _same_maps(node, after) and all(index is None for index in node._saved_indices[2:]),
    "Flip": lambda node, after: max(axes(node._saved_dims, len(after))) < len(after) - 2,
    "Select": lambda node, after: axes([node._saved_dim], len(after) + 1)[0] < len(after) - 1,
    "Unsqueeze": lambda node, after: axes([node._saved_dim], len(after))[0] < len(after) - 2,
    **dict.fromkeys(("View", "UnsafeView", "ReshapeAlias", "Slice", "Split", "SplitWithSizes", "Cat"), _same_maps),
    "Transpose": lambda node, after: max(axes([node._saved_dim0, node._saved_dim1], len(after))) < len(after) - 2,
    "Permute": lambda node, after: axes(node._saved_dims, len(after))[-2:] == [len(after) - 2, len(after) - 1],
}
