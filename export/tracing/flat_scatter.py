"""Scatters max pooling's gradient by the indices that ONNX's ``MaxPool`` returns."""

from typing import Any

from onnxscript.rewriter.pattern import RewriteRuleClassBase


class _FlatScatter(RewriteRuleClassBase):
    """Scatters by the maxima's indices in the whole tensor, which ONNX gives, instead of by indices in each plane.

    The exporter subtracts each plane's first index from ONNX's indices, and finds the first indices by another pooling
    of the same tensor with kernel 1, which takes as long as the pooling itself.

    Condition: the scatter's data is as large as the pooled tensor, and all sizes but the batch are known.
    """

    def __init__(self) -> None:
        super().__init__(remove_nodes=False)  # others read the maxima

    def pattern(self, op: Any, pooled: Any, data: Any, updates: Any, shape: Any) -> Any:
        _, index = op.MaxPool(pooled, _outputs=["maxima", "index"])
        _, cells = op.MaxPool(pooled, kernel_shape=[1, 1], _outputs=["copy", "cells"])
        in_plane = op.Sub(index, op.Slice(cells, _allow_other_inputs=True))
        return op.ScatterElements(data, op.Reshape(in_plane, shape), updates, axis=2, reduction="add")

    def check(self, _context: Any, pooled: Any, data: Any, **_: Any) -> bool:  # type: ignore[override]
        if pooled.shape is None or data.shape is None:
            return False
        planes, cells = list(data.shape)[1:], list(pooled.shape)[1:]
        known = [size for size in cells if isinstance(size, int) and size > 0]
        return len(known) == len(cells) == 3 and planes == [known[0], known[1] * known[2]]

    def rewrite(self, op: Any, data: Any, updates: Any, index: Any, **_: Any) -> Any:
        flat, planes = op.Constant(value_ints=[-1]), op.Constant(value_ints=[-1, *data.shape[1:]])
        pieces = (op.Reshape(tensor, flat) for tensor in (data, index, updates))
        return op.Reshape(op.ScatterElements(*pieces, axis=0, reduction="add"), planes)


FLAT_SCATTER = _FlatScatter.rule()  # type: ignore[no-untyped-call]
