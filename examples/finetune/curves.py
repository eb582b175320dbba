"""Draws loss and accuracy over the epochs."""

import io
from pathlib import Path

from matplotlib.figure import Figure

from examples.finetune.state import Epoch, best_epoch
from handler.atomic_write import write_whole


def draw_curves(history: list[Epoch], path: Path) -> None:
    """Writes a PNG with the loss on the left and the accuracy on the right; needs no display."""
    figure = Figure(figsize=(10, 4), layout="constrained")  # without pyplot, which would need a screen
    numbers, best = [epoch.number for epoch in history], best_epoch(history)
    for axes, what, unit in zip(figure.subplots(1, 2), ("loss", "accuracy"), ("nats", "share"), strict=True):
        for part in ("train", "val"):
            axes.plot(numbers, [getattr(epoch, f"{part}_{what}") for epoch in history], marker=".", label=part)
        axes.axvline(best.number, color="grey", linestyle=":", label=f"best epoch: {best.number}")
        axes.set(xlabel="epoch", ylabel=f"{what} ({unit})")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_whole(path, buffer.getvalue())
