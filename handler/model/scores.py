"""Checks a classifier's scores: one finite logit per label, from which the head makes probabilities."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from handler.autograd.differentiable import differentiable
from handler.autograd.graph import operation
from handler.autograd.torch_engine import device_of
from handler.errors import ModelError, in_one_line
from handler.model.custom_architecture import described
from handler.model.layers.scenes import scenes

_SHAPING = (
    *("View", "UnsafeView", "Squeeze", "Unsqueeze", "Permute", "Transpose", "Clone", "Alias"),
    *("ToCopy", "Slice", "Cat"),
)
_SATURATING = 1e4  # factor of an ordinary picture
_AT_AN_END = 1e-2  # the most distance from 0 or 1 of a saturated sigmoid


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
    if fault := _fault(scores, classes, lambda factor: answer(module, architecture, shape, factor), head):
        raise ModelError(f"architecture {architecture} {fault}")
    return int(scores.shape[1])


def _fault(scores: Any, classes: int | None, run: Callable[[float], Tensor], head: str) -> str:
    """What is wrong with a picture's scores, and what is valid; empty if nothing is. Runs the picture times factors."""
    valid = f"valid is one tensor of float32 scores (N, {classes or 'K'}), one score per label"
    if not isinstance(scores, Tensor):
        return f"answers with {described(scores)}, {valid}"
    if scores.dim() != 2 or scores.shape[0] != 1 or not scores.is_floating_point():
        return f"answers one picture with {scores.dtype} {tuple(scores.shape)}, {valid}"
    if classes not in (None, scores.shape[1]):
        return f"scores {scores.shape[1]} classes, but there are {classes} labels; {valid}"
    if not bool(scores.isfinite().all()):
        return f"answers a picture with scores that are not finite; {valid}"
    if not torch.allclose(scores, run(1), rtol=1e-4, atol=1e-5):
        return (
            "answers the same picture differently each time, even in eval mode; valid is a network that neither draws "
            "random numbers nor changes its own state: F.dropout needs training=self.training"
        )
    if scores.shape[1] == 1 and head == "softmax":
        return (
            "has one score, and a softmax of one score is always 1; valid are at least two classes with a score each, "
            "or head=binary, the sigmoid of one score"
        )
    if end := _end(scores, run(_SATURATING)):
        right, axis = ("sigmoid (binary for one score)", "") if "sigmoid" in end else ("softmax", "1")
        return (
            f"ends in a {end}; valid are logits, which Grad-CAM is defined on: remove the {end}, or let it be the "
            f"network's last module, such as nn.{end.title().replace('-', '')}({axis}); head={right} computes the "
            "probabilities from the logits"
        )
    return ""


def answer(module: nn.Module, architecture: str, shape: tuple[int, int, int], factor: float = 1) -> Any:
    """What a network returns for a picture (C, H, W), times a factor; recorded by autograd, or a ModelError."""
    picture = factor * scenes(1, shape, seed=2).to(device_of(module))
    try:
        with torch.inference_mode(False), torch.enable_grad(), differentiable(module):
            return module(picture.clone().requires_grad_().clone())
    except Exception as error:  # foreign code can raise any exception
        raise ModelError(
            f"architecture {architecture} fails on a picture {(1, *shape)} ({in_one_line(error)}); "
            f"valid is a network that takes float32 (N, {', '.join(map(str, shape))})"
        ) from error


def _end(scores: Tensor, saturated: Tensor) -> str:
    """The function that made the scores (1, K), and those of a picture with very large values; empty for logits."""
    node = scores.grad_fn
    while node is not None and operation(node) in _SHAPING:
        node = node.next_functions[-1][0]
    last = "" if node is None else operation(node)
    both = torch.cat([scores, saturated]).detach().double()
    if both.shape[1] == 2 and torch.equal(both[:, 0], -both[:, 1]):  # one score s as (-s, s)
        both = both[:, 1:]
    scores, several = both[:1], both.shape[1] > 1
    if last == "Softmax" or several and bool((scores >= 0).all() and (scores.sum(1) - 1).abs().max() < 1e-4):
        return "softmax"
    if last == "LogSoftmax" or several and bool(scores.logsumexp(1).abs().max() < 1e-4):
        return "log-softmax"
    if last == "LogSigmoid":
        return "log-sigmoid"
    at_ends = (both[1:] - both[1:].round()).abs().max() < _AT_AN_END
    if last in ("Sigmoid", "Hardsigmoid") or bool((both >= 0).all() and (both <= 1).all() and both.any() and at_ends):
        return "sigmoid"
    return ""
