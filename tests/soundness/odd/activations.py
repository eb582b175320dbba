"""One network, its first and last activation in every spelling."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.soundness.odd.table import cnn
from tests.support.odd import OwnReLU, Swish

EITHER = "right or refused"


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.sign()

    @staticmethod
    def backward(context, gradient):
        return gradient


def half_in_place(x):
    x = x.clone()
    F.relu_(x[:, : x.shape[1] // 2])
    return x


def chunks_in_place(x):
    return torch.cat([F.relu_(one) for one in x.chunk(2, 1)], 1)


def flattened_in_place(x):
    return F.relu(x.flatten(1), inplace=True).view_as(x)


def glu_of_both(x):
    return F.glu(torch.cat([x, x.flip(1)], 1), 1)


def zero(x):
    return torch.zeros((), dtype=x.dtype)


ACTIVATIONS = {
    "relu_of_the_tensor": lambda x: x.relu(),
    "relu_in_place": lambda x: x.relu_(),
    "relu_in_place_on_a_flat_view": flattened_in_place,
    "relu_in_place_on_half": half_in_place,
    "relu_in_place_on_chunks": chunks_in_place,
    "relu_in_place_on_a_permuted_view": lambda x: x.permute(0, 2, 3, 1).relu_().permute(0, 3, 1, 2),
    "clamp_from_zero": lambda x: x.clamp(min=0),
    "clamp_from_zero_in_place": lambda x: x.clamp_(min=0),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "clamp_to_six": lambda x: x.clamp(0, 6),
    "clamp_both_ways": lambda x: x.clamp(-1, 1),
    "maximum_with_zero": lambda x: torch.maximum(x, zero(x)),
    "maximum_with_zeros_first": lambda x: torch.maximum(torch.zeros_like(x), x),
    "max_with_zeros": lambda x: torch.max(x, torch.zeros_like(x)),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "threshold_elsewhere": lambda x: F.threshold(x, 0.1, 0),
    "where_positive": lambda x: torch.where(x > 0, x, zero(x)),
    "times_the_gate": lambda x: x * (x > 0),
    "half_of_x_and_its_magnitude": lambda x: (x + x.abs()) / 2,
    "own_relu": OwnReLU.apply,
    "own_swish": Swish.apply,
    "relu_six": F.relu6,
    "relu_six_in_place": lambda x: F.relu6(x, inplace=True),
    "hardtanh_from_zero": lambda x: F.hardtanh(x, 0, 2),
    "hardtanh": F.hardtanh,
    "leaky_relu_in_place": lambda x: F.leaky_relu(x, 0.1, inplace=True),
    "elu_in_place": lambda x: F.elu(x, inplace=True),
    "celu": lambda x: F.celu(x, 0.5),
    "selu": F.selu,
    "rrelu": F.rrelu,
    "hardswish_in_place": lambda x: F.hardswish(x, inplace=True),
    "silu_in_place": lambda x: F.silu(x, inplace=True),
    "mish": F.mish,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "gelu_by_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_spelled_out": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "sine": torch.sin,
    "squared_relu": lambda x: F.relu(x).square(),
    "concatenated_relu": lambda x: F.relu(torch.cat([x[:, ::2], -x[:, ::2]], 1)),
    "maxout": lambda x: torch.maximum(x, x.flip(1)),
    "gated_linear_unit": glu_of_both,
    "sigmoid_gate": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "shrinking": lambda x: F.softshrink(x, 0.1),
    "no_activation": lambda x: x,
    "relu_then_gelu": lambda x: F.gelu(F.relu(x)),
    "relu_of_negative": lambda x: -F.relu(-x),
}


def _enter(name, activation):
    def run(net, x):
        return net.head(activation(net.c3(F.relu(net.c2(activation(net.c1(x)))))))

    run.__name__ = name
    cnn(EITHER if activation is chunks_in_place else "right", layers=("c3",))(run)  # autograd forbids that one


for _name, _activation in ACTIVATIONS.items():
    _enter(_name, _activation)


@cnn("right", parts={"act": lambda: nn.PReLU(32)})
def parametric_relu(net, x):
    return net.head(net.act(net.c3(net.stem(x))))


@cnn("right", parts={"act": lambda: nn.ReLU(inplace=True)}, layers=("c3", "act"))
def one_relu_for_all(net, x):
    return net.head(net.act(net.c3(net.act(net.c2(net.act(net.c1(x)))))))


@cnn(EITHER, excused=("differences",))
def sign_with_straight_through(net, x):
    return net.head(StraightThrough.apply(net.c3(net.stem(x))))


@cnn(
    "right",
    parts={"act": lambda: nn.ReLU(inplace=True), "flat": lambda: nn.Flatten(), "wide": lambda: nn.Linear(2048, 32)},
)
def relu_in_place_behind_flatten(net, x):
    return net.fc(F.relu(net.wide(net.act(net.flat(F.avg_pool2d(net.c3(net.stem(x)), 2))))))
