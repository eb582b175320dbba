"""A vision transformer of a few weights, and the same transformer in plain NumPy, attention by attention."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

SIDE, PATCH, WIDTH, HEADS, CLASSES = 16, 4, 8, 2, 3
CELLS = (SIDE // PATCH) ** 2


class Block(nn.Module):
    """Pre-norm attention and a layer of its own for each token; ``spelling`` says how the attention is written."""

    def __init__(self, spelling):
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.merge, self.mlp = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.spelling = spelling
        if spelling == "module":
            self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
            self.attention.in_proj_weight, self.attention.in_proj_bias = self.qkv.weight, self.qkv.bias
            self.attention.out_proj = self.merge

    def forward(self, tokens):
        tokens = tokens + self.attend(self.norm(tokens))
        return tokens + F.gelu(self.mlp(self.norm2(tokens)))

    def attend(self, tokens):
        if self.spelling == "module":
            return self.attention(tokens, tokens, tokens)[0]
        query, key, value = (part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in self.qkv(tokens).chunk(3, 2))
        if self.spelling == "fused":
            found = F.scaled_dot_product_attention(query, key, value)
        else:
            found = (query @ key.transpose(2, 3) / math.sqrt(WIDTH // HEADS)).softmax(3) @ value
        return self.merge(found.transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """Two blocks over ``prefix`` learned tokens and the cells; scores from token 0, or from the mean of the cells."""

    def __init__(self, *, spelling="fused", prefix=1, mean=False, tail=None):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.prefix = nn.Parameter(torch.randn(1, prefix, WIDTH))
        self.places = nn.Parameter(0.2 * torch.randn(1, prefix + CELLS, WIDTH))
        self.blocks = nn.Sequential(Block(spelling), Block(spelling))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)
        self.mean, self.tail = mean, tail
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[1]))

    def forward(self, pictures):
        cells = self.patches(pictures).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix.expand(cells.shape[0], -1, -1), cells], dim=1) + self.places
        found = self.norm(self.blocks(tokens))
        read = found[:, self.prefix.shape[1] :].mean(1) if self.mean else found[:, 0]
        return self.head(read if self.tail is None else self.tail(read, pictures))


class ByHand:
    """The transformer in float64 NumPy: every number from the weights, none from autograd."""

    def __init__(self, module):
        self.weights = {name: value.double().numpy() for name, value in module.state_dict().items()}
        self.mean, self.prefix = module.mean, module.prefix.shape[1]

    def scores(self, picture, changes):
        """Scores (K), the attention of both blocks, and the scores of both blocks' mean token.

        Args:
            picture: (3, SIDE, SIDE).
            changes: (2, HEADS, T, T), added to the attention of the blocks.
        """
        tokens, attention, own = self.embed(picture), [], []
        for number, change in enumerate(changes):
            tokens, shares = self.block(tokens, f"blocks.{number}.", change)
            attention.append(shares)
            own.append(self.tail(tokens.mean(axis=0, keepdims=True))[0])
        read = self.tail(tokens)[self.prefix :].mean(axis=0) if self.mean else self.tail(tokens)[0]
        return read, attention, own

    def embed(self, picture):
        cells = []
        for y in range(0, SIDE, PATCH):
            for x in range(0, SIDE, PATCH):
                patch = picture[:, y : y + PATCH, x : x + PATCH]
                cells.append((self.weights["patches.weight"] * patch).sum((1, 2, 3)) + self.weights["patches.bias"])
        return np.concatenate([self.weights["prefix"][0], cells]) + self.weights["places"][0]

    def block(self, tokens, name, change):
        query, key, value = np.split(self.linear(self.normed(tokens, f"{name}norm"), f"{name}qkv"), 3, axis=1)
        heads, attention = [], []
        for head in range(HEADS):
            part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            powers = np.exp(query[:, part] @ key[:, part].T / math.sqrt(WIDTH // HEADS))
            attention.append(powers / powers.sum(axis=1, keepdims=True) + change[head])
            heads.append(attention[-1] @ value[:, part])
        tokens = tokens + self.linear(np.concatenate(heads, axis=1), f"{name}merge")
        inside = self.linear(self.normed(tokens, f"{name}norm2"), f"{name}mlp")
        return tokens + inside * (1 + np.vectorize(math.erf)(inside / math.sqrt(2))) / 2, np.array(attention)

    def tail(self, tokens):
        return self.linear(self.normed(tokens, "norm"), "head")

    def linear(self, values, name):
        return values @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def normed(self, values, name):
        centred = values - values.mean(axis=1, keepdims=True)
        unit = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
        return unit * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
