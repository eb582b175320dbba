"""A run of ``python -m examples.finetune``, from the options to the last message."""

import argparse
import hashlib
import sys
from dataclasses import fields
from pathlib import Path

import torch
from tqdm import tqdm

from examples.finetune.data import Pictures, find_pictures
from examples.finetune.errors import FineTuningError
from examples.finetune.loop import BEST, CURVES, LABELS, STATE, fine_tune, make_loaders
from examples.finetune.network import Network, build, find_start, freeze_all_but
from examples.finetune.options import SEEDS_ARCHITECTURE, make_parser
from examples.finetune.state import Epoch, Settings, Training, best_epoch, read_state, restore, seed_all
from handler.atomic_write import write_whole
from handler.errors import ServiceError
from handler.model.checkpoint import Checkpoint
from handler.picture.preprocess import Preprocessing

_SHOWN = 6  # names of weights in a line


def run(arguments: list[str] | None, description: str) -> int:
    """Begins or continues a run; prints a mistake in one line.

    Args:
        arguments: the words behind the command's name; None takes those that the process was started with.
        description: first line of the help text.

    Returns:
        The exit status: 0, 2 after a mistake, 130 after an interruption.
    """
    options = make_parser(description).parse_args(arguments)
    try:
        _run(options)
    except (ServiceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = "the epochs before this one are kept" if (options.out / STATE).exists() else "no epoch was complete yet"
        print(f"\ninterrupted: {kept}; the same command goes on from there", file=sys.stderr)
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    pictures = find_pictures(options.data)
    start, settings = _start(options, pictures)
    state = None if options.restart else read_state(options.out / STATE, settings)
    if state is not None and not (options.out / BEST).exists():
        raise FineTuningError(f"{options.out / BEST} of the run there is missing; --restart begins anew")
    if state is not None and len(state["history"]) >= options.epochs:
        return _conclude(options, [Epoch(**epoch) for epoch in state["history"]])
    shuffle = seed_all(options.seed)
    network = build(start)
    training = prepare(network, options, shuffle)
    if state is not None:
        restore(training, state)
    _introduce(pictures, start, network, len(training.history))
    loaders = make_loaders(
        pictures, start, training, seed=options.seed, batch_size=options.batch_size, workers=options.workers
    )
    if options.restart:  # only here is it certain that a new run can begin
        for name in (STATE, BEST, LABELS, CURVES):
            (options.out / name).unlink(missing_ok=True)
    write_whole(options.out / LABELS, "".join(f"{label}\n" for label in pictures.labels).encode())
    fine_tune(training, loaders, start, settings, epochs=options.epochs, out=options.out)
    return _conclude(options, training.history)


def _start(options: argparse.Namespace, pictures: Pictures) -> tuple[Checkpoint, Settings]:
    if options.checkpoint and options.checkpoint.resolve() == (options.out / BEST).resolve():
        raise FineTuningError(
            f"{options.checkpoint} would be overwritten by what it becomes; give another folder (--out)"
        )
    architecture = options.model or (None if options.checkpoint else SEEDS_ARCHITECTURE)
    start = find_start(architecture, options.weights, options.checkpoint, pictures.labels, options.size)
    return start, _settings(options, pictures, start)


def prepare(network: Network, options: argparse.Namespace, shuffle: torch.Generator) -> Training:
    """Moves the network to its device, and makes optimiser and schedule for the layers that learn."""
    module = network.module.to(options.device)
    if options.freeze:
        freeze_all_but(module, network.head)
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=options.learning_rate, momentum=options.momentum)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=options.step, gamma=options.gamma)
    return Training(module=module, optimizer=optimizer, schedule=schedule, shuffle=shuffle, history=[])


def _settings(options: argparse.Namespace, pictures: Pictures, start: Checkpoint) -> Settings:
    """The settings that decide the weights at the end of an epoch, without number of epochs, workers and device."""
    names = ("freeze", "batch_size", "learning_rate", "momentum", "step", "gamma", "seed")
    how = start.preprocessing
    preprocessing = {field.name: str(getattr(how, field.name)) for field in fields(Preprocessing)}
    return {
        "architecture": str(start.architecture),
        "start": _fingerprint(options.checkpoint) if options.checkpoint else str(options.weights),
        "classes": ", ".join(pictures.labels),
        "pictures": pictures.digest[:12],
        **preprocessing,
        **{f"--{name.replace('_', '-')}": getattr(options, name) for name in names},
    }


def _fingerprint(checkpoint: Path) -> str:
    with checkpoint.open("rb") as file:
        return f"{checkpoint.name} {hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"


def _introduce(pictures: Pictures, start: Checkpoint, network: Network, done: int) -> None:
    tqdm.write(
        f"{start.architecture}: {len(pictures.labels)} classes ({', '.join(pictures.labels[:_SHOWN])}"
        f"{', …' if len(pictures.labels) > _SHOWN else ''}), {len(pictures.train)} pictures to train on, "
        f"{len(pictures.val)} held out"
    )
    tqdm.write(f"  {start.preprocessing.describe() if start.preprocessing else ''}")
    if start.state:
        others = [name for name in network.fresh if name not in network.head]
        tqdm.write(f"  the head is new: {', '.join(sorted(network.head))}")
        if others:
            more = f", … ({len(others)} in all)" if len(others) > _SHOWN else ""
            tqdm.write(
                f"  not loaded either, because they do not fit or are missing: {', '.join(others[:_SHOWN])}{more}"
            )
    if done:
        tqdm.write(f"  continues after epoch {done}")


def _conclude(options: argparse.Namespace, history: list[Epoch]) -> None:
    best = best_epoch(history)
    count = f"{len(history)} epoch{'s' if len(history) > 1 else ''}"
    tqdm.write(
        f"finished: {count}; the best is {best.number}, with {best.val_accuracy:.1%} of the held-out pictures right. "
        f"A larger --epochs goes on, --restart begins anew\n"
        f"serve it: make archive CHECKPOINT={options.out / BEST} LABELS={options.out / LABELS} && make serve"
    )
