"""The training loop: epochs over the training pictures; the epoch that is best on the held-out pictures is kept."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from examples.finetune.curves import draw_curves
from examples.finetune.data import HeldOutPictures, Loader, Pictures, TrainingPictures, batches, drops_last
from examples.finetune.errors import FineTuningError
from examples.finetune.network import learns_batch_norm, scores_and_losses, train_mode
from examples.finetune.state import Epoch, Settings, Training, best_epoch, save_state
from handler.model.checkpoint import Checkpoint, write_checkpoint

STATE, BEST, LABELS, CURVES = "state.pt", "best.safetensors", "labels.txt", "curves.png"


@dataclass(frozen=True)
class Loaders:
    """The pictures in batches."""

    training: TrainingPictures  # the pictures of ``train``, whose ``epoch`` the loop sets
    train: Loader
    val: Loader


def make_loaders(
    pictures: Pictures, description: Checkpoint, training: Training, *, seed: int, batch_size: int, workers: int
) -> Loaders:
    """Loaders whose content depends on the seed and not on the number of worker processes."""
    how = description.preprocessing
    assert how is not None
    varied = TrainingPictures(pictures.train, how, seed)
    drop = drops_last(len(varied), batch_size, lonely=not learns_batch_norm(training.module))
    train: Loader = DataLoader(
        varied, batch_size, shuffle=True, drop_last=drop, num_workers=workers, generator=training.shuffle
    )
    # without a generator the loader would draw its workers' seeds from torch's global generator
    val: Loader = DataLoader(
        HeldOutPictures(pictures.val, how), batch_size, num_workers=workers, generator=torch.Generator()
    )
    return Loaders(varied, train, val)


def fine_tune(
    training: Training,
    loaders: Loaders,
    description: Checkpoint,
    settings: Settings,
    *,
    epochs: int,
    out: Path,
    report: Callable[[str], None] = tqdm.write,
) -> None:
    """Trains up to epoch ``epochs`` and leaves best checkpoint, labels, curves and state in ``out`` after each.

    Raises:
        FineTuningError: a picture cannot be read, or the loss is no finite number; files written before stay.
    """
    for number in range(len(training.history) + 1, epochs + 1):
        started, rate = time.perf_counter(), training.optimizer.param_groups[0]["lr"]
        loaders.training.epoch = number
        train_loss, train_accuracy = _train(training, loaders.train, f"epoch {number}/{epochs}")
        training.schedule.step()
        val_loss, val_accuracy = evaluate(training.module, loaders.val)
        training.history.append(
            Epoch(
                number=number,
                rate=rate,
                train_loss=train_loss,
                train_accuracy=train_accuracy,
                val_loss=val_loss,
                val_accuracy=val_accuracy,
            )
        )
        is_best = best_epoch(training.history).number == number
        report(
            f"epoch {number}/{epochs}  train: loss {train_loss:.4f} accuracy {train_accuracy:.1%}  "
            f"val: loss {val_loss:.4f} accuracy {val_accuracy:.1%}  "
            f"rate {rate:.3g}  {time.perf_counter() - started:.0f} s{'  best so far' if is_best else ''}"
        )
        if is_best:
            write_best(out, training, description, settings)
        draw_curves(training.history, out / CURVES)
        save_state(out / STATE, training, settings)  # last: before this, the same command repeats the epoch


def write_best(out: Path, training: Training, description: Checkpoint, settings: Settings) -> None:
    """Writes the present weights as a checkpoint that describes itself, and the labels, one per line."""
    epoch = training.history[-1]
    notes = {
        "started_from": str(settings["start"]),
        "seed": str(settings["--seed"]),
        "epoch": str(epoch.number),
        "val_accuracy": f"{epoch.val_accuracy:.4f}",
        "val_loss": f"{epoch.val_loss:.4f}",
    }
    state = {name: value.cpu() for name, value in training.module.state_dict().items()}
    write_checkpoint(
        out / BEST,
        Checkpoint(
            architecture=description.architecture,
            labels=description.labels,
            preprocessing=description.preprocessing,
            state=state,
            notes=notes,
            options=description.options,
        ),
    )


def _train(training: Training, loader: Loader, name: str) -> tuple[float, float]:
    """Trains one epoch, and returns the main head's mean loss and the share of pictures that the head named right."""
    module, total, right, seen = training.module, 0.0, 0, 0
    device = next(module.parameters()).device
    train_mode(module)
    bar = tqdm(batches(loader), desc=name, total=len(loader), unit="batch", leave=False, disable=None)
    for images, targets in bar:
        images, targets = images.to(device), targets.to(device)
        training.optimizer.zero_grad()
        scores, loss, descent = scores_and_losses(module(images), targets)
        if not math.isfinite(descent.item()):
            raise FineTuningError(
                f"the loss became {descent.item()} in epoch {len(training.history) + 1}; "
                "try a smaller --learning-rate. The epochs before are kept"
            )
        descent.backward()  # type: ignore[no-untyped-call]
        training.optimizer.step()
        total, seen = total + loss.item() * len(targets), seen + len(targets)
        right += int((scores.argmax(1) == targets).sum())
        bar.set_postfix(loss=f"{total / seen:.4f}", accuracy=f"{right / seen:.1%}", refresh=False)
    return total / seen, right / seen


@torch.inference_mode()
def evaluate(module: torch.nn.Module, loader: Loader) -> tuple[float, float]:
    """The mean loss, and the share of pictures that are named right, in eval mode.

    Raises:
        FineTuningError: a picture cannot be read, or the loss is no finite number.
    """
    device, total, right, seen = next(module.parameters()).device, 0.0, 0, 0
    module.eval()
    for images, targets in batches(loader):
        scores, loss, _ = scores_and_losses(module(images.to(device)), targets.to(device))
        total, seen = total + loss.item() * len(targets), seen + len(targets)
        right += int((scores.argmax(1).cpu() == targets).sum())
    if not math.isfinite(total):
        raise FineTuningError("the loss on the held-out pictures is not finite; try a smaller --learning-rate")
    return total / seen, right / seen
