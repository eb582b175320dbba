"""Which layers have a map, and which one is taken: on networks whose right answer is known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from handler.autograd.layer_maps import CHANNELS_FIRST, ChannelLayout
from handler.errors import ModelError
from handler.model.layers.cells import find_cells, parts
from handler.model.layers.find import LAST, LAST_OF_CELLS, MappedNetwork, find_layers

SIDE = 64


class Trunk(nn.Module):
    """Two convolutions to 16 maps of 16 × 16 cells, and three scores."""

    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1), nn.Linear(16, 3)

    def features(self, x):
        return F.relu(self.c2(F.relu(self.c1(x))))

    def head(self, maps):
        return self.fc(maps.mean((2, 3)))

    def forward(self, x):
        return self.head(self.features(x))


def look(kind) -> MappedNetwork:
    torch.manual_seed(0)
    return find_layers(kind().eval().requires_grad_(False), "odd", (3, SIDE, SIDE))


class BatchStatistics(Trunk):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(16, track_running_stats=False)

    def forward(self, x):
        return self.head(self.norm(self.features(x)))


class BatchMean(Trunk):
    def forward(self, x):
        maps = self.features(x)
        return self.head(maps + 0.01 * maps.mean(0, keepdim=True))


class GradientsMix(Trunk):
    """The scores are a picture's own, their gradients are not."""

    def forward(self, x):
        maps = self.features(x)
        mean = maps.mean((0, 2, 3))
        return self.head(maps) + self.fc(mean) - self.fc(mean.detach())


class OnePictureOnly(Trunk):
    def forward(self, x):
        return self.head(self.features(x).reshape(1, 16, 16, 16))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (BatchStatistics, "a picture's scores depend on the other pictures of its batch"),
        (BatchMean, "a picture's scores depend on the other pictures of its batch"),
        (GradientsMix, "a picture's gradients depend on the other pictures of its batch"),
        (OnePictureOnly, "it fails on 2 pictures at once"),
        (Trunk, ""),
    ],
)
def test_pictures_that_mix_are_run_one_by_one(kind, why):
    found = look(kind)
    assert found.alone.startswith(why)
    assert bool(found.alone) == bool(why)


class Windows(Trunk):
    """Four windows of each picture side by side in the batch, as in Swin's attention."""

    def __init__(self):
        super().__init__()
        self.windowed = nn.Conv2d(16, 16, 1)

    def forward(self, x):
        maps = self.features(x)
        n, c, h, w = maps.shape
        windows = maps.reshape(n, c, 2, h // 2, 2, w // 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, h // 2, w // 2)
        return self.fc(self.windowed(windows).mean((2, 3)).reshape(n, 4, c).mean(1))


class Rolled(Trunk):
    """The rows of a batch change places inside, and back."""

    def __init__(self):
        super().__init__()
        self.c3 = nn.Conv2d(16, 16, 1)

    def forward(self, x):
        return self.head(self.c3(self.features(x).roll(1, 0)).roll(-1, 0))


@pytest.mark.parametrize(
    ("kind", "path", "why"),
    [
        (Windows, "windowed", "it has 4 rows for one picture"),
        (Rolled, "c3", "its rows depend on other pictures of the batch"),
    ],
)
def test_a_layer_without_a_row_for_each_picture_is_refused(kind, path, why):
    found = look(kind)
    assert (found.refused_layers[path], found.default_layer) == (why, "c2")


class Aside(Trunk):
    """A decoder, a positional table, an auxiliary head and a detached branch run last."""

    def __init__(self):
        super().__init__()
        self.decoder, self.table = nn.Conv2d(16, 4, 3, 1, 1), nn.Conv2d(2, 16, 1)
        self.detached, self.join = nn.Conv2d(16, 16, 1), nn.Identity()

    def forward(self, x):
        maps = self.features(x)
        place = torch.linspace(-1, 1, 16).expand(len(x), 2, 16, 16)
        scores = self.head(maps + self.table(place) + 0 * self.detached(maps.detach()))
        self.decoder(maps)
        return scores


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Conv2d(16, 16, 3, 1, 1)

    def forward(self, x):
        return {"weights": x.mean(1), "out": [x + self.branch(x)]}


class JoinInADictionary(Trunk):
    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        return self.head(self.block(self.features(x))["out"][0])


class JoinOfFunctions(Trunk):
    """No layer returns the join of the two branches: the last layer before they part is taken."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, 1, 1)

    def forward(self, x):
        maps = self.features(x)
        return self.head(self.left(maps) + self.right(maps))


@pytest.mark.parametrize(
    ("kind", "path", "view"),
    [
        (Aside, "c2", ChannelLayout()),
        (JoinInADictionary, "block", ChannelLayout(element=1)),
        (JoinOfFunctions, "c2", ChannelLayout()),
    ],
)
def test_the_default_is_the_last_layer_that_all_of_the_picture_passes(kind, path, view):
    found = look(kind)
    assert (found.default_layer, found.layer_rule, found.views.get(path, CHANNELS_FIRST)) == (path, LAST, view)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(32, 96)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return (q @ k.transpose(1, 2) / 6).softmax(-1) @ v


class Transformer(nn.Module):
    """8 × 8 tokens behind ``others`` that are no part of the picture; the scores read ``read`` of those."""

    def __init__(self, others=1, read=1, norm=nn.LayerNorm, behind=False):
        super().__init__()
        self.patch, self.read, self.behind = nn.Conv2d(3, 32, 8, 8), read, behind
        self.norm1, self.attn1, self.norm2, self.attn2 = norm(32), Attention(), norm(32), Attention()
        self.fc, self.others = nn.Linear(32, 3), nn.Parameter(torch.randn(1, others, 32))

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        others = self.others.expand(len(x), -1, -1)
        x = torch.cat([x, others] if self.behind else [others, x], 1)
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x))
        return self.fc((x[:, -self.read :] if self.behind else x[:, : self.read]).mean(1))


@pytest.mark.parametrize(
    ("how", "first"),
    [
        ({}, 1),
        ({"others": 2, "read": 2}, 2),  # distilled
        ({"others": 5}, 5),  # registers
        ({"others": 3, "behind": True}, 0),
    ],
    ids=["class-token", "distilled", "registers", "behind"],
)
def test_of_class_tokens_it_is_the_last_blocks_norm(how, first):
    found = look(lambda: Transformer(**how))
    view = ChannelLayout(channel_axis=2, grid=(8, 8), first_token=first)
    assert (found.default_layer, found.views.get("norm2", CHANNELS_FIRST)) == ("norm2", view)
    assert "attn2.qkv" in found.layers
    assert found.refused_layers["attn2"] == "the scores have no gradient at its cells"


def test_the_rule_of_class_tokens_says_so():
    class WithABlock(Transformer):
        def __init__(self):
            super().__init__()
            self.join = nn.Identity()

        def forward(self, x):
            x = torch.cat([self.others.expand(len(x), -1, -1), self.patch(x).flatten(2).transpose(1, 2)], 1)
            x = self.norm1(x + self.attn1(x))
            x = x + self.attn2(self.norm2(x))
            return self.fc(x[:, 0])

    found = look(WithABlock)
    assert (found.default_layer, found.layer_rule) == ("norm2", LAST_OF_CELLS)


class SequenceFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.fc = nn.Conv2d(3, 32, 8, 8), nn.Linear(32, 3)
        self.encoder = nn.TransformerEncoderLayer(32, 2, 64, dropout=0)

    def forward(self, x):
        return self.fc(self.encoder(self.patch(x).flatten(2).permute(2, 0, 1)).mean(0))


def test_sequences_may_come_first():
    found = look(SequenceFirst)
    view = ChannelLayout(batch_axis=1, channel_axis=2, grid=(8, 8))
    assert (found.default_layer, found.views.get("encoder", CHANNELS_FIRST)) == ("encoder", view)


class Latents(nn.Module):
    """A square number of latents reads the picture's tokens: they are no map of it."""

    def __init__(self):
        super().__init__()
        self.patch, self.fc, self.kv = nn.Conv2d(3, 32, 8, 8), nn.Linear(32, 3), nn.Linear(32, 64)
        self.latents, self.norm = nn.Parameter(torch.randn(1, 64, 32)), nn.LayerNorm(32)

    def forward(self, x):
        keys, values = self.kv(self.patch(x).flatten(2).transpose(1, 2)).chunk(2, -1)
        found = (self.latents @ keys.transpose(1, 2)).softmax(-1) @ values
        return self.fc(self.norm(found).mean(1))


class AttentionMaps(nn.Module):
    """Attention of 64 tokens to 64 others is square, and no map."""

    def __init__(self):
        super().__init__()
        self.patch, self.fc, self.dropout = nn.Conv2d(3, 32, 8, 8), nn.Linear(32, 3), nn.Dropout2d()
        self.weights = nn.Softmax(-1)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        weights = self.weights((x @ x.transpose(1, 2))[:, None])
        return self.fc((weights[:, 0] @ x).mean(1))


@pytest.mark.parametrize(("kind", "path"), [(Latents, "norm"), (AttentionMaps, "weights")])
def test_what_is_as_square_as_a_map_is_none(kind, path):
    found = look(kind)
    assert found.refused_layers[path] == "its cells do not follow the picture's content from edge to edge"
    assert found.default_layer == "patch"


class Seen(Trunk):
    """The trunk sees the picture as ``how`` shows it."""

    def __init__(self, *how):
        super().__init__()
        self.how = how

    def forward(self, x):
        return sum(self.head(self.features(how(x))) for how in self.how)


def mirrored(x):
    return x.flip(3)


def turned_over(x):
    return x.flip(2)


def transposed(x):
    return x.transpose(2, 3)


def upright(x):
    return x


@pytest.mark.parametrize(
    ("how", "view", "channels"),
    [
        ((mirrored,), ChannelLayout(runs=((False, True),)), 16),
        ((turned_over,), ChannelLayout(runs=((True, False),)), 16),
        ((transposed,), ChannelLayout(transposed=True), 16),
        ((upright, mirrored), ChannelLayout(runs=((False, False), (False, True))), 32),
    ],
    ids=["mirrored", "upside-down", "transposed", "flip-averaging"],
)
def test_a_trunk_that_sees_the_picture_otherwise_has_its_maps_put_back(how, view, channels):
    found = look(lambda: Seen(*how))
    assert (found.default_layer, found.views.get("c2", CHANNELS_FIRST)) == ("c2", view)
    assert found.layers["c2"] == (channels, 16, 16)


@pytest.mark.parametrize(
    "how",
    [
        lambda x: x[:, :, 8:-8, 8:-8],
        lambda x: x[..., :32],
        lambda x: x.roll(24, 2),
        lambda x: x.roll((32, 32), (2, 3)),
        lambda x: F.pad(x, (32, 32, 32, 32)),
    ],
    ids=["cropped", "half", "moved", "exchanged", "framed"],
)
def test_a_trunk_that_sees_something_else_than_the_picture_is_refused(how):
    why = "its cells do not follow the picture's content from edge to edge"
    with pytest.raises(ModelError, match=f"no layer with a map .* every path .* goes through .*c2: {why}"):
        look(lambda: Seen(how))


def test_the_last_run_of_a_layer_counts_where_runs_follow_each_other():
    class Again(Trunk):
        def forward(self, x):
            maps = self.features(x)
            return self.head(self.again(self.again(maps)))

        def __init__(self):
            super().__init__()
            self.again = nn.Conv2d(16, 16, 3, 1, 1)

    found = look(Again)
    assert (found.default_layer, found.views.get("again", CHANNELS_FIRST).runs) == ("again", (None, (False, False)))
    assert found.layers["again"] == (16, 16, 16)


@pytest.mark.parametrize("hidden", [torch.no_grad, torch.inference_mode])
def test_a_trunk_that_runs_without_gradients_has_them_all_the_same(hidden):
    class Frozen(Trunk):
        def forward(self, x):
            with hidden():
                maps = self.features(x)
            return self.head(maps)

    assert look(Frozen).default_layer == "c2"


def test_a_detached_trunk_is_told():
    class Detached(Trunk):
        def forward(self, x):
            return self.head(self.features(x).detach())

    with pytest.raises(ModelError, match=r"have no gradient at the picture.*detach\(\).*freeze weights with requires"):
        look(Detached)


def test_cells_are_found_whatever_their_weights():
    """Cells that change with the band that they lie in, and a little with all the others."""
    rows, columns = 4, 6
    y, x = (number * 8 // count for number, count in ((torch.arange(rows), rows), (torch.arange(columns), columns)))
    found = []
    for down, across in parts(8, 8):
        inside_y = torch.zeros(8)
        inside_y[down] = 1
        inside_x = torch.zeros(8)
        inside_x[across] = 1
        found.append((inside_y[y][:, None] * inside_x[x][None, :] + 0.1).double().numpy())
    assert find_cells({1: found}) == ChannelLayout()
    turned = ChannelLayout(transposed=True, runs=((False, True),))
    assert find_cells({1: [one.T[::-1] for one in found]}) == turned
    tokens = ChannelLayout(grid=(4, 6), first_token=2)
    assert find_cells({1: [np.concatenate([np.ones(2), one.ravel()]) for one in found]}, 1.5) == tokens


@pytest.mark.parametrize(
    "before",
    [
        lambda x: x[:, [2, 1, 0]],
        lambda x: x.flip(1),
        lambda x: F.pad(x, (3, 3, 3, 3), mode="reflect"),
        lambda x: F.pad(x, (3, 3, 3, 3), mode="replicate"),
        lambda x: F.conv2d(x, torch.ones(3, 1, 2, 2), padding="valid", groups=3),
        lambda x: torch.cat([x[:, colour].unsqueeze(1) * 2 + 1 for colour in range(3)], 1),
    ],
    ids=["other-colours", "flipped-colours", "reflected", "replicated", "padding-by-name", "colour-by-colour"],
)
def test_maps_of_few_cells_are_known_by_what_made_them(before):
    class Deep(Trunk):
        def __init__(self):
            super().__init__()
            self.deep = nn.Sequential(*[nn.Conv2d(16, 16, 3, 2, 1) for _ in range(3)])

        def forward(self, x):
            return self.head(self.deep(self.features(before(x))))

    found = look(Deep)
    assert (found.default_layer, found.views.get("deep", CHANNELS_FIRST)) == ("deep", ChannelLayout())


class EarlyExit(Trunk):
    def __init__(self):
        super().__init__()
        self.late = nn.Conv2d(16, 16, 3, 1, 1)

    def forward(self, x):
        maps = self.features(x)
        scores = self.head(maps)
        if scores.softmax(1).max() > 0.99:
            return scores
        return self.head(self.late(maps))


def test_a_network_that_decides_by_the_picture_is_run_one_by_one():
    assert look(EarlyExit).alone.startswith("its code reads values that come from the picture")


def test_a_layer_that_only_some_pictures_reach_is_refused():
    class Branches(Trunk):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.seen = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1), []

        def forward(self, x):
            maps = self.features(x)
            self.seen.append(float(x.detach().sum()))
            first = self.seen.index(self.seen[-1]) == 0  # whether it is the first picture again
            return self.head(self.left(maps) if first and x.sum() != 0 else self.right(maps))

    found = look(Branches)
    assert (found.default_layer, found.refused_layers["left"]) == ("c2", "it does not run for every picture")


def test_tokens_of_two_scales_are_no_map():
    class TwoScales(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.norm, self.fc = nn.Conv2d(3, 32, 8, 8), nn.LayerNorm(32), nn.Linear(32, 3)

        def forward(self, x):
            fine = self.patch(x)
            both = torch.cat([one.flatten(2).transpose(1, 2) for one in (fine, F.avg_pool2d(fine, 2))], 1)
            return self.fc(self.norm(both).mean(1))

    assert look(TwoScales).default_layer == "patch"


def test_a_projection_is_taken_where_nothing_else_is_passed():
    class Projections(nn.Module):
        def __init__(self):
            super().__init__()
            self.project, self.fc = nn.Linear(3 * 8 * 8, 32), nn.Linear(32, 3)

        def forward(self, x):
            patches = F.unfold(x, 8, stride=8).transpose(1, 2)
            return self.fc(F.relu(self.project(patches)).mean(1))

    assert look(Projections).default_layer == "project"


def test_a_head_of_zeros_mixes_no_pictures():
    class Zeros(Trunk):
        def __init__(self):
            super().__init__()
            nn.init.zeros_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)

    found = look(Zeros)
    assert (found.default_layer, found.alone) == ("c2", "")
