"""Networks of tokens: where the class tokens stand, in which order the axes are, what else looks like a map."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.soundness.odd.table import Block, cnn, vit

EITHER = "right or refused"
LAST_NORM1 = ("blocks.1.norm1",)


@vit("right", layers=LAST_NORM1)
def class_token(net, x):
    return net.fc(net.norm(net.blocks(net.with_class(x)))[:, 0])


@vit("right", layers=LAST_NORM1)
def distilled_token(net, x):
    tokens = net.norm(net.blocks(net.with_class(x, 2)))
    return (net.fc(tokens[:, 0]) + net.fc(tokens[:, 1])) / 2


@vit("right", parts={"registers": lambda: nn.Parameter(torch.randn(1, 4, 32))}, layers=LAST_NORM1)
def registers_behind_class_token(net, x):
    tokens = net.with_class(x)
    tokens = torch.cat([tokens[:, :1], net.registers.expand(len(x), -1, -1), tokens[:, 1:]], 1)
    return net.fc(net.norm(net.blocks(tokens))[:, 0])


@vit(EITHER, layers=LAST_NORM1)
def class_token_last(net, x):
    tokens = net.blocks(torch.cat([net.tokens(x), net.cls[:, :1].expand(len(x), -1, -1)], 1))
    return net.fc(net.norm(tokens)[:, -1])


# what lies behind is a map in no order that is known
@vit(EITHER, excused=("last",))
def class_token_in_the_middle(net, x):
    tokens = net.tokens(x)
    tokens = torch.cat([tokens[:, :32], net.cls[:, :1].expand(len(x), -1, -1), tokens[:, 32:]], 1)
    return net.fc(net.norm(net.blocks(tokens))[:, 32])


@vit("right")
def class_token_and_mean(net, x):
    tokens = net.norm(net.blocks(net.with_class(x)))
    return net.fc(tokens[:, 0] + tokens[:, 1:].mean(1))


@vit("right")
def mean_of_tokens(net, x):
    return net.head(net.blocks(net.tokens(x)))


@vit("right")
def mean_of_tokens_beside_registers(net, x):
    return net.head(net.blocks(net.with_class(x, 2))[:, 2:])


@cnn("right", parts={"bn": lambda: nn.BatchNorm2d(32), "norm": lambda: nn.LayerNorm(32)})
def tokens_of_a_batch_norm(net, x):
    tokens = net.bn(net.c3(net.stem(x))).flatten(2).transpose(1, 2)
    return net.fc(net.norm(tokens).mean(1))


@cnn(
    "right",
    parts={"conv": lambda: nn.Conv2d(32, 8, 2, 2), "bn": lambda: nn.BatchNorm2d(8), "out": lambda: nn.Linear(8, 3)},
)
def small_tokens_of_a_batch_norm(net, x):
    tokens = net.bn(net.conv(net.trunk(x))).flatten(2).transpose(1, 2)
    return net.out(torch.tanh(tokens).mean(1))


@cnn("right", parts={"mix": lambda: nn.Sequential(nn.Linear(32, 32), nn.Hardswish(), nn.Linear(32, 32))})
def tokens_without_layer_norm(net, x):
    tokens = net.trunk(x).flatten(2).transpose(1, 2)
    return net.fc((tokens + net.mix(tokens)).mean(1))


@vit(EITHER)
def sequence_first(net, x):
    tokens = net.tokens(x).transpose(0, 1)
    for block in net.blocks:
        tokens = tokens + block.mlp(block.norm2(tokens))
    return net.fc(net.norm(tokens).mean(0))


@vit(EITHER, parts={"encoder": lambda: nn.TransformerEncoderLayer(32, 2, 64, batch_first=False)})
def sequence_first_encoder(net, x):
    return net.fc(net.norm(net.encoder(net.tokens(x).transpose(0, 1))).mean(0))


@vit(
    "right",
    parts={"encoder": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 2, 64, batch_first=True), 2)},
)
def encoder_of_torch(net, x):
    return net.head(net.encoder(net.tokens(x)))


@cnn(EITHER, parts={"mix": lambda: nn.Conv1d(32, 32, 1)})
def tokens_channels_first(net, x):
    return net.fc(F.relu(net.mix(net.trunk(x).flatten(2))).mean(2))


@cnn(EITHER, parts={"mix": lambda: nn.Conv1d(32, 32, 1)})
def tokens_by_column(net, x):
    return net.fc(F.relu(net.mix(net.trunk(x).transpose(2, 3).flatten(2))).mean(2))


@vit(EITHER)
def tokens_by_column_with_norms(net, x):
    return net.head(net.blocks(net.patch(x).transpose(2, 3).flatten(2).transpose(1, 2)))


@vit(EITHER, parts={"order": lambda: nn.Buffer(torch.randperm(64))})
def tokens_shuffled(net, x):
    return net.head(net.blocks(net.tokens(x)[:, net.order]))


# what lies behind is a map in no order that is known
@vit(EITHER, excused=("last",))
def tokens_in_serpentines(net, x):
    grid = net.patch(x)
    grid = torch.cat([grid[:, :, ::2, None], grid[:, :, 1::2, None].flip(-1)], 3).flatten(2)
    return net.head(net.blocks(grid.transpose(1, 2)))


@vit(EITHER)
def tokens_in_windows(net, x):
    grid = net.patch(x).unflatten(2, (2, 4)).unflatten(4, (2, 4)).permute(0, 2, 4, 3, 5, 1)
    windows = grid.flatten(3, 4).flatten(1, 2)  # (N, 4 windows, 16 cells, C)
    for block in net.blocks:
        windows = windows + block.mlp(block.norm2(windows))
    return net.fc(net.norm(windows).mean((1, 2)))


@vit(EITHER)
def tokens_of_windows_in_batch(net, x):
    grid = net.patch(x).unflatten(2, (2, 4)).unflatten(4, (2, 4)).permute(0, 2, 4, 3, 5, 1)
    windows = net.blocks(grid.flatten(3, 4).flatten(0, 2))  # (N * 4, 16, C)
    return net.fc(net.norm(windows).mean(1)).unflatten(0, (len(x), 4)).mean(1)


@vit(EITHER)
def largest_tokens_only(net, x):
    tokens = net.tokens(x)
    kept = tokens.norm(dim=2).topk(36, 1).indices[..., None].expand(-1, -1, 32)
    return net.head(net.blocks(tokens.gather(1, kept)))


class Latents(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.latents, self.q, self.kv = nn.Parameter(torch.randn(1, count, 32)), nn.Linear(32, 32), nn.Linear(32, 64)

    def forward(self, tokens):
        k, v = self.kv(tokens).chunk(2, -1)
        q = self.q(self.latents)
        return self.latents + (q @ k.transpose(1, 2) / 32**0.5).softmax(-1) @ v


@vit(EITHER, parts={"latents": lambda: Latents(16)})
def latents_of_a_square_number(net, x):
    return net.head(net.blocks(net.latents(net.tokens(x))))


@vit(EITHER, parts={"latents": lambda: Latents(17)})
def latents_and_one(net, x):
    return net.head(net.blocks(net.latents(net.tokens(x))))


class AttentionMap(nn.Module):
    def __init__(self, heads=1):
        super().__init__()
        self.qk, self.heads = nn.Linear(32, 64 * heads), heads

    def forward(self, tokens):
        q, k = self.qk(tokens).unflatten(2, (2, self.heads, 32)).permute(2, 0, 3, 1, 4)
        return (q @ k.transpose(2, 3) / 32**0.5).softmax(-1)


@vit(EITHER, parts={"map": lambda: AttentionMap(2), "drop": lambda: nn.Dropout(0.1)})
def square_attention_maps(net, x):
    tokens = net.tokens(x)
    mixed = net.drop(net.map(net.norm(tokens))) @ tokens[:, None]
    return net.fc(mixed.mean((1, 2)))


@vit(EITHER, parts={"table": lambda: nn.Sequential(nn.Linear(2, 32), nn.ReLU())})
def positional_table_last(net, x):
    tokens = net.norm(net.blocks(net.tokens(x)))
    grid = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0)).expand(len(x), 64, 2)
    return net.fc((tokens * net.table(grid)).mean(1))


@cnn(EITHER, parts={"table": lambda: nn.Conv2d(2, 32, 1)})
def positional_maps_last(net, x):
    maps = net.trunk(x)
    grid = torch.stack(torch.meshgrid(torch.linspace(0, 1, 16), torch.linspace(0, 1, 16), indexing="ij"))
    return net.head(maps * net.table(grid.to(x.dtype).expand(len(x), -1, -1, -1)))


@vit("right", parts={"last": Block}, layers=("last.norm1",))
def class_token_joins_late(net, x):
    tokens = net.blocks(net.tokens(x))
    return net.fc(net.norm(net.last(torch.cat([net.cls[:, :1].expand(len(x), -1, -1), tokens], 1)))[:, 0])


@vit(EITHER, parts={"attend": lambda: nn.MultiheadAttention(32, 2, batch_first=True)})
def pooled_by_attention(net, x):
    tokens = net.norm(net.blocks(net.tokens(x)))
    return net.fc(net.attend(net.cls[:, :1].expand(len(x), -1, -1), tokens, tokens)[0][:, 0])


@vit("right", parts={"weight": lambda: nn.Linear(32, 1)})
def pooled_by_weights(net, x):
    tokens = net.norm(net.blocks(net.tokens(x)))
    return net.fc((net.weight(tokens).softmax(1) * tokens).sum(1))


class Pair(nn.Module):
    """A block that returns its tokens and something else."""

    def __init__(self, form):
        super().__init__()
        self.block, self.form = Block(), form

    def forward(self, x):
        return self.form(self.block(x), x.mean(1))


@dataclass
class Output:
    tokens: Tensor
    pooled: Tensor


@vit("right", parts={"pair": lambda: Pair(lambda *both: both)})
def blocks_return_tuples(net, x):
    return net.head(net.pair(net.blocks(net.tokens(x)))[0])


@vit("right", parts={"pair": lambda: Pair(lambda tokens, mean: {"mean": mean, "tokens": tokens})})
def blocks_return_dicts(net, x):
    return net.head(net.pair(net.blocks(net.tokens(x)))["tokens"])


@vit(EITHER, parts={"pair": lambda: Pair(Output)})
def blocks_return_dataclasses(net, x):
    return net.head(net.pair(net.blocks(net.tokens(x))).tokens)


class Residual(nn.Module):
    """Adds its branch and returns a tuple, so that a child's output is the last that is a tensor."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(32, 32, 3, 1, 1), nn.Conv2d(32, 32, 3, 1, 1)

    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(x))), None


@cnn("right", parts={"block": Residual}, layers=("block",))
def join_in_a_tuple(net, x):
    return net.head(net.block(net.trunk(x))[0])


@vit(EITHER, parts={"coarse": lambda: nn.Conv2d(3, 32, 16, 16), "other": Block, "drop": lambda: nn.Dropout(0.1)})
def two_grids_and_one_dropout(net, x):
    fine = net.drop(net.blocks(net.drop(net.tokens(x))))
    coarse = net.drop(net.other(net.drop(net.coarse(x).flatten(2).transpose(1, 2))))
    return net.fc(net.norm(fine).mean(1) + net.norm(coarse).mean(1))


@vit("right", parts={"mix": lambda: nn.Linear(64, 64)})
def mixer(net, x):
    tokens = net.tokens(x)
    tokens = tokens + 0.5 * net.mix(tokens.transpose(1, 2)).transpose(1, 2)
    return net.fc(net.norm(tokens).mean(1))


@vit(EITHER, parts={"merge": lambda: nn.Linear(128, 32)})
def merged_tokens(net, x):
    grid = net.blocks(net.tokens(x)).unflatten(1, (4, 2, 4, 2)).transpose(2, 3).flatten(3).flatten(1, 2)
    return net.fc(net.norm(net.merge(grid)).mean(1))


@vit("right", parts={"lstm": lambda: nn.LSTM(32, 16, bidirectional=True, batch_first=True)})
def tokens_through_an_lstm(net, x):
    return net.fc(net.norm(net.lstm(net.tokens(x))[0]).mean(1))


@vit(EITHER)
def patches_by_reshaping(net, x):
    patches = x.unflatten(2, (8, 8)).unflatten(4, (8, 8)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    tokens = F.linear(patches, net.patch.weight.flatten(1), net.patch.bias)
    return net.head(net.blocks(tokens))
