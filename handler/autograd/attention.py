"""The attention of vision transformers: the results of softmax on the autograd graph, however it is spelt."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from handler.autograd.differentiable import differentiable
from handler.autograd.graph import Node, axes, gradients_at, nodes, operation
from handler.autograd.layer_maps import ChannelLayout, changed_runs
from handler.explanation.methods import ATTENTION_ALONE, Method


@dataclass(frozen=True)
class AttentionLayout:
    """Where a network's attention is, and which of its tokens are the picture's cells."""

    blocks: tuple[str, ...]  # module paths in the order of the forward pass, each with an attention between all tokens
    read: tuple[int, ...]  # indices of the last block's tokens that the scores are read from
    view: ChannelLayout  # the layout of the blocks' tokens


class Attended(NamedTuple):
    """A forward pass, recorded for any number of backward passes."""

    scores: Tensor  # (N, K), the logits
    explained: Tensor  # (S, N, K), the scores whose sum is differentiated: the logits, or each block's scores
    attention: list[Tensor]  # (N, heads, T, T) or (N · heads, T, T), of each block


def attention_nodes(scores: Tensor) -> list[Node]:
    """The nodes of softmax over the last axis of three dimensions or more, in the order of the forward pass."""
    softmax = [node for node in nodes(scores.grad_fn) if operation(node) in ("Softmax", "SafeSoftmax")]
    sizes = [(node, node._saved_result.dim()) for node in softmax]
    found = [node for node, size in sizes if size > 2 and axes([node._saved_dim], size) == [size - 1]]
    return sorted(found, key=lambda node: int(node._sequence_nr()))


def attend(module: nn.Module, pictures: Tensor, layout: AttentionLayout, *, by_block: bool) -> Attended:
    """Runs a network in eval mode once on pictures (N, C, H, W), and records its attention.

    With ``by_block`` gradients end between the blocks, and the layers behind the last block run on further rows: for
    each block, the mean of its tokens in the place of every token. Their scores are the block's.
    """
    view, made = layout.view, list[Tensor]()

    def part(tokens: Tensor, _run: int) -> Tensor:
        made.append(tokens)
        if len(made) < len(layout.blocks):
            return tokens.detach().requires_grad_()
        axis = 3 - view.batch_axis - view.channel_axis
        return torch.cat([tokens, *[each.mean(axis, keepdim=True).expand_as(each) for each in made]], view.batch_axis)

    # fused attention has no softmax
    with ExitStack() as stack, sdpa_kernel(SDPBackend.MATH), differentiable(module):
        for path in layout.blocks if by_block else ():
            stack.enter_context(changed_runs(module, path, view, part))
        rows = module(pictures.detach().requires_grad_().clone())
    scores = rows.unflatten(0, (-1, pictures.shape[0]))
    return Attended(scores[0], scores[1:] if by_block else scores, [at._saved_result for at in attention_nodes(rows)])


def relevance(attended: Attended, layout: AttentionLayout, method: Method, seeds: Tensor) -> Tensor:
    """The unscaled maps (N, h, w) that a method makes of attention, for scores of the weights ``seeds`` (N, K)."""
    gradients: Sequence[Any] = ()
    if method.attention != ATTENTION_ALONE:
        gradients = gradients_at(attended.attention, (attended.explained * seeds).sum())
    with torch.no_grad():
        attention, gradients = (  # (N, heads, T, T) of each block
            [values.reshape(seeds.shape[0], -1, *values.shape[-2:]) for values in part]
            for part in (attended.attention, gradients)
        )
        read = torch.zeros_like(attention[0][:1, 0, :1])  # (1, 1, T)
        read[:, :, list(layout.read)] = 1 / len(layout.read)
        tokens = method.formula(attention, gradients, read)
        return replace(layout.view, batch_axis=0, channel_axis=2).to_maps(tokens[:, :, None])[:, 0]
