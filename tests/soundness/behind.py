"""Maps behind a layer: outputs of later modules through which all of the picture still has to pass."""

from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from tests.soundness.pictures import with_object
from tests.soundness.place import find_place
from tests.soundness.reference import Reference

_MOST = 3  # of the last are looked at
CLEARLY = 0.9  # correlation from which cells are a map that should not have been passed over


@dataclass
class _Output:
    path: str
    tensor: Tensor
    runs: int = 1


def maps_behind(reference: Reference, picture: Tensor) -> list[str]:
    """Paths of later modules with weights that return a map of the picture in one of the usual layouts."""
    picture = picture.to(reference.dtype).clone().requires_grad_()
    outputs = _outputs(reference, picture)
    scores = outputs.pop("").tensor
    paths = list(outputs)
    (chosen,) = [one for one in outputs.values() if one.path == reference.layer] or [None]
    if chosen is None or chosen.tensor.grad_fn is None:
        return []
    later = [outputs[path] for path in paths[paths.index(reference.layer) + 1 :]]
    found = [one for one in later if one.runs == 1 and _is_another(one.tensor, chosen.tensor)]
    found = [one for one in found if _has_weights(reference, one.path) and _cuts(scores, one.tensor)]
    last = found[-_MOST:]
    mixture = torch.randn(scores.shape, generator=torch.Generator().manual_seed(0)).to(scores)
    gradients = torch.autograd.grad((scores * mixture).sum(), [one.tensor for one in last]) if last else ()
    return _follow(reference, picture.detach(), {one.path: its for one, its in zip(last, gradients, strict=True)})


def _outputs(reference: Reference, picture: Tensor) -> dict[str, _Output]:
    """Of every module that returns one tensor for the picture, in the order in which they finish."""
    found: dict[str, _Output] = {}

    def note(path: str, output: Any) -> None:
        if isinstance(output, Tensor) and (output.dim() in (3, 4) or not path):
            runs = found.pop(path).runs + 1 if path in found else 1
            found[path] = _Output(path, output, runs)

    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, path=path: note(path, output))
        for path, module in reference.module.named_modules()
    ]
    try:
        reference.module(picture.clone())
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _is_another(tensor: Tensor, chosen: Tensor) -> bool:
    """Whether it may be a map, and not the same one in another form."""
    if tensor.grad_fn is None or tensor.shape[0] != 1 or not _layouts(tensor):
        return False
    if tensor.numel() != chosen.numel():
        return True
    return not torch.equal(tensor.detach().flatten().sort().values, chosen.detach().flatten().sort().values)


def _has_weights(reference: Reference, path: str) -> bool:
    return next(reference.module.get_submodule(path).parameters(), None) is not None


def _cuts(scores: Tensor, tensor: Tensor) -> bool:
    """Whether every way from the scores down to the picture leads through the tensor."""
    waiting, seen = [scores.grad_fn], {tensor.grad_fn}
    while waiting:
        node = waiting.pop()
        if node in seen or node is None:
            continue
        if node.name() == "torch::autograd::AccumulateGrad":
            return False
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
    return True


def _layouts(tensor: Tensor) -> list[Tensor]:
    """As (C, h, w), in each way in which the tensor (1, …) can be read."""
    one = tensor[0]
    if one.dim() == 3:
        both = [one, one.movedim(-1, 0)]
        return [maps for maps in both if maps.shape[1] == maps.shape[2] > 1]
    found = []
    for others in range(6):
        side = isqrt(max(len(one) - others, 0))
        if side > 1 and side * side == len(one) - others:
            found.append(one[others:].T.unflatten(1, (side, side)))
    return found


def _follow(reference: Reference, base: Tensor, gradients: dict[str, Tensor]) -> list[str]:
    if not gradients:
        return []

    def read(one: Tensor) -> dict[str, list[Tensor]]:
        with torch.no_grad():
            outputs = _outputs(reference, one)
        return {path: _layouts(outputs[path].tensor) for path in gradients}

    moved, centres = with_object(base)
    first, others = read(base), [read(one[None]) for one in moved]
    found = []
    for path, gradient in gradients.items():
        for number, maps in enumerate(first[path]):
            if not bool(_layouts(gradient)[number].any()):  # cells that the scores do not read
                continue
            changes = torch.stack([(one[path][number] - maps).norm(dim=0) for one in others])
            if not find_place(changes.double(), centres, CLEARLY).wrong:
                found.append(path)
                break
    return found
