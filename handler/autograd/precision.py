"""Full float32: on a GPU PyTorch rounds the inputs of convolutions to 10 bits by default (TF32).

ShuffleNet's scores are then off by 0.6 % of the largest score, MobileNetV2's by 1.7 %, and so are the maps.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import backends

_OPERATIONS: tuple[Any, ...] = (
    backends.cudnn.conv,  # type: ignore[attr-defined]
    backends.cuda.matmul,
    backends.mkldnn.conv,  # type: ignore[attr-defined]
    backends.mkldnn.matmul,  # type: ignore[attr-defined]
)


@contextmanager
def full_precision() -> Iterator[None]:
    """Inside the block, convolutions and matrix products compute in float32, in all threads of the process."""
    with ExitStack() as stack:
        for operation in _OPERATIONS:
            stack.callback(setattr, operation, "fp32_precision", operation.fp32_precision)
            operation.fp32_precision = "ieee"
        yield
