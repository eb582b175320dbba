"""Trains the embedded model, a shufflenet_v2_x0_5 with ten shapes as classes, on pictures that it draws itself.

    python -m examples.shapes.train          # writes shapes.safetensors beside this file

The network sees small pictures first and pictures of the served size last, which takes a quarter of the time of
training at the served size alone. The served size is 320 rather than the usual 224, because the map has a cell every 32
pixels and the smallest objects are a sixth of the side: at 224 a cell is as large as these objects, and the peak of the
map often falls beside them.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from examples.shapes.draw import SIZES, draw_random
from examples.shapes.outlines import LABELS
from handler.model.checkpoint import Checkpoint, write_checkpoint
from handler.picture.preprocess import Preprocessing

ARCHITECTURE = "shufflenet_v2_x0_5"
CHECKPOINT = Path(__file__).with_name("shapes.safetensors")
PREPROCESSING = Preprocessing(
    resize_size=320,
    crop_size=320,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    interpolation="bilinear",
)
TRAIN, HELD_OUT = 0, 1  # second part of a picture's seed, so that no held-out picture is ever trained on


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of training at one picture size."""

    side: int  # pixels
    sizes: tuple[float, float]  # smallest and largest object, as shares of the side
    pictures: int
    highest_rate: float  # learning rate at the top of the one-cycle schedule


SCHEDULE = (
    Phase(side=128, sizes=(SIZES[0] * 224 / 128, 0.9), pictures=140_000, highest_rate=1.2e-2),  # pixels as at 224
    Phase(side=224, sizes=(SIZES[0], 0.75), pictures=40_000, highest_rate=6e-3),
    Phase(side=224, sizes=SIZES, pictures=16_000, highest_rate=2e-3),
    Phase(side=PREPROCESSING.size[0], sizes=SIZES, pictures=8_000, highest_rate=1e-3),
)


class Drawings(Dataset[tuple[torch.Tensor, int]]):
    """One-object pictures, each drawn from its own seed: (3, side, side) float32, normalised, and the class index."""

    def __init__(
        self,
        split: int,
        seed: int,
        start: int,
        count: int,
        side: int,
        sizes: tuple[float, float] = SIZES,
    ) -> None:
        self._split, self._seed, self._start, self._count = split, seed, start, count
        self._side, self._sizes = side, sizes

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        rng = np.random.default_rng([self._seed, self._split, self._start + index])
        picture = draw_random(rng, side=self._side, sizes=self._sizes)
        return torch.from_numpy(PREPROCESSING.normalise(picture.image)), LABELS.index(picture.things[0].label)


def train(seed: int, schedule: tuple[Phase, ...] = SCHEDULE) -> nn.Module:
    """Trains from random weights, with one progress bar per phase, and returns the network in eval mode."""
    torch.manual_seed(seed)
    model: nn.Module = torchvision.models.get_model(ARCHITECTURE, weights=None, num_classes=len(LABELS))
    drawn = 0
    for phase in schedule:
        _train_phase(model, phase, seed, start=drawn)
        drawn += phase.pictures
    return model.eval().to(memory_format=torch.contiguous_format)


def _train_phase(model: nn.Module, phase: Phase, seed: int, start: int) -> None:
    drawings = Drawings(TRAIN, seed, start, phase.pictures, phase.side, phase.sizes)
    loader = DataLoader(drawings, batch_size=64, num_workers=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=phase.highest_rate, betas=(0.9, 0.95), weight_decay=0.02)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=phase.highest_rate, total_steps=len(loader), pct_start=0.1
    )
    model.train().to(memory_format=torch.channels_last)  # a sixth faster on CPUs
    right = 0.0
    for images, targets in (bar := tqdm(loader, desc=f"train at {phase.side} px", unit="batch")):
        logits = model(images.contiguous(memory_format=torch.channels_last))
        loss = nn.functional.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rate.step()
        right = 0.98 * right + 0.02 * (logits.argmax(1) == targets).float().mean().item()
        bar.set_postfix(loss=f"{loss.item():.3f}", accuracy=f"{right:.3f}")


@torch.inference_mode()
def held_out_accuracy(model: nn.Module, seed: int, count: int) -> float:
    """Share of ``count`` held-out pictures of the served size whose class the model names right."""
    drawings = Drawings(HELD_OUT, seed, 0, count, PREPROCESSING.size[0])
    loader = DataLoader(drawings, batch_size=64, num_workers=1)
    right = sum(int((model(images).argmax(1) == targets).sum()) for images, targets in tqdm(loader, desc="held out"))
    return right / count


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--held-out", type=int, default=5000, help="number of fresh pictures for the accuracy")
    parser.add_argument("--output", type=Path, default=CHECKPOINT)
    arguments = parser.parse_args()
    model = train(arguments.seed)
    accuracy = held_out_accuracy(model, arguments.seed, arguments.held_out)
    notes = {
        "seed": str(arguments.seed),
        "held_out_accuracy": f"{accuracy:.4f}",
        "held_out_pictures": str(arguments.held_out),
    }
    write_checkpoint(
        arguments.output,
        Checkpoint(
            architecture=ARCHITECTURE,
            labels=LABELS,
            preprocessing=PREPROCESSING,
            state=dict(model.state_dict()),
            notes=notes,
        ),
    )
    tqdm.write(f"held-out accuracy {accuracy:.4f}; wrote {arguments.output}")


if __name__ == "__main__":
    main()
