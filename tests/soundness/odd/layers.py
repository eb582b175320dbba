"""Layers that are rare, that run several times, that join branches."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torchvision.ops import DeformConv2d

from tests.soundness.odd.table import cnn

EITHER = "right or refused"


def conv(*arguments, **options):
    return lambda: nn.Conv2d(*arguments, **options)


@cnn("right", parts={"last": lambda: parametrizations.weight_norm(nn.Conv2d(32, 32, 3, 1, 1))}, layers=("last",))
def weight_norm(net, x):
    return net.head(F.relu(net.last(net.trunk(x))))


@cnn("right", parts={"last": lambda: parametrizations.spectral_norm(nn.Conv2d(32, 32, 1))}, layers=("last",))
def spectral_norm(net, x):
    return net.head(F.relu(net.last(net.trunk(x))))


class Standardised(nn.Module):
    def forward(self, weight):
        return (weight - weight.mean((1, 2, 3), keepdim=True)) / (weight.std((1, 2, 3), keepdim=True) + 1e-5)


def _standardised():
    layer = nn.Conv2d(16, 16, 16, 1, 8)
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", Standardised())
    return layer


@cnn("right", parts={"big": _standardised, "narrow": conv(32, 16, 1), "back": conv(16, 32, 1)})
def weights_that_look_like_maps(net, x):
    return net.head(F.relu(net.back(net.big(net.narrow(net.trunk(x))))))


@cnn("right", parts={"d": conv(32, 32, 3, 1, 1), "e": conv(64, 32, 3, 1, 1)}, layers=("e",))
def dense_connections(net, x):
    first = net.trunk(x)
    second = F.relu(net.d(first))
    return net.head(F.relu(net.e(torch.cat([first, second], 1))))


@cnn(EITHER, parts={"d": conv(32, 32, 3, 1, 1)})
def branch_and_shortcut_without_a_module(net, x):
    maps = net.trunk(x)
    return net.head(maps + net.d(maps))


@cnn(EITHER, parts={"low": conv(32, 32, 3, 2, 1), "back": conv(32, 32, 1), "join": conv(32, 32, 1)}, layers=("join",))
def two_resolutions_joined(net, x):
    high = net.trunk(x)
    low = F.relu(net.low(high))
    return net.head(F.relu(net.join(high + F.interpolate(net.back(low), size=(16, 16)))))


@cnn(EITHER, parts={"low": conv(32, 32, 3, 2, 1)})
def two_resolutions_side_by_side(net, x):
    high = net.trunk(x)
    return net.fc(high.mean((2, 3)) + F.relu(net.low(high)).mean((2, 3)))


@cnn(EITHER)
def one_layer_three_times(net, x):
    maps = net.stem(x)
    for _ in range(3):
        maps = F.relu(net.c3(maps))
    return net.head(maps)


@cnn(EITHER)
def one_layer_at_two_sizes(net, x):
    maps = net.trunk(x)
    return net.head(F.relu(net.c3(F.max_pool2d(maps, 2))))


@cnn("right", parts={"last": conv(32, 32, 3, 1, 1)}, layers=("last",))
def recurrent_before_the_last(net, x):
    maps = net.stem(x)
    for _ in range(3):
        maps = maps + 0.5 * F.relu(net.c3(maps))
    return net.head(F.relu(net.last(maps)))


@cnn(EITHER, parts={"drop": lambda: nn.Dropout2d(0.1)})
def one_dropout_everywhere(net, x):
    return net.head(net.drop(F.relu(net.c3(net.drop(F.relu(net.c2(net.drop(F.relu(net.c1(x))))))))))


@cnn("right", parts={"pool": lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)})
def pool_in_ceil_mode(net, x):
    return net.head(F.relu(net.c3(net.pool(net.stem(x)))))


@cnn("right", parts={"pool": lambda: nn.AvgPool2d(2, 3, ceil_mode=True)})
def pool_with_stride_above_kernel(net, x):
    return net.head(F.relu(net.c3(net.pool(net.stem(x)))))


@cnn("right", parts={"pool": lambda: nn.MaxPool2d(2, 3, ceil_mode=True)})
def max_pool_with_stride_above_kernel(net, x):
    return net.head(F.relu(net.c3(net.pool(net.stem(x)))))


@cnn("right", parts={"pool": lambda: nn.AdaptiveMaxPool2d(5)})
def adaptive_maximum(net, x):
    return net.head(F.relu(net.c3(net.pool(net.stem(x)))))


@cnn("right", parts={"pool": lambda: nn.LPPool2d(2, 2)}, excused=("guided",))
def pool_of_powers(net, x):
    return net.head(F.relu(net.c3(net.pool(net.stem(x)))))


@cnn("refused", word="differently")
def pool_by_chance(net, x):
    return net.head(F.relu(net.c3(F.fractional_max_pool2d(net.stem(x), 2, output_size=(10, 10)))))


@cnn(EITHER)
def pooled_and_unpooled(net, x):
    maps, where = F.max_pool2d(net.stem(x), 2, return_indices=True)
    return net.head(F.relu(net.c3(F.max_unpool2d(maps, where, 2))))


@cnn("right", parts={"up": lambda: nn.ConvTranspose2d(32, 32, 2, 2)}, layers=("up",))
def transposed_convolution(net, x):
    return net.head(F.relu(net.up(net.trunk(x))))


@cnn("right", parts={"last": conv(32, 32, 3, 1, 4, dilation=4, padding_mode="reflect")}, layers=("last",))
def dilated_and_reflected(net, x):
    return net.head(F.relu(net.last(net.trunk(x))))


@cnn(EITHER, parts={"where": conv(32, 18, 3, 1, 1), "deform": lambda: DeformConv2d(32, 32, 3, padding=1)})
def deformable_convolution(net, x):
    maps = net.stem(x)
    return net.head(F.relu(net.deform(maps, net.where(maps))))


@cnn("right", parts={"n1": lambda: nn.GroupNorm(4, 16), "n2": lambda: nn.GroupNorm(8, 32)})
def group_norms(net, x):
    return net.head(F.mish(net.c3(F.softplus(net.n2(net.c2(F.pad(net.n1(net.c1(x)), (1, 1, 1, 1), mode="reflect")))))))


@cnn("right", parts={"norm": lambda: nn.LocalResponseNorm(5)})
def local_response_norm(net, x):
    return net.head(net.norm(net.trunk(x)))


@cnn("right", parts={"norm": lambda: nn.BatchNorm2d(32, affine=False)})
def batch_norm_without_weights(net, x):
    return net.head(F.relu(net.norm(net.c3(net.stem(x)))))


@cnn("right", parts={"norm": lambda: nn.LayerNorm(32)}, layers=("norm",))
def channels_last_norm(net, x):
    return net.fc(net.norm(net.trunk(x).permute(0, 2, 3, 1)).mean((1, 2)))


@cnn("right", parts={"mix": lambda: nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))})
def channels_last_perceptron(net, x):
    return net.fc(net.mix(net.trunk(x).permute(0, 2, 3, 1)).mean((1, 2)))


@cnn(EITHER, parts={"across": conv(32, 32, (1, 16)), "down": conv(32, 32, (5, 1))})
def columns_only(net, x):
    return net.head(F.relu(net.down(F.relu(net.across(net.trunk(x))))))


@cnn(EITHER, parts={"squeeze": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 32, 1), nn.Sigmoid())})
def squeeze_and_excite_last(net, x):
    maps = net.trunk(x)
    return net.head(maps * net.squeeze(maps))


@cnn("right", parts={"same": lambda: nn.Identity(), "pool": lambda: nn.AdaptiveAvgPool2d(4)}, layers=("c3", "same"))
def identity_and_pool_last(net, x):
    return net.head(net.pool(net.same(F.relu(net.c3(net.stem(x))))))


@cnn("right", parts={"norm": lambda: nn.BatchNorm2d(32)}, layers=("norm",))
def layer_before_an_in_place_sum(net, x):
    maps = net.norm(net.trunk(x))
    maps += 1
    maps *= 2
    return net.head(maps)


@cnn(EITHER)
def in_place_where_autograd_forbids(net, x):
    maps = net.trunk(x)
    maps *= maps
    return net.head(maps)


@cnn("right")
def in_place_everywhere(net, x):
    x.sub_(0.1).mul_(2)
    maps = net.c2(F.relu_(net.c1(x))).add_(1).relu_()
    return net.head(net.c3(maps).clamp_(-2, 2).sub_(0.5))


@cnn(EITHER, parts={"d": conv(32, 32, 1), "gate": lambda: nn.Parameter(torch.tensor([0.3, 0.7]))})
def weighted_paths(net, x):
    maps = net.stem(x)
    return net.head(net.gate[0] * F.relu(net.c3(maps)) + net.gate[1] * F.relu(net.d(maps)))


@cnn(EITHER)
def convolution_by_hand(net, x):
    maps = net.stem(x)
    cells = F.unfold(maps, 3, padding=1)
    return net.fc(F.relu(net.c3.weight.flatten(1) @ cells).mean(2))


@cnn(EITHER, parts={"routes": lambda: nn.Conv2d(32, 1, 1)})
def strongest_cells_only(net, x):
    maps = net.trunk(x)
    gate = net.routes(maps)
    kept = (gate >= gate.flatten(2).topk(64, 2).values[..., -1:, None]).to(x.dtype)
    return net.head(maps * kept * gate.sigmoid())


@cnn("right", parts={"few": conv(32, 3, 1)}, layers=("few",))
def as_many_channels_as_colours(net, x):
    few = net.few(net.trunk(x))
    return few.mean((2, 3))


@cnn("right", parts={"one": conv(32, 1, 1), "out": lambda: nn.Linear(256, 3)}, layers=("one",))
def one_channel_last(net, x):
    return net.out(net.one(net.trunk(x)).flatten(1))
