"""Whether cells lie where the picture's content lies: an object is moved, and the change of the cells follows it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

FOLLOWS = 0.5  # least correlation of the change's centre with the object's, in each direction
FOLLOWS_A_LITTLE = 0.2  # the same of maps of fewer than 25 cells, each of which sees the whole picture
SEEN = 1e-4  # least change for an object at an edge, as a part of the largest


@dataclass
class Place:
    """What was found."""

    wrong: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)


def find_place(changes: Tensor, centres: Tensor, least: float = FOLLOWS) -> Place:
    """Compares where the cells change with where the object is.

    Args:
        changes: (P, h, w), of each cell, for each of P places of the object.
        centres: (P, 2), the object's y and x, as parts of the side.
        least: correlation of the change's centre with the object's, in each direction.
    """
    _, height, width = changes.shape
    least = min(least, FOLLOWS_A_LITTLE) if least == FOLLOWS and height * width < 25 else least
    whole = changes.flatten(1).norm(dim=1)
    if not float(whole.max()) > 0:
        return Place(["the cells do not depend on the picture"])
    # by each cell's mean: some change much wherever the object is; then what is above the mean over the cells
    relative = changes / changes.mean(0, keepdim=True).clamp(min=1e-30)
    above = (relative - relative.mean((1, 2), keepdim=True)).clamp(min=0)
    found = _centre(above)
    both = torch.corrcoef(torch.cat([centres, found], dim=1).T).nan_to_num()[:2, 2:]  # object's by change's, y and x
    place = Place(figures={"y": round(float(both[0, 0]), 2), "x": round(float(both[1, 1]), 2)})
    for axis, name, size in ((0, "up and down", height), (1, "left and right", width)):
        if size == 1:
            continue
        its, other = float(both[axis, axis]), float(both[1 - axis, axis])
        if its < -least:
            place.wrong.append(f"the cells are mirrored {name}")
        elif other > least and its < least:
            place.wrong.append("the cells' axes are exchanged")
        elif its < least:
            place.wrong.append(f"the cells do not follow an object that moves {name}: correlation {its:.2f}")
    unseen = whole < SEEN * whole.max()
    if bool(unseen.any()):
        place.wrong.append(f"an object at {int(unseen.sum())} of {len(whole)} places changes no cell")
    return place


def _centre(weights: Tensor) -> Tensor:
    """(P, 2), y and x as parts of the side, of weights (P, h, w)."""
    _, height, width = weights.shape
    weights = weights / weights.sum((1, 2), keepdim=True).clamp(min=1e-30)
    y, x = (((torch.arange(size) + 0.5) / size).double() for size in (height, width))
    return torch.stack([(weights.sum(2) * y).sum(1), (weights.sum(1) * x).sum(1)], dim=1)
