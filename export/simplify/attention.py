"""Attention in which biases, masks and scales, which do not depend on the picture, are constants.

torchvision's modules compute queries, keys and values in one product, and the masks of shifted windows in every run;
the backward passes of both are scatters. Here queries, keys and values have a layer each, and masks are in the bias.
ViT: Dosovitskiy et al., arXiv 2010.11929; Swin: Liu et al., 2103.14030, 2111.09883; MaxViT: Tu et al., 2204.01697.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.maxvit import RelativePositionalMultiHeadAttention
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2
from torchvision.models.vision_transformer import EncoderBlock

from export.simplify.flatten import NotApplicable, copy_of
from handler.autograd.hooks import captured

_REPLACED = ShiftedWindowAttention | RelativePositionalMultiHeadAttention | EncoderBlock
_MASKED = -100.0  # torchvision's score for tokens that are neighbours because of the shift only
_LARGEST_SCALE = 100.0  # torchvision's limit for cosine attention


class Attention(nn.Module):
    """``softmax(q · kᵀ + bias) · v`` for each head, between the T tokens of each group."""

    bias: Tensor | None
    cosine_scale: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        weight_bias: Tensor | None,
        merge: nn.Linear,
        heads: int,
        *,
        scale: float = 1.0,
        bias: Tensor | None = None,
        cosine_scale: Tensor | None = None,
    ) -> None:
        """Splits the product with ``weight`` (3 · C, C) and ``weight_bias`` (3 · C): queries, keys and values.

        ``merge`` mixes the results of the heads. ``scale`` multiplies q · kᵀ, and ``bias`` (…, heads, T, T) is added to
        it. With ``cosine_scale`` (heads, 1, 1), which multiplies it, the cosine of q and k takes the place of q · kᵀ.
        """
        super().__init__()
        scales = torch.ones_like(weight[:, 0])
        scales[: len(scales) // 3] = scale
        biases = (torch.zeros_like(scales) if weight_bias is None else weight_bias * scales).chunk(3)
        self.query, self.key, self.value = map(_linear, (weight * scales[:, None]).chunk(3), biases)
        self.merge, self.heads = merge, heads
        self.register_buffer("bias", bias)
        self.register_buffer("cosine_scale", cosine_scale)

    def forward(self, tokens: Tensor) -> Tensor:
        """(…, T, C) to (…, T, C)."""
        query, key, value = (self._by_heads(layer(tokens)) for layer in (self.query, self.key, self.value))
        if self.cosine_scale is not None:
            query, key = _unit_length(query) * self.cosine_scale, _unit_length(key)
        scores = query @ key.transpose(-2, -1)
        if self.bias is not None:
            scores = scores + self.bias
        found = scores.softmax(-1) @ value
        merged: Tensor = self.merge(found.transpose(-3, -2).flatten(-2))
        return merged

    def _by_heads(self, tokens: Tensor) -> Tensor:
        """(…, T, C) to (…, heads, T, C / heads)."""
        return tokens.reshape(tokens.shape[:-1] + (self.heads, -1)).transpose(-3, -2)


class SelfAttention(Attention):
    """Replaces an ``nn.MultiheadAttention`` that is called with the same tokens three times."""

    def forward(self, query: Tensor, *_others: Any, need_weights: bool = False) -> tuple[Tensor, None]:  # type: ignore[override]
        """(N, T, C) to (N, T, C); the weights are None."""
        return super().forward(query), None


class WindowAttention(nn.Module):
    """Attention inside the windows of a map (N, H, W, C), which a shifted layer rolls first."""

    def __init__(self, attention: Attention, size: tuple[int, int], window: list[int], shift: list[int]) -> None:
        """Takes the sizes of the map, of the windows and of the shift, each (rows, columns), in cells."""
        super().__init__()
        self.attention, self.size, self.window, self.shift = attention, size, window, shift
        self.missing = [-cells % side for cells, side in zip(size, window, strict=True)]  # up to whole windows

    def forward(self, cells: Tensor) -> Tensor:
        """(N, H, W, C) to (N, H, W, C)."""
        (height, width), (rows, columns) = self.size, self.window
        if any(self.missing):
            cells = F.pad(cells, (0, 0, 0, self.missing[1], 0, self.missing[0]))
        if any(self.shift):
            cells = cells.roll((-self.shift[0], -self.shift[1]), (1, 2))
        down, across = (height + self.missing[0]) // rows, (width + self.missing[1]) // columns
        windows = cells.reshape(-1, down, rows, across, columns, cells.shape[3]).permute(0, 1, 3, 2, 4, 5)
        tokens = windows.reshape(-1, down * across, rows * columns, cells.shape[3])
        attended: Tensor = self.attention(tokens)
        found = attended.reshape(-1, down, across, rows, columns, cells.shape[3])
        moved = found.permute(0, 1, 3, 2, 4, 5).reshape(-1, down * rows, across * columns, cells.shape[3])
        if any(self.shift):
            moved = moved.roll((self.shift[0], self.shift[1]), (1, 2))
        return moved[:, :height, :width] if any(self.missing) else moved


def with_constants(module: nn.Module, example: Tensor) -> nn.Module:
    """A copy in which the classes of this module replace the attention of torchvision's transformers.

    The copy takes pictures of the example's size alone. NotApplicable if the network has no such layers.
    """
    if not any(isinstance(layer, _REPLACED) for layer in module.modules()):
        raise NotApplicable("there is nothing to change")
    changed = copy_of(module)
    windowed = [path for path, layer in changed.named_modules() if isinstance(layer, ShiftedWindowAttention)]
    with torch.no_grad(), captured(changed, windowed) as maps:  # (N, H, W, C), of the size of those that arrive
        changed(example)
    for path, layer in list(changed.named_modules()):
        if isinstance(layer, ShiftedWindowAttention):
            height, width = maps[path][0].shape[1:3]
            changed.set_submodule(path, _window_attention(layer, (height, width)))
        elif isinstance(layer, RelativePositionalMultiHeadAttention):
            qkv, bias = layer.to_qkv, layer.get_relative_positional_bias()
            new = Attention(qkv.weight, qkv.bias, layer.merge, layer.n_heads, scale=layer.scale_factor, bias=bias)
            changed.set_submodule(path, new)
        elif isinstance(layer, EncoderBlock) and isinstance(own := layer.self_attention, nn.MultiheadAttention):
            scale = 1 / math.sqrt(own.embed_dim // own.num_heads)
            new = SelfAttention(own.in_proj_weight, own.in_proj_bias, own.out_proj, own.num_heads, scale=scale)
            changed.set_submodule(f"{path}.self_attention", new)
    return changed.eval().requires_grad_(False)


def _window_attention(layer: ShiftedWindowAttention, size: tuple[int, int]) -> WindowAttention:
    window = list(layer.window_size)
    # a map of a single window is not shifted
    shift = [0 if side >= cells else step for cells, side, step in zip(size, window, layer.shift_size, strict=True)]
    bias = layer.get_relative_position_bias()
    if any(shift):
        bias = bias + _mask(size, window, shift)[:, None].to(bias)
    qkv, weight_bias, cosine_scale = layer.qkv, layer.qkv.bias, None
    scale = (qkv.in_features // layer.num_heads) ** -0.5
    if isinstance(layer, ShiftedWindowAttentionV2):
        scale, cosine_scale = 1.0, layer.logit_scale.clamp(max=math.log(_LARGEST_SCALE)).exp()
        if weight_bias is not None:
            query, key, value = weight_bias.chunk(3)
            weight_bias = torch.cat([query, torch.zeros_like(key), value])
    constants = {"scale": scale, "bias": bias, "cosine_scale": cosine_scale}
    attention = Attention(qkv.weight, weight_bias, layer.proj, layer.num_heads, **constants)
    return WindowAttention(attention, size, window, shift)


def _mask(size: tuple[int, int], window: list[int], shift: list[int]) -> Tensor:
    """(windows, T, T): 0 between tokens of the same part of the map, ``_MASKED`` between tokens of different parts."""
    sides = [-(-cells // side) * side for cells, side in zip(size, window, strict=True)]
    # whether the shift brought a row or column from the other edge: 4 parts
    rows, columns = (torch.arange(side) >= side - step for side, step in zip(sides, shift, strict=True))
    part = 2 * rows[:, None] + columns[None, :]
    windows = part.reshape(len(rows) // window[0], window[0], len(columns) // window[1], window[1])
    tokens = windows.permute(0, 2, 1, 3).reshape(-1, window[0] * window[1])
    return torch.where(tokens[:, None, :] == tokens[:, :, None], 0.0, _MASKED)


def _unit_length(vectors: Tensor) -> Tensor:
    """Vectors along the last dimension divided by their lengths, or by 1e-12 if shorter, as in ``F.normalize``."""
    return vectors * (vectors * vectors).sum(-1, keepdim=True).clamp(min=1e-24).rsqrt()


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    return layer
