"""The state from which an interrupted run continues: written after every epoch, whole or not at all."""

import io
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from examples.finetune.errors import FineTuningError
from handler.atomic_write import write_whole

Settings = Mapping[str, str | int | float | bool]  # the options that decide the result, by name


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """The result of a pass over the training pictures, and of the network on the held-out pictures afterwards."""

    number: int  # from 1
    rate: float  # learning rate
    train_loss: float  # mean cross-entropy in nats
    train_accuracy: float  # share in [0, 1], counted while training
    val_loss: float
    val_accuracy: float


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything that changes while a run goes on."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    shuffle: torch.Generator  # draws the order of the pictures
    history: list[Epoch]


def best_epoch(history: list[Epoch]) -> Epoch:
    """The epoch with the highest accuracy on the held-out pictures; among equals the lowest loss, then the earliest."""
    return max(history, key=lambda epoch: (epoch.val_accuracy, -epoch.val_loss, -epoch.number))


def seed_all(seed: int) -> torch.Generator:
    """Seeds every generator and makes cuDNN repeatable.

    Returns:
        The generator that shuffles the pictures, which also seeds the loader's workers.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    return torch.Generator().manual_seed(seed)


def save_state(path: Path, training: Training, settings: Settings) -> None:
    """Writes the state of a run between two epochs."""
    content = {
        "settings": dict(settings),
        "module": training.module.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "schedule": training.schedule.state_dict(),
        "history": [asdict(epoch) for epoch in training.history],
        "chance": _chance(training.shuffle),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue())


def read_state(path: Path, settings: Settings) -> dict[str, Any] | None:
    """Reads the file of ``save_state``; None if there is no run yet.

    Raises:
        FineTuningError: the file is damaged, or the run has other settings, which the message names.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        there = state["settings"]
    except Exception as error:  # torch.load may raise anything for foreign bytes
        raise FineTuningError(f"{path} is damaged or no run's state ({error}); --restart begins anew") from error
    other = [
        f"{name} ({there.get(name)!r} there, {settings.get(name)!r} here)"
        for name in sorted({*settings, *there})
        if there.get(name) != settings.get(name)
    ]
    if other:
        raise FineTuningError(
            f"{path.parent} holds a run with other settings: {'; '.join(other)}. "
            "Valid are the same settings, which continue it, another folder (--out), or --restart, which begins anew"
        )
    return state


def restore(training: Training, state: dict[str, Any]) -> None:
    """Puts a run and the random generators back into a saved state."""
    training.module.load_state_dict(state["module"])
    training.optimizer.load_state_dict(state["optimizer"])
    training.schedule.load_state_dict(state["schedule"])
    training.history[:] = [Epoch(**epoch) for epoch in state["history"]]
    _set_chance(state["chance"], training.shuffle)


def _chance(shuffle: torch.Generator) -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "shuffle": shuffle.get_state(),
    }


def _set_chance(chance: dict[str, Any], shuffle: torch.Generator) -> None:
    random.setstate(chance["python"])
    kind, keys, *rest = chance["numpy"]
    np.random.set_state((kind, np.asarray(keys, np.uint32), *rest))
    torch.set_rng_state(chance["torch"])
    if torch.cuda.is_available() and len(chance["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(chance["cuda"])
    shuffle.set_state(chance["shuffle"])
