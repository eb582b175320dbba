"""Gradients through batch norms, against the formula, in every memory layout of input and gradient."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from handler.autograd.graph import gradients_at

ORDERS = list(itertools.permutations(range(4)))
SHAPES = [(1, 8, 4, 8), (1, 8, 1, 32), (1, 8, 32, 1), (1, 5, 3, 3), (2, 8, 1, 32), (2, 8, 32, 1), (3, 4, 2, 3)]


def laid_out(shape, order):
    """Random values of a shape whose axes lie in memory in an order."""
    values = torch.randn(shape, dtype=torch.float64)
    return values.permute(order).contiguous().permute([order.index(axis) for axis in range(4)])


def error(shape, of_input, of_gradient):
    """The largest error of the gradient at a batch norm's input."""
    inputs = laid_out(shape, of_input).requires_grad_()
    weight, mean, variance = (torch.rand(shape[1], dtype=torch.float64) + 0.5 for _ in range(3))
    outputs, gradient = F.batch_norm(inputs, mean, variance, weight, mean), laid_out(shape, of_gradient)
    score = (outputs * gradient.contiguous()).sum()
    # the gradient of a product comes in the product's layout: bring it into the one that is wanted
    outputs.register_hook(lambda arriving: gradient.copy_(arriving))
    (found,) = gradients_at([inputs], score)
    return float((found - gradient * (weight / (variance + 1e-5).sqrt())[:, None, None]).abs().max())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_is_right_in_every_layout(shape):
    torch.manual_seed(0)
    assert max(error(shape, *orders) for orders in itertools.product(ORDERS, ORDERS)) < 1e-12


def test_the_bare_operator_is_still_wrong():
    """When this fails, PyTorch is mended: let gradients_at call torch.autograd.grad alone, and remove this file."""
    torch.manual_seed(0)
    inputs = torch.randn(1, 8, 4, 8, dtype=torch.float64, requires_grad=True)
    factor = torch.rand(8, dtype=torch.float64) + 0.5
    outputs = F.batch_norm(inputs, torch.zeros_like(factor), torch.ones_like(factor), factor, eps=0.0)
    gradient = torch.randn(1, 32, 8, dtype=torch.float64).transpose(1, 2).reshape(1, 8, 4, 8)
    (found,) = torch.autograd.grad(outputs, inputs, gradient)
    assert gradient.stride() == (8, 1, 64, 8)
    assert (found - gradient * factor[:, None, None]).abs().max() > 0.1
