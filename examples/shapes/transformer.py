"""A small vision transformer for the drawn scenes: there are no ImageNet weights of a transformer in a package.

    python -m examples.shapes.transformer          # writes transformer.safetensors beside this file

The stem is convolutional, as torchvision's ``VisionTransformer`` offers: a transformer of this size learns shapes from
few pictures only so. Objects are larger than those of the embedded model, because its pictures have 64 pixels a side.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader
from torchvision.models.vision_transformer import ConvStemConfig, VisionTransformer
from tqdm import tqdm

from examples.shapes.outlines import LABELS
from examples.shapes.train import HELD_OUT, TRAIN, Drawings

SIDE, SIZES = 64, (0.35, 0.7)  # pixels of a picture, and the objects' longest sides as shares of it
WEIGHTS = Path(__file__).with_name("transformer.safetensors")
_BATCH, _PATCH, _WIDTH = 64, 8, 64


def network() -> nn.Module:
    """The network with random weights: 8 x 8 tokens of 64 channels, four blocks."""
    stem = [ConvStemConfig(out_channels=channels, kernel_size=3, stride=2) for channels in (16, 32, 64)]
    module: nn.Module = VisionTransformer(
        image_size=SIDE,
        patch_size=_PATCH,
        num_layers=4,
        num_heads=4,
        hidden_dim=_WIDTH,
        mlp_dim=2 * _WIDTH,
        num_classes=len(LABELS),
        conv_stem_configs=stem,
    )
    return module


def trained() -> nn.Module:
    """The network with the weights of this folder, in eval mode."""
    module = network()
    module.load_state_dict(load_file(WEIGHTS))
    return module.eval().requires_grad_(False)


def train(steps: int, seed: int) -> nn.Module:
    """Trains from random weights on fresh pictures, with a progress bar, and returns the network in eval mode."""
    torch.manual_seed(seed)
    module = network().train()
    loader = DataLoader(Drawings(TRAIN, seed, 0, steps * _BATCH, SIDE, SIZES), batch_size=_BATCH, num_workers=1)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.02)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps, pct_start=0.1)
    right = 0.0
    for images, targets in (bar := tqdm(loader, desc=f"train at {SIDE} px", unit="batch")):
        logits = module(images)
        loss = nn.functional.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        rate.step()
        right = 0.98 * right + 0.02 * (logits.argmax(1) == targets).float().mean().item()
        bar.set_postfix(loss=f"{loss.item():.3f}", accuracy=f"{right:.3f}")
    return module.eval()


@torch.inference_mode()
def held_out_accuracy(module: nn.Module, seed: int, count: int = 1000) -> float:
    """Share of held-out pictures that the network names right."""
    loader = DataLoader(Drawings(HELD_OUT, seed, 0, count, SIDE, SIZES), batch_size=_BATCH)
    return sum(int((module(images).argmax(1) == targets).sum()) for images, targets in loader) / count


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    module = train(options.steps, options.seed)
    accuracy = held_out_accuracy(module, options.seed)
    notes = {"seed": str(options.seed), "held_out_accuracy": f"{accuracy:.4f}"}
    save_file(dict(module.state_dict()), options.output, notes)
    tqdm.write(f"held-out accuracy {accuracy:.4f}; wrote {options.output}")


if __name__ == "__main__":
    main()
