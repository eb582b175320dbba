"""Max pooling, adaptive max pooling and the gradients of both; windows of one size need no indices of maxima."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from export.tracing.gates import gated, is_open

aten = torch.ops.aten


def adaptive_max_pool2d_backward(gradient: Tensor, inputs: Tensor, indices: Tensor, *, poles: bool) -> Tensor:
    """dL/dx of adaptive max pooling, whose windows are those of max pooling where the sizes divide."""
    if kernel := _divided(inputs, gradient.shape[2:]):
        return max_pool_backward(gradient, inputs, kernel, kernel, [0, 0], [1, 1], False, indices, poles=poles)
    flat = torch.zeros_like(inputs).flatten(2)
    return flat.scatter_add(2, indices.flatten(2), gradient.flatten(2)).reshape(inputs.shape)


def max_pool_backward(
    gradient: Tensor, inputs: Tensor, kernel: list[int], *options: Any, poles: bool, count: int = 2
) -> Tensor:
    """dL/dx of max pooling over the last ``count`` axes, one after the other, without indices of maxima.

    Runtimes are slow to find indices, or lack them. Of equal maxima the first has the gradient, row by row, as in
    torch: that of the first row, and there of the first column. Rows are looked at after the maxima of the columns are
    known.
    """
    stride, *steps, ceil, _indices = options
    if inputs.dim() == count + 1:  # without an axis of channels or pictures
        return max_pool_backward(gradient[None], inputs[None], kernel, *options, poles=poles, count=count)[0]
    windows = [(*of, *of[-1:] * (count - len(of))) for of in (kernel, stride or kernel, *steps)]
    pool = aten.max_pool2d_with_indices if count == 2 else aten.max_pool3d_with_indices
    pooled = [inputs]
    for axis in reversed(range(1, count)):
        alone = [
            [of[axis] if one == axis else unit for one in range(count)]
            for of, unit in zip(windows, _ALONE, strict=True)
        ]
        pooled.append(pool(pooled[-1], *alone, ceil)[0])
    pooled.append(pool(inputs, *windows, ceil)[0])  # as in the forward pass
    for axis, window in enumerate(zip(*windows, strict=True)):
        gradient = _at_first_maxima(gradient, pooled[-axis - 2], pooled[-axis - 1], axis + 2, window, poles)
    return gradient


_ALONE = 1, 1, 0, 1  # kernel, stride, padding and dilation of an axis that is not pooled


def _at_first_maxima(
    gradient: Tensor, values: Tensor, maxima: Tensor, axis: int, window: tuple[int, ...], poles: bool
) -> Tensor:
    """dL/d values of the maxima of windows along one axis; a window is kernel, stride, padding and dilation."""
    kernel, stride, padding, dilation = window
    count, size, inner = maxima.shape[axis], values.shape[axis], [0, 0] * (values.dim() - 1 - axis)
    behind = (count - 1) * stride + (kernel - 1) * dilation + 1 - padding - size
    padded = F.pad(values, [*inner, padding, max(behind, 0)], value=torch.finfo(values.dtype).min)
    rows = -(-size // stride)
    lanes: list[list[Tensor]] = [[] for _ in range(stride)]  # cells of the same remainder by the stride
    for cell in range(kernel):
        part, first = gradient, cell * dilation
        if cell + 1 < kernel:  # the last cell has what is left
            lower = is_open(maxima - aten.slice(padded, axis, first, first + (count - 1) * stride + 1, stride))
            gradient = gated(part, lower, poles)
            part = gated(part, 1 - lower, poles) if poles else part - gradient
        row, lane = divmod(first - padding, stride)
        above, before = min(max(-row, 0), count), min(max(row, 0), rows)
        kept = part.narrow(axis, above, max(min(count - above, rows - before), 0))
        around = [*inner, before, rows - before - kept.shape[axis]]
        lanes[lane].append(F.pad(kept, around) if any(around) else kept)
    none = torch.zeros_like(lanes[-padding % stride][0])  # the lane of the first cell
    sums = [sum(parts[1:], parts[0]) if parts else none for parts in lanes]
    found = torch.stack(sums, axis + 1).flatten(axis, axis + 1)
    return found if found.shape[axis] == size else found.narrow(axis, 0, size)  # runtimes copy what is whole


def _divided(inputs: Tensor, output_size: Sequence[int]) -> list[int]:
    """The kernel of the max pooling that adaptive max pooling is, or nothing."""
    size = inputs.shape[2:]
    return [] if size[0] % output_size[0] or size[1] % output_size[1] else [size[i] // output_size[i] for i in range(2)]


def adaptive_max_pool2d(inputs: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Adaptive max pooling itself, which ONNX lacks: the maxima over the cells of each window, and their indices."""
    if kernel := _divided(inputs, output_size):
        return cast(tuple[Tensor, Tensor], aten.max_pool2d_with_indices(inputs, kernel))
    width = inputs.shape[3]
    rows, columns = (_filled(inputs.shape[2 + i], output_size[i]) for i in range(2))
    cells = torch.tensor([[[y * width + x for y in row for x in column] for column in columns] for row in rows])
    chosen = inputs.flatten(2).index_select(2, cells.flatten())
    best, place = chosen.reshape(*inputs.shape[:2], *cells.shape).max(dim=-1)
    windows = torch.arange(cells.shape[0] * cells.shape[1]).reshape(cells.shape[:2])
    return best, cells.flatten()[windows * cells.shape[2] + place]


def _filled(size: int, count: int) -> list[list[int]]:
    """The cells of adaptive pooling's windows, floor(k·n/m) to ceil((k+1)·n/m) of n, filled up by their first cells."""
    windows = [list(range(k * size // count, -(-(k + 1) * size // count))) for k in range(count)]
    most = max(map(len, windows))
    return [window[:1] * (most - len(window)) + window for window in windows]
