"""Tells a network's weights from others: a graph is used only beside the very weights that it was made from."""

import hashlib

import torch
from torch import nn
from torchvision.models import GoogLeNet, Inception3

_TRAINING_ONLY = ("aux1.", "aux2.", "AuxLogits.")  # heads of those two: they do not run in eval mode


def training_only(module: nn.Module) -> tuple[str, ...]:
    """How the names of weights begin that do not run in eval mode, so that a checkpoint may lack them."""
    return _TRAINING_ONLY if isinstance(module, (GoogLeNet, Inception3)) else ()


def hash_state(module: nn.Module) -> str:
    """SHA-256 over names and raw bytes of all weights and buffers that run in eval mode, in the order of the names.

    Heads that only training runs are left out: a checkpoint may lack them, and they are random then.
    """
    digest = hashlib.sha256()
    state = module.state_dict()
    for name in sorted(name for name in state if not name.startswith(training_only(module))):
        content = state[name].cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()  # numpy has no bfloat16
        digest.update(f"{name}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()
