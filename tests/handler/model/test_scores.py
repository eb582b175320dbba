"""What a network's scores must be for its softmax to mean something."""

import pytest
import torch
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
