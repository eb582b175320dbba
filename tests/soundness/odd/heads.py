"""What comes out: scores that are none, answers in other forms, other ways from maps to scores."""

from collections import namedtuple

import torch
import torch.nn.functional as F
from torch import nn

from tests.soundness.odd.table import CLASSES, cnn

EITHER = "right or refused"
Named = namedtuple("Named", ["scores", "maps"])


@cnn("refused", classes=1)
def one_score(net, x):
    return net.head(net.trunk(x))


@cnn("refused", classes=1)
def one_probability(net, x):
    return net.head(net.trunk(x)).sigmoid()


@cnn("refused", word="sigmoid")
def sigmoid_end(net, x):
    return net.head(net.trunk(x)).sigmoid()


@cnn("refused", word="softmax")
def softmax_end(net, x):
    return net.head(net.trunk(x)).softmax(1)


@cnn("refused", word="softmax")
def log_softmax_end(net, x):
    return net.head(net.trunk(x)).log_softmax(1)


@cnn("refused")
def log_sigmoid_end(net, x):
    return F.logsigmoid(net.head(net.trunk(x)))


@cnn("refused")
def probabilities_by_normalising(net, x):
    scores = net.head(net.trunk(x)).exp()
    return scores / scores.sum(1, keepdim=True)


@cnn("right")
def scaled_tanh_end(net, x):
    return 5 * net.head(net.trunk(x)).tanh()


@cnn("right")
def cosine_classifier(net, x):
    return 10 * F.normalize(net.trunk(x).mean((2, 3)), dim=1) @ F.normalize(net.fc.weight, dim=1).T


@cnn("right", parts={"prototypes": lambda: nn.Parameter(torch.randn(CLASSES, 32))})
def distance_to_prototypes(net, x):
    return -torch.cdist(net.trunk(x).mean((2, 3)), net.prototypes)


@cnn("refused", word="finite")
def scores_not_a_number(net, x):
    return net.head(net.trunk(x)) * float("nan")


@cnn("refused", word="finite")
def scores_infinite(net, x):
    return net.head(net.trunk(x)) + float("inf")


@cnn("right")
def dividing_by_the_deviation(net, x):
    return net.head(net.trunk((x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True)))


@cnn("refused", word="dict")
def answers_a_dict(net, x):
    maps = net.trunk(x)
    return {"logits": net.head(maps), "maps": maps}


@cnn("refused", word="tuple")
def answers_a_tuple(net, x):
    maps = net.trunk(x)
    return net.head(maps), maps


@cnn("refused", word="list")
def answers_a_list(net, x):
    maps = net.trunk(x)
    return [net.head(maps), maps]


@cnn("refused")
def answers_a_named_tuple(net, x):
    maps = net.trunk(x)
    return Named(net.head(maps), maps)


@cnn("refused", parts={"out": lambda: nn.Conv2d(32, CLASSES, 16)})
def answers_maps_of_scores(net, x):
    return net.out(net.trunk(x))


@cnn("right", parts={"out": lambda: nn.Conv2d(32, CLASSES, 16)})
def scores_of_a_convolution(net, x):
    return net.out(net.trunk(x)).flatten(1)


@cnn("right", parts={"out": lambda: nn.Conv2d(32, CLASSES, 1)}, layers=("out",))
def fully_convolutional(net, x):
    return net.out(net.trunk(x)).mean((2, 3))


# float16 has no central differences to speak of
@cnn(EITHER, excused=("differences",))
def scores_in_half_precision(net, x):
    return net.head(net.trunk(x)).half()


@cnn(EITHER)
def scores_in_double_precision(net, x):
    return net.head(net.trunk(x)).double()


@cnn("refused")
def answers_classes(net, x):
    return net.head(net.trunk(x)).argmax(1)


@cnn("refused", word="picture")
def scores_without_the_picture(net, x):
    return net.fc.bias.expand(len(x), -1) + 0 * net.fc.weight.sum()


@cnn("refused")
def scores_without_the_maps(net, x):
    net.trunk(x)
    return F.linear(x.mean((2, 3)), net.fc.weight[:, :3])


@cnn("refused")
def maps_times_zero(net, x):
    return net.head(0 * net.trunk(x)) + F.linear(x.mean((2, 3)), net.fc.weight[:, :3])


@cnn("right")
def largest_cell(net, x):
    return net.fc(net.trunk(x).amax((2, 3)))


@cnn("right")
def log_sum_of_exponentials(net, x):
    return net.fc(net.trunk(x).logsumexp((2, 3)))


@cnn("right")
def largest_ten_cells(net, x):
    return net.fc(net.trunk(x).flatten(2).topk(10, 2).values.mean(2))


@cnn("right")
def generalised_mean(net, x):
    return net.fc(net.trunk(x).clamp(min=1e-3).pow(3).mean((2, 3)).pow(1 / 3))


@cnn("right", parts={"second": lambda: nn.Linear(1024, CLASSES)})
def bilinear_pooling(net, x):
    maps = net.trunk(x).flatten(2)
    return net.second(F.normalize((maps @ maps.transpose(1, 2) / 256).flatten(1), dim=1)) * 10


@cnn("right", parts={"wide": lambda: nn.Linear(32 * 256, CLASSES)})
def flattened_into_a_linear_layer(net, x):
    return net.wide(net.trunk(x).flatten(1))


@cnn(
    "right",
    parts={"gate": lambda: nn.Linear(32, 3), "experts": lambda: nn.ModuleList(nn.Conv2d(32, 32, 1) for _ in range(3))},
)
def mixture_of_experts(net, x):
    maps = net.trunk(x)
    weights = net.gate(maps.mean((2, 3))).softmax(1)
    return net.head(sum(weights[:, i, None, None, None] * expert(maps) for i, expert in enumerate(net.experts)))


@cnn(
    EITHER,
    parts={"gate": lambda: nn.Linear(32, 2), "experts": lambda: nn.ModuleList(nn.Conv2d(32, 32, 1) for _ in range(2))},
)
def one_expert_for_each_picture(net, x):
    maps = net.trunk(x)
    chosen = net.gate(maps.mean((2, 3))).argmax(1)
    out = torch.zeros_like(maps)
    for number, expert in enumerate(net.experts):
        rows = (chosen == number).nonzero()[:, 0]
        if len(rows):
            out = out.index_copy(0, rows, expert(maps[rows]))
    return net.head(out)


@cnn(
    "right",
    parts={"auxiliary": lambda: nn.Sequential(nn.Conv2d(32, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 1))},
    layers=("c3",),
    excused=("guided",),  # one ReLU of four does not lead to the scores
)
def auxiliary_head_runs_last(net, x):
    maps = net.trunk(x)
    return (net.head(maps), net.auxiliary(maps))[0]


@cnn(
    "right",
    parts={"up": lambda: nn.Sequential(nn.Conv2d(32, 16, 3, 1, 1), nn.Upsample(scale_factor=4), nn.Conv2d(16, 1, 1))},
)
def decoder_runs_first(net, x):
    maps = net.trunk(x)
    return (net.up(maps), net.head(maps))[1]


@cnn("right", parts={"side": lambda: nn.Conv2d(32, 32, 3, 1, 1)}, layers=("c3",), excused=("differences",))
def detached_branch(net, x):
    maps = net.trunk(x)
    return net.head(maps) + 0.1 * net.fc(F.relu(net.side(maps.detach())).mean((2, 3)))


@cnn("right", parts={"mask": lambda: nn.Conv2d(32, 1, 1)}, layers=("c3",), excused=("differences",))
def detached_mask(net, x):
    maps = net.trunk(x)
    return net.head(maps * net.mask(maps).sigmoid().detach())


@cnn(EITHER, parts={"mask": lambda: nn.Conv2d(32, 1, 1)})
def attention_of_one_channel_last(net, x):
    maps = net.trunk(x)
    return net.head(maps * net.mask(maps).sigmoid())


@cnn(EITHER, parts={"d1": lambda: nn.Conv2d(3, 32, 3, 4, 1), "d2": lambda: nn.Conv2d(32, 32, 3, 1, 1)})
def two_trunks_summed_scores(net, x):
    return net.head(net.trunk(x)) + net.head(F.relu(net.d2(F.relu(net.d1(x)))))


@cnn("right", parts={"fc2": lambda: nn.Linear(32, CLASSES), "norm": lambda: nn.BatchNorm1d(32)})
def hidden_layer_with_batch_norm(net, x):
    return net.fc2(F.relu(net.norm(net.trunk(x).mean((2, 3)))))


# a gradient inside the scores jumps where a ReLU opens
@cnn(EITHER, excused=("differences",))
def second_derivative_in_the_score(net, x):
    with torch.enable_grad():
        maps = net.trunk(x)
        free = maps.detach().requires_grad_()
        (slope,) = torch.autograd.grad(net.head(free).square().sum(), free)
    return net.head(maps) + net.fc(slope.mean((2, 3)))
