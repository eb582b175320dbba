"""Pictures to look at a network with: smooth coloured fields with fine grain, of different content."""

import torch
import torch.nn.functional as F
from torch import Tensor

_COARSE = 8  # cells of the fields, in each direction
_NUDGE = 0.01


def scenes(count: int, side: int, seed: int = 0) -> Tensor:
    """(count, 3, side, side), float32, of about the spread of normalised pictures; the same for the same arguments."""
    generator = torch.Generator().manual_seed(seed)
    fields = torch.randn(count, 3, _COARSE, _COARSE, generator=generator)
    grain = torch.randn(count, 3, side, side, generator=generator)
    return F.interpolate(fields, (side, side), mode="bicubic") + 0.3 * grain


def nudged(picture: Tensor, other: Tensor, rows: slice, columns: slice) -> Tensor:
    """A copy of ``picture`` (1, 3, H, W) whose rows and columns lie a little nearer to those of ``other``.

    A little, because a deep network answers a large change with changes everywhere.
    """
    changed = picture.clone()
    changed[:, :, rows, columns] = picture[:, :, rows, columns].lerp(other[:, :, rows, columns], _NUDGE)
    return changed
