"""Tells a network's weights from others: a graph is used only beside the very weights that it was made from."""

import hashlib

import torch
from torch import nn

from handler.classifier import training_only


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
