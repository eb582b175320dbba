"""Networks whose rows are not simply pictures: folded windows and crops, statistics of the batch, other orders."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.soundness.odd.table import Convolutional, cnn

EITHER = "right or refused"


def fold(x: Tensor, parts: int) -> Tensor:
    """(N, C, h, w) to windows (N * parts * parts, C, h / parts, w / parts)."""
    n, c, h, w = x.shape
    x = x.reshape(n, c, parts, h // parts, parts, w // parts).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(n * parts * parts, c, h // parts, w // parts)


def unfold(x: Tensor, parts: int) -> Tensor:
    """Back."""
    n, c, h, w = x.shape[0] // parts**2, *x.shape[1:]
    return x.reshape(n, parts, parts, c, h, w).permute(0, 3, 1, 4, 2, 5).reshape(n, c, parts * h, parts * w)


@cnn(EITHER, parts={"window": lambda: nn.Conv2d(32, 32, 3, 1, 1)})
def windows_in_batch(net, x):
    return net.head(unfold(F.relu(net.window(fold(net.trunk(x), 2))), 2))


@cnn(
    EITHER, parts={"window": lambda: nn.Conv2d(32, 32, 3, 1, 1), "last": lambda: nn.Conv2d(32, 32, 1)}, layers=("last",)
)
def windows_before_a_convolution(net, x):
    return net.head(F.relu(net.last(unfold(F.relu(net.window(fold(net.trunk(x), 2))), 2))))


@cnn(EITHER)
def crops_in_batch_by_picture(net, x):
    crops = torch.stack([x[:, :, top : top + 48, left : left + 48] for top in (0, 16) for left in (0, 16)], 1)
    return net.head(net.trunk(crops.flatten(0, 1))).unflatten(0, (len(x), 4)).mean(1)


@cnn(EITHER)
def crops_in_batch_by_crop(net, x):
    crops = torch.cat([x[:, :, top : top + 48, left : left + 48] for top in (0, 16) for left in (0, 16)])
    return net.head(net.trunk(crops)).unflatten(0, (4, len(x))).mean(0)


@cnn(EITHER)
def channels_in_batch(net, x):
    single = x.flatten(0, 1)[:, None].expand(-1, 3, -1, -1)
    return net.head(net.trunk(single)).unflatten(0, (len(x), 3)).mean(1)


@cnn(EITHER)
def batch_in_channels(net, x):
    maps = net.trunk(x)
    joined = F.conv2d(maps.flatten(0, 1)[None], net.c3.weight.repeat(len(x), 1, 1, 1), padding=1, groups=len(x))
    return net.head(joined[0].unflatten(0, (len(x), 32)))


@cnn(EITHER, parts={"bn": lambda: nn.BatchNorm2d(32, track_running_stats=False)})
def batch_statistics(net, x):
    return net.head(F.relu(net.c3(F.relu(net.bn(net.c2(F.relu(net.c1(x))))))))


@cnn(EITHER)
def batch_statistics_by_function(net, x):
    return net.head(F.relu(F.batch_norm(net.trunk(x), None, None, training=True)))


@cnn(EITHER)
def batch_mean(net, x):
    maps = net.trunk(x)
    return net.head(maps + maps.mean(0, keepdim=True))


@cnn(EITHER)
def batch_maximum(net, x):
    maps = net.trunk(x)
    return net.head(maps / (1 + maps.amax(0, keepdim=True)))


@cnn(EITHER)
def batch_softmax(net, x):
    maps = net.trunk(x)
    return net.head(maps * maps.softmax(0))


@cnn(EITHER)
def batch_sorted(net, x):
    return net.head(net.trunk(x).sort(0).values)


@cnn(EITHER)
def batch_rolled(net, x):
    maps = net.trunk(x)
    return net.head(maps + 0.3 * maps.roll(1, 0))


@cnn(EITHER)
def first_row_to_all(net, x):
    maps = net.trunk(x)
    return net.head(maps + 0.3 * maps[:1])


@cnn(EITHER)
def divided_by_the_batch_size(net, x):
    return net.head(net.trunk(x)) / len(x)


@cnn(EITHER)
def batch_reversed_inside(net, x):
    return net.head(net.trunk(x.flip(0)).flip(0))


@cnn(EITHER)
def batch_repeated_inside(net, x):
    both = net.head(net.trunk(torch.cat([x, 0.5 * x])))
    return both[: len(x)] + both[len(x) :]


@cnn(EITHER)
def batch_interleaved_inside(net, x):
    return net.head(net.trunk(x.repeat_interleave(2, 0)))[::2]


@cnn(EITHER)
def loop_over_the_batch(net, x):
    return torch.cat([net.head(net.trunk(one[None])) for one in x])


@cnn(EITHER)
def loop_without_batch(net, x):
    return torch.stack([net.fc(net.trunk(one).mean((1, 2))) for one in x])


@cnn(EITHER)
def batch_in_two_chunks(net, x):
    return torch.cat([net.head(net.trunk(one)) for one in x.chunk(2)])


@cnn("right or refused", word="fail")
def one_picture_only(net, x):
    return net.head(net.trunk(x.reshape(1, 3, 64, 64)))


@cnn(EITHER, parts={"norm": lambda: nn.InstanceNorm2d(32, affine=True)})
def instance_statistics(net, x):
    return net.head(F.relu(net.norm(net.trunk(x))))


@cnn(EITHER)
def mapped_over_rows(net, x):
    return torch.func.vmap(lambda one: Convolutional.head(net, net.trunk(one[None]))[0])(x)


@cnn(EITHER)
def sorted_by_brightness_inside(net, x):
    order = x.mean((1, 2, 3)).argsort()
    return net.head(net.trunk(x[order]))[order.argsort()]


@cnn(EITHER, excused=("differences",))
def gradient_crosses_rows_only(net, x):
    maps = net.trunk(x)
    return net.head(maps) + 0.5 * (net.fc(maps.mean((0, 2, 3))) - net.fc(maps.detach().mean((0, 2, 3))))
