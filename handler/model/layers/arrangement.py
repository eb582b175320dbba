"""Tells by the operations that made a layer's output whether its cells lie as the picture's pixels do.

Convolutions, pooling, pointwise operations and shuffles of channels keep the order of rows and columns, whatever the
weights. ``handler.model.layers.cells`` measures the cells behind all other operations.
"""

from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from handler.autograd.graph import Node, operation

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
    waiting, seen = [(root, 0)], {root}
    while waiting:
        node, output = waiting.pop()
        name, after = operation(node), _shape(node, output)
        if node is leaf or node in known or after[2:] == (1, 1):  # as gates of whole channels are
            continue
        if len(after) < 3:  # without channels a tensor still has rows and columns
            return False
        if name not in _KEEPING and not (name in _IF and _IF[name](node, after)):
            return False
        for following, number in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append((following, number))
    return True


def _shape(node: Node, output: int) -> Shape:
    known = node._input_metadata
    return tuple(known[output].shape) if output < len(known) else ()


def _same_maps(node: Node, after: Shape) -> bool:
    before = [_shape(following, number) for following, number in node.next_functions if following is not None]
    return all(len(shape) >= 4 and shape[-2:] == after[-2:] for shape in before)


def _axes(values: Sequence[int], dimensions: int) -> list[int]:
    """Axes counted from 0; autograd keeps negative axes as unsigned 64-bit numbers."""
    return [((value + (1 << 63)) % (1 << 64) - (1 << 63)) % dimensions for value in values]


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
    "Flip": lambda node, after: max(_axes(node._saved_dims, len(after))) < len(after) - 2,
    "Select": lambda node, after: _axes([node._saved_dim], len(after) + 1)[0] < len(after) - 1,
    "Unsqueeze": lambda node, after: _axes([node._saved_dim], len(after))[0] < len(after) - 2,
    **dict.fromkeys(("View", "UnsafeView", "ReshapeAlias", "Slice", "Split", "SplitWithSizes", "Cat"), _same_maps),
    "Transpose": lambda node, after: max(_axes([node._saved_dim0, node._saved_dim1], len(after))) < len(after) - 2,
    "Permute": lambda node, after: _axes(node._saved_dims, len(after))[-2:] == [len(after) - 2, len(after) - 1],
}
