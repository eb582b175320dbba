"""The attention of vision transformers, found on the autograd graph: the results of softmax over the last axis.

Neither classes of modules nor the spelling of the attention matter, because fused attention is computed openly here.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_unflatten

from handler.autograd.backward_contract import alike_in_memory
from handler.autograd.channel_layout import ChannelLayout
from handler.autograd.differentiable import differentiable
from handler.autograd.graph import Node, nodes, operation
from handler.explanation.methods import ATTENTION_ALONE, Method


@dataclass(frozen=True, kw_only=True)
class AttentionLayout:
    """Where a network's attention is, and which of its tokens are the picture's cells."""

    blocks: tuple[str, ...]  # module paths in the order in which the modules run, each with an attention of all tokens
    read: tuple[int, ...]  # indices of the last block's tokens that the scores are read from
    view: ChannelLayout  # the layout of the blocks' tokens


@dataclass(frozen=True, kw_only=True)
class Attended:
    """A forward pass with its attention, recorded for any number of backward passes."""

    scores: Tensor  # (N, K), the logits
    explained: Tensor  # (S, N, K), the scores whose sum is differentiated: the logits, or each block's scores
    attention: list[Tensor]  # (N, heads, T, T), of each block


def attention_nodes(scores: Tensor) -> list[Node]:
    """The nodes of softmax over the last axis of three dimensions or more, in the order of the forward pass."""
    found = [node for node in nodes(scores.grad_fn) if operation(node) in ("Softmax", "SafeSoftmax")]
    last = [node for node in found if node._saved_dim % _UNSIGNED in (node._saved_result.dim() - 1, _UNSIGNED - 1)]
    return sorted((node for node in last if node._saved_result.dim() > 2), key=lambda node: int(node._sequence_nr()))


_UNSIGNED = 2**64  # autograd shows a negative axis as an unsigned number


def attend(module: nn.Module, pictures: Tensor, layout: AttentionLayout, *, by_block: bool) -> Attended:
    """Runs the network once, and records its attention.

    For the scores of blocks, every block runs on a copy of the tokens before it, at which gradients end, and the layers
    behind the last block run on further rows: for each block, its tokens' mean in the place of every token.

    Args:
        module: the network, in eval mode.
        pictures: (N, 3, H, W), normalised.
        layout: of the network.
        by_block: whether the scores of each block's tokens are differentiated.
    """
    count, made = pictures.shape[0], list[Tensor]()
    axis = 3 - layout.view.batch_axis - layout.view.channel_axis

    def part(_block: nn.Module, _inputs: Any, output: Any) -> Any:
        leaves, structure = tree_flatten(output)
        made.append(leaves[layout.view.element])
        if len(made) < len(layout.blocks):
            following = made[-1].detach().requires_grad_()
        else:
            means = [tokens.mean(axis, keepdim=True).expand_as(tokens) for tokens in made]
            following = torch.cat([made[-1], *means], layout.view.batch_axis)
        leaves[layout.view.element] = following
        return tree_unflatten(leaves, structure)

    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(differentiable(module))
        for path in layout.blocks if by_block else ():
            stack.callback(module.get_submodule(path).register_forward_hook(part).remove)
        scores: Tensor = module(pictures.detach().requires_grad_().clone())
    attention = [node._saved_result for node in attention_nodes(scores)]
    by_turn = scores.unflatten(0, (-1, count))
    return Attended(scores=by_turn[0], explained=by_turn[1:] if made else by_turn, attention=attention)


def relevance(attended: Attended, layout: AttentionLayout, method: Method, classes: Tensor) -> Tensor:
    """The maps (N, h, w), unscaled, of a method that is made of attention.

    Args:
        attended: a recorded forward pass, for this method.
        layout: of the network.
        method: whose formula makes the maps.
        classes: (N,), the indices of the explained classes.
    """
    gradients: Sequence[Tensor] = ()
    if method.attention != ATTENTION_ALONE:
        turns, count, _ = attended.explained.shape
        score = attended.explained.gather(2, classes.expand(turns, count)[:, :, None]).sum()
        with alike_in_memory(score):
            gradients = torch.autograd.grad(score, attended.attention, retain_graph=True)
    with torch.no_grad():
        attention = [_by_head(shares, classes.shape[0]) for shares in attended.attention]
        read = torch.zeros(1, 1, attention[0].shape[-1]).to(attention[0])
        read[:, :, list(layout.read)] = 1 / len(layout.read)
        tokens = method.formula(attention, [_by_head(gradient, classes.shape[0]) for gradient in gradients], read)
        maps: Tensor = replace(layout.view, batch_axis=0, channel_axis=2).to_maps(tokens[:, :, None])[:, 0]
    return maps


def _by_head(values: Tensor, count: int) -> Tensor:
    """(N, heads, T, T), also of (N · heads, T, T)."""
    return values.reshape(count, -1, *values.shape[-2:])
