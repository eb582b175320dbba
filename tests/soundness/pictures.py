"""Pictures of different content, and one with an object at several places."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_LOW, _HIGH = -1.8, 1.8  # about the range of normalised pictures
EDGES = {"upper": (1, False), "lower": (1, True), "left": (2, False), "right": (2, True)}  # axis of (3, H, W), far end


def pictures(count: int, side: int, seed: int = 5) -> Tensor:
    """Smooth random colour fields with some grain: float32 (count, 3, side, side)."""
    random = torch.Generator().manual_seed(seed)
    fields = [_field(cells, side, random) for cells in torch.randint(3, 9, (count,), generator=random).tolist()]
    return torch.stack(fields) + 0.1 * torch.randn(count, 3, side, side, generator=random)


def _field(cells: int, side: int, random: torch.Generator) -> Tensor:
    coarse = torch.rand(1, 3, cells, cells, generator=random) * (_HIGH - _LOW) + _LOW
    return F.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False)[0]


def with_object(base: Tensor, per_axis: int = 4, share: float = 0.1, seed: int = 6) -> tuple[Tensor, Tensor]:
    """A faint textured square moved over a picture, from edge to edge: a strong one changes whole deep networks.

    Args:
        base: (1, 3, H, W).
        per_axis: places in each direction.
        share: of the square's texture in the mixture with the picture.
        seed: of the texture.

    Returns:
        Pictures (P, 3, H, W) and the square's centres (P, 2), y and x as parts of the side.
    """
    side = base.shape[-1]
    size = max(side // 4, 2)
    texture = torch.rand(3, size, size, generator=torch.Generator().manual_seed(seed)).round() * (_HIGH - _LOW) + _LOW
    corners = [round(number * (side - size) / (per_axis - 1)) for number in range(per_axis)]
    found, centres = [], []
    for top in corners:
        for left in corners:
            picture = base[0].clone()
            below = picture[:, top : top + size, left : left + size]
            below += share * (texture - below)
            found.append(picture)
            centres.append(((top + size / 2) / side, (left + size / 2) / side))
    return torch.stack(found), torch.tensor(centres, dtype=torch.float64)


def with_edges(base: Tensor) -> Tensor:
    """(4, 3, H, W): the picture (1, 3, H, W) with a strip of a sixteenth of its side painted over, at each edge."""
    side = base.shape[-1]
    found = base.repeat(4, 1, 1, 1)
    for picture, (axis, far) in zip(found, EDGES.values(), strict=True):
        strip = picture.narrow(axis, side - side // 16 if far else 0, side // 16)
        strip.neg_()
    return found


def followed(changes_of: Callable[[Tensor, Tensor], Tensor], bases: Tensor) -> tuple[Tensor, Tensor]:
    """How cells change with the object's place, summed over two pictures with a texture each.

    A change that is chance in one picture does not repeat in the other.

    Args:
        changes_of: of one picture (1, 3, H, W) and others (P, 3, H, W), the changes of cells (P, h, w).
        bases: (2 or more, 3, H, W).

    Returns:
        Changes (P, h, w), each picture's on its own scale, and the object's centres.
    """
    total, centres = torch.zeros(()), torch.zeros(())
    for number, base in enumerate(bases[:2]):
        moved, centres = with_object(base[None], seed=number)
        changes = changes_of(base[None], moved).double()
        total = total + changes / changes.mean().clamp(min=1e-30)
    return total, centres
