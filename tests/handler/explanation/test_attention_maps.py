"""The formulas over attention, against products of whole matrices that are written apart from them."""

import numpy as np
import pytest
import torch

from handler.explanation import attention_maps
from handler.explanation.methods import ATTENTION_METHODS, METHODS, OF_BLOCKS

BLOCKS, HEADS, TOKENS = 3, 2, 5


@pytest.fixture
def arrays():
    """Attention whose rows add up to 1, gradients of both signs, and a reader of the tokens 0 and 3."""
    rng = np.random.default_rng(0)
    attention = [rng.dirichlet(np.ones(TOKENS), (2, HEADS, TOKENS)) for _ in range(BLOCKS)]
    gradients = [rng.standard_normal((2, HEADS, TOKENS, TOKENS)) for _ in range(BLOCKS)]
    return attention, gradients, np.array([0.5, 0, 0, 0.5, 0])[None, None]


def by_loops(name, attention, gradients, picture):
    """The relevance of the tokens of one picture: element by element, and with the whole matrix of every step."""
    joint = np.eye(TOKENS)
    sensitivity = np.zeros(TOKENS)
    for shares, gradient in zip(attention, gradients, strict=True):
        step = np.zeros((TOKENS, TOKENS))
        for head in range(HEADS):
            for i in range(TOKENS):
                for j in range(TOKENS):
                    share, slope = shares[picture, head, i, j], gradient[picture, head, i, j]
                    step[i, j] += (share if name == "rollout" else max(share * slope, 0)) / HEADS
                    sensitivity[j] += max(slope, 0) / HEADS / BLOCKS
        joint = (np.eye(TOKENS) + step) / 2 @ joint if name == "rollout" else joint + step @ joint
    if name == "legrad":
        return sensitivity
    return (joint - (name == "gradient_attention") * np.eye(TOKENS))[[0, 3]].mean(axis=0)


@pytest.mark.parametrize("name", ATTENTION_METHODS)
def test_a_map_is_the_one_of_whole_matrices_in_numpy_and_in_torch(arrays, name):
    attention, gradients, read = arrays
    found = METHODS[name].formula(attention, gradients, read)
    for picture in range(2):
        np.testing.assert_allclose(found[picture], by_loops(name, attention, gradients, picture), rtol=1e-12)
    tensors = [torch.from_numpy(values) for values in attention], [torch.from_numpy(values) for values in gradients]
    np.testing.assert_allclose(METHODS[name].formula(*tensors, torch.from_numpy(read)).numpy(), found, rtol=1e-12)


def test_rollout_of_one_block_is_half_its_attention_and_half_the_token_itself():
    attention = np.array([[0.2, 0.8], [0.6, 0.4]])[None, None]
    found = attention_maps.rollout([attention], [], np.array([[[1.0, 0.0]]]))
    np.testing.assert_allclose(found, [[0.6, 0.4]])


def test_attention_against_the_class_leaves_no_gradient_weighted_map(arrays):
    attention, gradients, read = arrays
    against = [-abs(gradient) for gradient in gradients]
    assert not attention_maps.gradient_attention(attention, against, read).any()
    assert not attention_maps.legrad(attention, against, read).any()


def test_attention_of_another_picture_changes_nothing(arrays):
    attention, gradients, read = arrays
    other = [np.concatenate([values[:1], values[1:] * 0.5]) for values in attention]
    for name in ATTENTION_METHODS:
        plain, changed = (METHODS[name].formula(shares, gradients, read) for shares in (attention, other))
        np.testing.assert_array_equal(plain[0], changed[0])
        assert (METHODS[name].attention == OF_BLOCKS) == np.array_equal(plain[1], changed[1])
