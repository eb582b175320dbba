"""How scores are read from what a network returns, and whether they are one finite logit per label.

A reading says which output has the scores, leaves out a last activation, and makes two scores of one.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from handler.autograd.differentiable import differentiable
from handler.autograd.graph import operation
from handler.autograd.torch_engine import device_of
from handler.errors import ModelError, foreign_code
from handler.model.custom_architecture import described
from handler.model.layers.looking import scenes

HEADS = ("softmax", "sigmoid", "binary")
_HEAD_OF = {nn.Softmax: "softmax", nn.LogSoftmax: "softmax", nn.Sigmoid: "sigmoid", nn.LogSigmoid: "sigmoid"}
_SHAPING = "View UnsafeView Squeeze Unsqueeze Permute Transpose Clone Alias ToCopy Slice Cat"  # by autograd's names
_SATURATING = 1e4  # factor of an ordinary picture
_AT_AN_END = 1e-2  # the most distance from 0 or 1 of a saturated sigmoid


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How scores are read from what a network returns, and what makes probabilities of them."""

    head: str = "softmax"  # or "sigmoid"
    output: str = ""  # key, attribute or index of the scores; empty if the network returns one tensor
    end: str = ""  # path of the last module, an activation: scores are what it is given, not what it returns
    binary: bool = False  # whether a network's only score s becomes the scores (-s, s)
    words: str = ""  # the same for people; empty if scores are what the network returns

    def attach(self, module: nn.Module) -> ExitStack:
        """Makes a network return its scores, by hooks that stay until the stack is closed; its weights stay as well."""
        stack = ExitStack()
        if self.end:
            end = module.get_submodule(self.end)
            stack.callback(end.register_forward_hook(lambda _module, given, _returned: given[0]).remove)
        if self.output or self.binary:
            stack.callback(module.register_forward_hook(self._read).remove)
        return stack

    def _read(self, _module: nn.Module, _given: Any, returned: Any) -> Any:
        scores = _named(returned)[self.output] if self.output else returned
        return torch.cat((-scores.reshape(-1, 1), scores.reshape(-1, 1)), 1) if self.binary else scores


def find_reading(
    module: nn.Module, architecture: str, shape: tuple[int, int, int], classes: int | None, head: str, output: str
) -> Reading:
    """Runs a network in eval mode on a picture (C, H, W), and finds out how its scores are read.

    ``classes`` is the number of labels; None allows any number. ``head`` is "softmax"; "sigmoid", by which each class
    has a probability of its own; "binary", a sigmoid of one score, which is that of the second of two labels, or of the
    only label; empty takes the network's last activation. ``output`` is the key, attribute or index of the scores in
    what the network returns; empty if there is one tensor. A ModelError says that the network fails, has no such
    output, or has several and none is named, or that the head does not fit.
    """
    if head not in ("", *HEADS):
        raise ModelError(f"head={head} is not valid, valid are {', '.join(HEADS)}")
    paths = {part: path for path, part in module.named_modules() if type(part) in _HEAD_OF}
    seen: dict[nn.Module, list[Any]] = {part: [] for part in paths}
    with ExitStack() as stack:
        for part in paths:
            stack.callback(part.register_forward_hook(lambda part, _, returned: seen[part].append(returned)).remove)
        scores, output = _chosen(answer(module, architecture, shape), output, architecture)
    last = [part for part, found in seen.items() if part is not module and len(found) == 1 and found[0] is scores]
    part = next((part for part in last if getattr(part, "dim", 1) in (None, 1, -1)), None)
    end, own = (paths[part], _HEAD_OF[type(part)]) if part else ("", "")
    count = scores.numel() if isinstance(scores, Tensor) else 0
    if own and head and (own == "softmax") != (head == "softmax"):
        raise ModelError(f"architecture {architecture} ends in {described(part)} ({end}), so head={own} is valid")
    if head == "binary" and (count != 1 or classes not in (None, 1, 2)):
        valid = "valid with head=binary are one score and two labels, the negative first, or one"
        valid += "; several scores go with head=softmax or head=sigmoid"
        raise ModelError(f"architecture {architecture} has {count} scores and {classes or 'no'} labels, {valid}")
    binary, words = head == "binary" and classes != 1, [f"the output {output}"] * bool(output)
    words += [f"before the {type(part).__name__} at {end}"] * bool(end) + ["the score s as (-s, s)"] * binary
    head = own or head.replace("binary", "sigmoid") or "softmax"
    return Reading(head=head, output=output, end=end, binary=binary, words=", ".join(words))


def _named(returned: Any) -> dict[str, Any]:
    """The parts of what a network returned by key or attribute, and by index."""
    if isinstance(returned, (list, tuple)) and not hasattr(returned, "_asdict"):
        return {str(index): value for index, value in enumerate(returned)}
    known: Any = returned._asdict() if hasattr(returned, "_asdict") else returned
    names = known if isinstance(known, Mapping) else getattr(known, "__dict__", {})
    named = {str(name): value for name, value in names.items()}
    return {**named, **{str(index): value for index, value in enumerate(names.values())}, **named}  # keys go first


def _chosen(returned: Any, output: str, architecture: str) -> tuple[Any, str]:
    """The scores in what a network returned, and their name there."""
    parts = {} if isinstance(returned, Tensor) else _named(returned)
    named = {name: value for name, value in parts.items() if isinstance(value, Tensor)}
    if output in named:
        return named[output], output
    held = f"{described(parts[output])}, no tensor, as" if output in parts else "no"
    listed = [*{id(value): name for name, value in reversed(named.items())}.values()][::-1]  # a tensor is named once
    if not output and len(listed) < 2:
        return next(((named[name], name) for name in listed), (returned, ""))
    shapes = ", ".join(f"{name} {tuple(named[name].shape)}" for name in listed)
    valid = "no part of it is a tensor" if parts else "leave output= out"
    valid = f"valid is output= with the name of the scores: {shapes}" if shapes else valid
    what = f"has {held} output {output!r} in {described(returned)}" if output else f"answers with {described(returned)}"
    raise ModelError(f"architecture {architecture} {what}; {valid}")


def check_scores(
    module: nn.Module, architecture: str, shape: tuple[int, int, int], classes: int | None, *, head: str = "softmax"
) -> int:
    """Checks that a network answers pictures (C, H, W) with one finite logit per label, and counts them.

    ``classes`` is the number of labels; None allows any number of scores. ``head`` is "softmax" or "sigmoid". A
    ModelError says how the network fails or answers otherwise, and what is valid.
    """
    if device_of(module).type == "meta":
        raise ModelError(f"architecture {architecture} has no weights: its tensors are on the device meta")
    scores = answer(module, architecture, shape)
    scores = scores.clone() if isinstance(scores, Tensor) else scores  # a network may answer with its own memory
    fault, valid = "", f"valid is one tensor of float32 scores (N, {classes or 'K'}), one score per label"
    valid += ", or head=binary, the sigmoid of one score" * (classes == 2)
    if not isinstance(scores, Tensor):
        fault = f"answers with {described(scores)}, {valid}"
    elif scores.dim() != 2 or scores.shape[0] != 1 or not scores.is_floating_point():
        fault = f"answers one picture with {scores.dtype} {tuple(scores.shape)}, {valid}"
    elif classes not in (None, scores.shape[1]):
        fault = f"scores {scores.shape[1]} classes, but there are {classes} labels; {valid}"
    elif not bool(scores.isfinite().all()):
        fault = f"answers a picture with scores that are not finite; {valid}"
    elif not torch.allclose(scores, answer(module, architecture, shape), rtol=1e-4, atol=1e-5):
        valid = "valid is a network that neither draws random numbers nor changes its own state"
        fault = "answers the same picture differently each time, even in eval mode"
        fault += f"; {valid}: F.dropout needs training=self.training"
    elif scores.shape[1] == 1 and head == "softmax":
        valid = "valid are at least two classes with a score each, or head=binary, the sigmoid of one score"
        fault = f"has one score, and a softmax of one score is always 1; {valid}"
    elif end := _end(scores, answer(module, architecture, shape, _SATURATING)):
        right, axis = ("sigmoid (binary for one score)", "") if "sigmoid" in end else ("softmax", "1")
        last = f"let it be the network's last module, such as nn.{end.title().replace('-', '')}({axis})"
        valid = f"valid are logits, which Grad-CAM is defined on: remove the {end}, or {last}"
        fault = f"ends in a {end}; {valid}; head={right} computes the probabilities from the logits"
    if fault:
        raise ModelError(f"architecture {architecture} {fault}")
    return int(scores.shape[1])


def answer(module: nn.Module, architecture: str, shape: tuple[int, int, int], factor: float = 1) -> Any:
    """What a network returns for a picture (C, H, W), times a factor; recorded by autograd, or a ModelError."""
    picture = factor * scenes(1, shape, seed=2).to(device_of(module))
    what = f"architecture {architecture} fails on a picture {(1, *shape)}"
    failing = foreign_code(what, f"valid is a network that takes float32 (N, {', '.join(map(str, shape))})")
    with failing, torch.inference_mode(False), torch.enable_grad(), differentiable(module):
        return module(picture.clone().requires_grad_().clone())


def _end(scores: Tensor, saturated: Tensor) -> str:
    """The function that made the scores (1, K), and those of a picture with very large values; empty for logits."""
    node = scores.grad_fn
    while node is not None and operation(node) in _SHAPING.split():
        node = node.next_functions[-1][0]
    last = "" if node is None else operation(node)
    both = torch.cat([scores, saturated]).detach().double()
    if both.shape[1] == 2 and torch.equal(both[:, 0], -both[:, 1]):  # one score s as (-s, s)
        both = both[:, 1:]
    scores, several = both[:1], both.shape[1] > 1
    total, later = both.sum(1)
    moved = (both[0] - both[1]).abs().max() > _AT_AN_END * total  # unlike a bias alone, whose sum is constant, too
    shares = (total - 1).abs() < 1e-4 or bool((both >= 0).all() and (total - later).abs() < 1e-4 * total and moved)
    if last == "Softmax" or several and bool((scores >= 0).all() and shares):
        return "softmax"
    if last == "LogSoftmax" or several and bool(scores.logsumexp(1).abs().max() < 1e-4):
        return "log-softmax"
    powers = both[1].exp()
    plain, logarithmic = ((ends - ends.round()).abs().max() < _AT_AN_END for ends in (both[1], powers))
    apart = powers.max() - powers.min() > 0.5 and (scores < 0).all()  # real logits may be all far below 0, or all near
    if last == "LogSigmoid" or bool((both <= 0).all()) and (last == "Log" or bool(logarithmic and apart)):
        return "log-sigmoid"
    if last in ("Sigmoid", "Hardsigmoid") or bool((both >= 0).all() and (both <= 1).all() and both.any() and plain):
        return "sigmoid"
    return ""
