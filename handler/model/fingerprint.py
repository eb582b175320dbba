"""Hashes a network's weights, because a graph is used only with the weights that it was made from."""

import hashlib

import torch
from torch import nn
from torchvision.models import GoogLeNet, Inception3

_TRAINING_ONLY = ("aux1.", "aux2.", "AuxLogits.")  # the heads of GoogLeNet and Inception that only training runs


def training_only(module: nn.Module) -> tuple[str, ...]:
    """The prefixes of the names of weights that only training uses and a checkpoint may lack."""
    return _TRAINING_ONLY if isinstance(module, (GoogLeNet, Inception3)) else ()


def hash_state(module: nn.Module) -> str:
    """SHA-256 over the names and bytes of all weights and buffers, in the order of the names.

    Weights that only training uses are left out, because they are random if the checkpoint lacks them.
    """
    digest = hashlib.sha256()
    state = module.state_dict()
    for name in sorted(name for name in state if not name.startswith(training_only(module))):
        content = state[name].cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()  # numpy has no bfloat16
        digest.update(f"{name}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()
