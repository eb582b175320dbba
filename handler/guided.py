"""Guided backpropagation on the autograd graph, without touching the model.

``R_in = 1[x > 0] · 1[R_out > 0] · R_out`` (Springenberg et al. 2015, arXiv 1412.6806). Autograd's ReLU nodes apply the
first gate; a hook on each of them rectifies the gradient that arrives and so adds the second. Functional, in-place and
reused ReLUs and ReLU6 are nodes like any other, which replacing ``nn.ReLU`` modules would miss. ``x.clamp(min=0)`` is
no such node, and neither is an in-place ReLU on a slice: they are neither guided nor counted.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from handler.errors import Unprocessable

_ACTIVATIONS = {  # autograd's node names to the names that people use
    "ReluBackward0": "ReLU",
    "HardtanhBackward0": "ReLU6",
    "HardswishBackward0": "Hardswish",
    "SiluBackward0": "SiLU",
    "GeluBackward0": "GELU",
    "EluBackward0": "ELU",
    "LeakyReluBackward0": "LeakyReLU",
    "PreluKernelBackward0": "PReLU",
    "MishBackward0": "Mish",
    "SoftplusBackward0": "Softplus",
    "TanhBackward0": "Tanh",
}


@dataclass(frozen=True)
class Gates:
    """The activation nodes of one forward pass."""

    rectifiers: list[Any]  # autograd nodes of ReLU and ReLU6
    others: list[str]  # names of the activations that guided backpropagation is not defined for

    @property
    def coverage(self) -> str:
        """How many of the network's activations the guided rule reaches, for the answer."""
        return f"{len(self.rectifiers)} of {len(self.rectifiers) + len(self.others)} activations"


def find_gates(output: torch.Tensor) -> Gates:
    """Walks the autograd graph once from ``output`` down to the leaves.

    Raises:
        Unprocessable: no ReLU in the graph; the message names the activations that there are.
    """
    rectifiers, others = [], []
    for node in _nodes(output.grad_fn):
        name = _ACTIVATIONS.get(node.name())
        if name == "ReLU" or (name == "ReLU6" and node._saved_min_val == 0):
            rectifiers.append(node)
        elif name is not None:
            others.append(name.replace("ReLU6", "Hardtanh"))
    if not rectifiers:
        found = ", ".join(sorted(set(others))) or "no activation"
        raise Unprocessable(
            f"guided backpropagation is defined for ReLU networks only and this one has {found}; "
            "valid maps are gradcam and saliency"
        )
    return Gates(rectifiers, others)


def _nodes(root: Any) -> Iterator[Any]:
    seen, waiting = {root}, [root]
    while waiting:
        node = waiting.pop()
        yield node
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)


@contextmanager
def guided(gates: Gates) -> Iterator[None]:
    """Inside the block a backward pass through the graph is guided; afterwards it is an ordinary one again."""
    with ExitStack() as stack:
        for node in gates.rectifiers:
            stack.callback(node.register_prehook(_rectify).remove)
        yield


def _rectify(arriving: tuple[torch.Tensor | None, ...]) -> tuple[torch.Tensor | None, ...]:
    return tuple(None if gradient is None else gradient.relu() for gradient in arriving)
