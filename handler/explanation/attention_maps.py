"""Maps from the attention of vision transformers, which needs no layer: it says which tokens each token was made of.

Formulas take attention and gradients, an array (N, heads, T, T) for each of L blocks, and return the relevance of all
tokens (N, T). Row i of ``A_l``, the attention of block l, holds the shares of all tokens in token i; ``r`` (1, 1, T)
are the weights of the tokens that the score ``y`` is read from: 1 at a class token, or 1/n at each of n averaged ones.
``1`` is the identity, ``mean`` the mean over the heads. The operations are those that NumPy and torch share.
"""

from collections.abc import Sequence
from typing import Any

Array = Any  # a NumPy array or a torch tensor


def rollout(attention: Sequence[Array], _gradients: Sequence[Array], read: Array) -> Array:
    """Attention rollout: the attention of all blocks multiplied, half of each for the path around it.

    ``map = r B_L ⋯ B_1``, ``B_l = (mean(A_l) + 1) / 2`` (Abnar and Zuidema 2020, arXiv 2005.00928). One forward pass.
    It does not look at the class: choose it to see what information could reach the scores at all.
    """
    relevance = read
    for shares in reversed(attention):
        relevance = (relevance + relevance @ shares.mean(axis=1)) / 2
    return relevance[:, 0]


def gradient_attention(attention: Sequence[Array], gradients: Sequence[Array], read: Array) -> Array:
    """Gradient-weighted attention: attention that raises the score, rolled out over the blocks.

    ``map = r (1 + C_L) ⋯ (1 + C_1) - r``, ``C_l = mean(relu(dy/dA_l · A_l))``, the product taken element by element
    (Chefer et al. 2021, arXiv 2103.15679, equations 5 and 6 for self-attention; ``r`` is subtracted, so that a map
    without positive evidence is 0). One forward and one backward pass. Choose it first for vision transformers.
    """
    relevance = read
    for shares, gradient in zip(reversed(attention), reversed(gradients), strict=True):
        relevance = relevance + relevance @ (gradient * shares).clip(min=0).mean(axis=1)
    return (relevance - read)[:, 0]


def legrad(_attention: Sequence[Array], gradients: Sequence[Array], _read: Array) -> Array:
    """LeGrad: how sensitive the score of each block's own tokens is to the block's attention.

    ``map_j = mean_l,heads(sum_i(relu(dy_l/dA_l(ij))))``, ``y_l`` the score that the layers behind the last block give
    to the mean of block l's tokens (Bousselham et al. 2024, arXiv 2404.03214, and torchcam's LeGrad of all blocks; both
    take the mean over i, which is so small that the scaling of maps would tell). One forward and one backward pass.
    Choose it where evidence forms in several blocks, as in large models.
    """
    return sum(gradient.clip(min=0).sum(axis=2).mean(axis=1) for gradient in gradients) / len(gradients)
