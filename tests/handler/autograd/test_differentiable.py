"""What autograd sees of a network whose author hid parts of it."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from handler.autograd.differentiable import differentiable


def plain(x):
    return F.relu(3 * x) + x


def under(context):
    def run(x):
        with context():
            hidden = 3 * x
        return F.relu(hidden) + x

    return run


def decorated(x):
    return torch.no_grad()(lambda x: F.relu(3 * x))(x) + x


def in_place(x):
    hidden = (3 * x).flatten(1)
    nn.ReLU(inplace=True)(hidden)
    return hidden.view_as(x) + x


@pytest.mark.parametrize(
    "run",
    [
        under(torch.no_grad),
        under(torch.inference_mode),
        under(lambda: torch.set_grad_enabled(False)),
        decorated,
        lambda x: checkpoint(plain, x, use_reentrant=True),
        lambda x: checkpoint(plain, x, use_reentrant=False),
        in_place,
    ],
    ids=["no-grad", "inference-mode", "grad-disabled", "decorated", "reentrant", "checkpoint", "in-place"],
)
def test_values_and_gradients_are_those_of_the_plain_function(run):
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with differentiable(nn.Identity()):
        found = run(x.clone())
    assert torch.equal(found, plain(x))
    assert torch.equal(torch.autograd.grad(found.sum(), x)[0], torch.autograd.grad(plain(x).sum(), x)[0])


def test_what_is_detached_stays_detached():
    x = torch.ones(2, requires_grad=True)
    with differentiable(nn.Identity()):
        found = x.detach() * 2 + x
    assert torch.autograd.grad(found.sum(), x)[0].tolist() == [1, 1]


def test_afterwards_everything_is_as_it_was():
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError), differentiable(nn.Identity()):  # noqa: PT011 - raised here
        raise ValueError
    with torch.no_grad():
        assert not (x * 2).requires_grad
    with torch.inference_mode():
        assert (x * 2).is_inference()
    assert torch.is_grad_enabled()


def test_in_place_operations_on_views_rewrite_them_all_the_same():
    x = torch.tensor([[-1.0, 2.0]], requires_grad=True)
    with differentiable(nn.Identity()):
        base = x * 1
        part = base[:, :1]
        assert part.relu_() is part
        F.leaky_relu(base[:, 1:].neg_(), 0.5, inplace=True)
    assert base.tolist() == [[0, -1]]
    assert torch.autograd.grad(base.sum(), x)[0].tolist() == [[0, -0.5]]


class Counts(nn.Module):
    """Keeps a moving average of what it sees, and answers with a view of its own memory."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.register_buffer("average", torch.zeros(2))
        self.register_buffer("out", torch.zeros(4, 2))

    def forward(self, x):
        scores = self.conv(x).mean((2, 3))
        with torch.no_grad():
            self.average.mul_(0.9).add_(scores.mean(0))
            self.out = self.out.detach()
        return scores


def test_buffers_that_a_network_changes_stay_outside_the_graph():
    module, pictures = Counts().eval().requires_grad_(False), torch.ones(1, 3, 2, 2, requires_grad=True)
    for _ in range(3):
        with differentiable(module):
            scores = module(pictures)
        torch.autograd.grad(scores.sum(), pictures)
    assert module.average.grad_fn is None
    assert not module.average.requires_grad
    assert module.average.abs().sum() > 0


def test_another_thread_keeps_its_inference_mode():
    found = []

    def aside():
        with torch.inference_mode():
            found.append((torch.ones(1) * 2).is_inference())

    with differentiable(nn.Identity()):
        thread = threading.Thread(target=aside)
        thread.start()
        thread.join()
    assert found == [True]
    with torch.inference_mode():
        assert (torch.ones(1) * 2).is_inference()
