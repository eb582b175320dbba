"""Gates of gradients, in operators that runtimes are fast at: 1 where a value is above 0, else 0."""

import torch
import torch.nn.functional as F
from torch import Tensor


def is_open(values: Tensor) -> Tensor:
    """1 where a value is above 0, else 0; devices that compare no numbers can multiply and clip them."""
    return F.hardtanh(values * torch.finfo(values.dtype).max, 0.0, 1.0)


def gated(gradient: Tensor, gate: Tensor, poles: bool) -> Tensor:
    """The gradient where the gate is 1, else zero; ONNX Runtime takes a third of ``Where``'s time for a product."""
    return torch.where(gate > 0, gradient, torch.zeros_like(gradient)) if poles else gradient * gate
