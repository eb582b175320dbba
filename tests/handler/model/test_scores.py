"""What a network's scores must be for its softmax to mean something."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from handler.errors import ModelError
from handler.model.reading import check_scores

SIDE = 16


def network(*end, classes=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes), *end
    )


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def standardised(x):
    return x / x.new_zeros(())


@pytest.mark.parametrize(
    ("module", "classes", "said"),
    [
        (
            network(classes=1),
            1,
            "has one score, and a softmax of one score is always 1; valid are at least two classes",
        ),
        (network(nn.Sigmoid()), 3, "ends in a sigmoid; valid are logits"),
        (network(nn.Hardsigmoid()), 3, "ends in a sigmoid; valid are logits"),
        (network(Call(lambda x: 1 / (1 + torch.exp(-x)))), 3, "ends in a sigmoid; valid are logits"),
        (network(nn.Sigmoid(), Call(lambda x: x[:, None].squeeze(1).clone())), 3, "ends in a sigmoid"),
        (network(nn.Softmax(1)), 3, "ends in a softmax; valid are logits"),
        (network(Call(lambda x: x.exp() / x.exp().sum(1, keepdim=True))), 3, "ends in a softmax"),
        (network(nn.LogSoftmax(1)), 3, "ends in a log-softmax; valid are logits"),
        (network(Call(lambda x: x - x.logsumexp(1, keepdim=True))), 3, "ends in a log-softmax"),
        (network(nn.LogSigmoid()), 3, "ends in a log-sigmoid"),
        (network(Call(lambda x: x.sigmoid().log())), 3, "ends in a log-sigmoid"),
        (network(Call(lambda x: (x.sigmoid() + 1e-9).log()[:, :, None].squeeze(2))), 3, "ends in a log-sigmoid"),
        (network(Call(lambda x: -F.softplus(-x)), classes=8), 8, "ends in a log-sigmoid"),
        (network(Call(lambda x: x.softmax(1).log())), 3, "ends in a log-softmax"),
        (network(Call(lambda x: 100 * x.softmax(1))), 3, "ends in a softmax"),
        (network(Call(lambda x: x.softmax(1) / 7)), 3, "ends in a softmax"),
        (network(Call(standardised)), 3, "answers a picture with scores that are not finite"),
        (network(Call(lambda x: x.long())), 3, r"answers one picture with torch.int64 \(1, 3\)"),
        (network(Call(lambda x: (x, x))), 3, "answers with a tuple"),
        (network(Call(lambda x: x.unsqueeze(2))), 3, r"answers one picture with torch.float32 \(1, 3, 1\)"),
        (network(), 4, "scores 3 classes, but there are 4 labels"),
        (network(nn.Linear(2, 2)), 3, r"fails on a picture \(1, 3, 16, 16\) \(RuntimeError"),
        (network(Call(lambda x: x + torch.rand(()))), 3, "answers the same picture differently each time"),
    ],
)
def test_scores_that_are_no_logits_are_refused_by_name(module, classes, said):
    with pytest.raises(ModelError, match=f"^architecture odd {said}") as refused:
        check_scores(module.eval(), "odd", (3, SIDE, SIDE), classes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "end",
    [
        (),
        (Call(lambda x: 5 * x.tanh()),),
        (Call(lambda x: 10 * x.sigmoid()),),
        (nn.ReLU(),),
        (nn.Softplus(),),
        (Call(lambda x: x.bfloat16()),),
        (Call(lambda x: x.double()),),
    ],
)
def test_bounded_positive_and_otherwise_typed_scores_are_logits(end):
    check_scores(network(*end).eval(), "odd", (3, SIDE, SIDE), 3)


NEGATIVE = {
    "far": lambda x, _: x - 40,
    "scaled": lambda x, scale: scale * x - 5 * scale,
    "distances": lambda x, scale: -scale * (x[:, None] - torch.linspace(-1, 1, 6)[:, None]).square().sum(2),
    "normalised": lambda x, scale: scale * F.layer_norm(x, (6,)) - 4 * scale,
    "next to zero": lambda x, _: 1e-3 * F.layer_norm(x, (6,)) - 5e-3,
    "clipped": lambda x, _: -F.relu(x),
    "log of a distance": lambda x, scale: -(1 + scale * x.square()).log(),
    "zero": lambda x, _: 0 * x,
    "one bias": lambda x, _: 0 * x - 3,
    "positive biases": lambda x, _: 0 * x + torch.arange(6.0),
    "positive": lambda x, scale: scale * F.relu(x + 1),
    "nearly constant": lambda x, _: 1e-4 * F.layer_norm(x, (6,)) + torch.arange(6.0),
}


@pytest.mark.parametrize("kind", NEGATIVE)
def test_logits_of_one_sign_are_logits(kind):
    """Networks at random, with heads as weak and as strong as those of trained ones."""
    for seed in range(30):
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6))
        body[4].weight.data *= 10 ** (seed % 4 - 1)
        scale = 10.0 ** (seed % 3 - 1)
        end = Call(lambda x, scale=scale: NEGATIVE[kind](x, scale))
        assert check_scores(nn.Sequential(body, end).eval(), "odd", (3, SIDE, SIDE), 6) == 6
