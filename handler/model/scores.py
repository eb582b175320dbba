"""Checks a classifier's scores: one finite logit per label, from which softmax makes probabilities."""

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

_SHAPING = ("View", "UnsafeView", "Squeeze", "Unsqueeze", "Permute", "Transpose", "Clone", "Alias", "ToCopy", "Slice")
_SATURATING = 1e4  # factor of an ordinary picture
_AT_AN_END = 1e-2  # the most distance from 0 or 1 of a saturated sigmoid
_LOGITS = "valid are logits, which Grad-CAM is defined on"


def check_scores(module: nn.Module, architecture: str, shape: tuple[int, int, int], classes: int | None) -> int:
    """Checks that a network answers pictures (C, H, W) with one finite logit per label, and counts them.

    ``classes`` is the number of labels; None allows any number of scores.

    Raises:
        ModelError: the network fails or answers otherwise; the message says how, and what is valid.
    """
    device = device_of(module)
    if device.type == "meta":
        raise ModelError(f"architecture {architecture} has no weights: its tensors are on the device meta")
    picture = scenes(1, shape, seed=2).to(device)
    scores = _run(module, picture, architecture)
    fault = _fault(scores, classes, lambda factor: _run(module, factor * picture, architecture))
    if fault:
        raise ModelError(f"architecture {architecture} {fault}")
    return int(scores.shape[1])


def _fault(scores: Any, classes: int | None, run: Callable[[float], Tensor]) -> str:
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
    if scores.shape[1] == 1:
        return "has one score, and a softmax of one score is always 1; valid are at least two classes with a score each"
    if end := _end(scores, run(_SATURATING)):
        return (
            f"ends in a {end}; {_LOGITS}: remove the {end}, the probabilities are computed from the logits by a softmax"
        )
    return ""


def _run(module: nn.Module, picture: Tensor, architecture: str) -> Any:
    try:
        with torch.inference_mode(False), torch.enable_grad(), differentiable(module):
            scores = module(picture.clone().requires_grad_().clone())
    except Exception as error:  # foreign code can raise any exception
        shape = tuple(picture.shape)
        raise ModelError(
            f"architecture {architecture} fails on a picture {shape} ({in_one_line(error)}); "
            f"valid is a network that takes float32 (N, {', '.join(map(str, shape[1:]))})"
        ) from error
    # a network may answer with its own memory
    return scores.clone() if isinstance(scores, Tensor) else scores


def _end(scores: Tensor, saturated: Tensor) -> str:
    """The name of the function that made the scores (1, K) of logits; empty if the scores are logits.

    ``saturated`` (1, K) are the scores of a picture with very large values.
    """
    node = scores.grad_fn
    while node is not None and operation(node) in _SHAPING:
        node = node.next_functions[0][0]
    last = "" if node is None else operation(node)
    scores = scores.detach().double()
    both = torch.cat([scores, saturated.detach().double()])
    if last == "Softmax" or bool((scores >= 0).all() and (scores.sum(1) - 1).abs().max() < 1e-4):
        return "softmax"
    if last == "LogSoftmax" or bool(scores.logsumexp(1).abs().max() < 1e-4):
        return "log-softmax"
    if last == "LogSigmoid":
        return "log-sigmoid"
    at_ends = (both[1:] - both[1:].round()).abs().max() < _AT_AN_END
    if last in ("Sigmoid", "Hardsigmoid") or bool((both >= 0).all() and (both <= 1).all() and both.any() and at_ends):
        return "sigmoid"
    return ""
