"""Networks that see the picture otherwise: mirrored, turned, cropped, several times, at several scales."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.soundness.odd.table import cnn

EITHER = "right or refused"


@cnn(EITHER)
def flip_averaging(net, x):
    return (net.head(net.trunk(x)) + net.head(net.trunk(x.flip(3)))) / 2


@cnn(EITHER)
def flip_averaging_up_and_down(net, x):
    return (net.head(net.trunk(x.flip(2))) + net.head(net.trunk(x))) / 2


@cnn(EITHER)
def flip_averaging_of_maps(net, x):
    return net.head((net.trunk(x) + net.trunk(x.flip(3)).flip(3)) / 2)


@cnn(EITHER)
def flips_in_the_batch(net, x):
    return net.head(net.trunk(torch.cat([x, x.flip(3)]))).unflatten(0, (2, len(x))).mean(0)


@cnn(EITHER)
def turned_averaging(net, x):
    return sum(net.head(net.trunk(torch.rot90(x, turn, (2, 3)))) for turn in range(4)) / 4


@cnn(EITHER)
def mirrored_inside(net, x):
    return net.head(net.trunk(x.flip(3)))


@cnn(EITHER)
def upside_down_inside(net, x):
    return net.head(net.trunk(x.flip(2)))


@cnn(EITHER)
def transposed_inside(net, x):
    return net.head(net.trunk(x.transpose(2, 3)))


@cnn(EITHER)
def turned_inside(net, x):
    return net.head(net.trunk(torch.rot90(x, 1, (2, 3))))


@cnn(EITHER)
def centre_crop_inside(net, x):
    return net.head(net.trunk(x[:, :, 16:48, 16:48]))


@cnn(EITHER)
def narrow_crop_inside(net, x):
    return net.head(net.trunk(x[:, :, 8:56, 8:56]))


@cnn(EITHER)
def left_half_only(net, x):
    return net.head(net.trunk(x[..., :32]))


@cnn(EITHER)
def siamese_halves(net, x):
    return net.head(net.trunk(x[..., :32])) - net.head(net.trunk(x[..., 32:]))


@cnn(EITHER)
def siamese_crops(net, x):
    return net.head(net.trunk(x[..., :48, :48])) + net.head(net.trunk(x[..., 16:, 16:]))


@cnn(EITHER)
def picture_and_its_centre(net, x):
    return net.head(net.trunk(x)) + net.head(net.trunk(F.interpolate(x[..., 16:48, 16:48], scale_factor=2.0)))


@cnn(EITHER)
def pyramid(net, x):
    return net.head(net.trunk(x)) + net.head(net.trunk(F.avg_pool2d(x, 2)))


@cnn(EITHER)
def brightness_averaging(net, x):
    return sum(net.head(net.trunk(x * factor)) for factor in (0.9, 1.0, 1.1)) / 3


@cnn("right")
def enlarged_inside(net, x):
    return net.head(net.trunk(F.interpolate(x, size=(96, 96), mode="bilinear", align_corners=False)))


@cnn(EITHER)
def squeezed_inside(net, x):
    return net.head(net.trunk(F.interpolate(x, size=(32, 64), mode="bilinear", align_corners=False)))


@cnn(EITHER)
def padded_inside(net, x):
    return net.head(net.trunk(F.pad(x, (16, 16, 16, 16))))


@cnn(EITHER)
def shifted_inside(net, x):
    return net.head(net.trunk(x.roll((24, 24), (2, 3))))


@cnn(EITHER)
def quadrants_exchanged(net, x):
    return net.head(net.trunk(x.roll((32, 32), (2, 3))))


@cnn(EITHER, parts={"where": lambda: nn.Linear(32, 6)})
def spatial_transformer(net, x):
    moved = net.where(net.stem(x).mean((2, 3))) * 0.1 + torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=x.dtype)
    grid = F.affine_grid(moved.unflatten(1, (2, 3)), list(x.shape), align_corners=False)
    return net.head(net.trunk(F.grid_sample(x, grid, align_corners=False)))


@cnn(EITHER)
def transposed_maps(net, x):
    return net.head(F.relu(net.c3(net.stem(x).transpose(2, 3))))


@cnn(EITHER)
def mirrored_maps(net, x):
    return net.head(F.relu(net.c3(net.stem(x).flip(3))))


@cnn(EITHER, parts={"mix": lambda: nn.Linear(256, 256)})
def scrambled_cells(net, x):
    cells = net.mix(net.stem(x).flatten(2)).unflatten(2, (16, 16))
    return net.head(F.relu(net.c3(cells)))


@cnn("right", parts={"first": lambda: nn.Conv2d(48, 3, 1)})
def space_to_depth(net, x):
    return net.head(net.c3(F.relu(net.c2(F.relu(net.c1(net.first(F.pixel_unshuffle(x, 4))))))))


@cnn(EITHER, parts={"frequencies": lambda: nn.Conv2d(64, 32, 1)})
def frequency_domain(net, x):
    spectrum = torch.fft.rfft2(net.trunk(x), norm="ortho")
    return net.head(F.relu(net.frequencies(torch.cat([spectrum.real, spectrum.imag], 1))))


@cnn("right", parts={"filter": lambda: nn.Parameter(torch.randn(32, 16, 9))})
def filtered_in_the_frequency_domain(net, x):
    maps = torch.fft.irfft2(torch.fft.rfft2(net.stem(x)) * net.filter.sigmoid(), s=(16, 16))
    return net.head(F.relu(net.c3(maps)))


@cnn("right", parts={"grey": lambda: nn.Conv2d(1, 16, 3, 2, 1)})
def grey_inside(net, x):
    return net.head(F.relu(net.c3(F.relu(net.c2(F.relu(net.grey(x.mean(1, keepdim=True))))))))


@cnn(EITHER, parts={"rows": lambda: nn.GRU(32 * 16, 32, batch_first=True)})
def recurrent_over_rows(net, x):
    return net.fc(net.rows(net.trunk(x).permute(0, 2, 1, 3).flatten(2))[0].mean(1))


@cnn(EITHER, parts={"deep": lambda: nn.Conv3d(1, 4, 3, 1, 1)})
def colours_as_depth(net, x):
    return net.head(net.trunk(net.deep(x[:, None]).mean(1)))
