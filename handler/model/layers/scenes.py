"""Test pictures for networks: smooth coloured fields with fine grain."""

import torch
import torch.nn.functional as F
from torch import Tensor

_COARSE = 8  # cells of the fields, in each direction
_NUDGE = 0.01


def scenes(count: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Float32 pictures (count, C, H, W), spread about as normalised photographs; equal for equal arguments."""
    generator = torch.Generator().manual_seed(seed)
    fields = torch.randn(count, shape[0], _COARSE, _COARSE, generator=generator)
    grain = torch.randn(count, *shape, generator=generator)
    return F.interpolate(fields, shape[1:], mode="bicubic") + 0.3 * grain


def nudged(picture: Tensor, rows: slice, columns: slice) -> Tensor:
    """A copy of ``picture`` (1, C, H, W) with a little noise in some rows and columns.

    The noise is small, because a deep network answers a large change with changes everywhere. It is noise, because a
    smooth change would change a cell in fewer independent ways.
    """
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(3), dtype=picture.dtype)
    changed = picture.clone()
    changed[:, :, rows, columns] += _NUDGE * noise.to(picture.device)[:, :, rows, columns]
    return changed
