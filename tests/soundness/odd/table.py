"""The table of odd networks: what each is built of, and what the product must make of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 64  # pixels
CLASSES = 3
Run = Callable[[Any, Tensor], Any]


@dataclass(frozen=True)
class Odd:
    """One odd network."""

    make: Callable[[], nn.Module]
    verdicts: tuple[str, ...]  # those that are right of it
    word: str  # that a refusal must contain, in lower case
    layers: tuple[str, ...]  # that the product may choose; none: any that keeps the contracts
    excused: tuple[str, ...]  # contracts that do not hold of the network itself
    classes: int
    enlivened: bool  # whether its weights are drawn anew

    def build(self) -> nn.Module:
        """The same weights each time."""
        torch.manual_seed(0)
        return self.make().eval()


TABLE: dict[str, Odd] = {}


def odd(
    expected: str,
    *,
    word: str = "",
    layers: tuple[str, ...] = (),
    excused: tuple[str, ...] = (),
    classes: int = CLASSES,
    enlivened: bool = True,
) -> Callable[[Callable[[], nn.Module]], Any]:
    """Enters a class or function that makes a network.

    Args:
        expected: "right", "refused" or "right or refused".
        word: see ``Odd``, as are the others.
        layers: likewise.
        excused: likewise.
        classes: likewise.
        enlivened: likewise.
    """

    def enter(make: Callable[[], nn.Module], name: str | None = None) -> Any:
        key = name or make.__name__
        assert key not in TABLE, key
        TABLE[key] = Odd(make, tuple(expected.split(" or ")), word, layers, excused, classes, enlivened)
        return make

    return enter


def cnn(expected: str, *, parts: dict[str, Callable[[], Any]] | None = None, **options: Any) -> Callable[[Run], Run]:
    """Enters ``run(net, x)`` as the forward pass of a ``Convolutional`` with further parts."""
    return _running(Convolutional, expected, parts, options)


def vit(expected: str, *, parts: dict[str, Callable[[], Any]] | None = None, **options: Any) -> Callable[[Run], Run]:
    """Enters ``run(net, x)`` as the forward pass of a ``Tokenised`` with further parts."""
    return _running(Tokenised, expected, parts, options)


def _running(
    kind: Callable[..., nn.Module], expected: str, parts: dict[str, Callable[[], Any]] | None, options: dict[str, Any]
) -> Callable[[Run], Run]:
    scores = options.get("classes", CLASSES)

    def enter(run: Run) -> Run:
        odd(expected, **options)(partial(kind, run, parts or {}, scores), run.__name__)  # type: ignore[call-arg]
        return run

    return enter


class Running(nn.Module):
    """Parts, and a function that runs them."""

    def __init__(self, run: Run, parts: dict[str, Callable[[], Any]]) -> None:
        super().__init__()
        self.run = run
        for name, make in parts.items():
            setattr(self, name, make())

    def forward(self, x: Tensor) -> Any:
        """Whatever the function returns."""
        return self.run(self, x)


class Convolutional(Running):
    """Three convolutions to 32 maps of 16 × 16 cells, and a linear layer."""

    def __init__(self, run: Run, parts: dict[str, Callable[[], Any]], scores: int = CLASSES) -> None:
        super().__init__(run, parts)
        self.c1, self.c2 = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1)
        self.c3, self.fc = nn.Conv2d(32, 32, 3, 1, 1), nn.Linear(32, scores)

    def stem(self, x: Tensor) -> Tensor:
        """(N, 32, 16, 16)."""
        return F.relu(self.c2(F.relu(self.c1(x))))

    def trunk(self, x: Tensor) -> Tensor:
        """(N, 32, 16, 16)."""
        return F.relu(self.c3(self.stem(x)))

    def head(self, maps: Tensor) -> Tensor:
        """(N, K)."""
        scores: Tensor = self.fc(maps.mean((2, 3)))
        return scores


class Attention(nn.Module):
    """Self-attention with two heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) to the same."""
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (c // 2) ** -0.5).softmax(-1)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(n, t, c))
        return out


class Block(nn.Module):
    """A transformer's block."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(width), Attention(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) to the same."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Tokenised(Running):
    """A convolution to 8 × 8 tokens of 32 channels, two blocks, a norm and a linear layer."""

    def __init__(self, run: Run, parts: dict[str, Callable[[], Any]], scores: int = CLASSES) -> None:
        super().__init__(run, parts)
        self.patch, self.blocks = nn.Conv2d(3, 32, 8, 8), nn.Sequential(Block(), Block())
        self.norm, self.fc = nn.LayerNorm(32), nn.Linear(32, scores)
        self.cls, self.position = nn.Parameter(torch.randn(1, 2, 32)), nn.Parameter(0.1 * torch.randn(1, 64, 32))

    def tokens(self, x: Tensor) -> Tensor:
        """(N, 64, 32)."""
        out: Tensor = self.patch(x).flatten(2).transpose(1, 2) + self.position
        return out

    def with_class(self, x: Tensor, count: int = 1) -> Tensor:
        """(N, count + 64, 32)."""
        return torch.cat([self.cls[:, :count].expand(len(x), -1, -1), self.tokens(x)], 1)

    def head(self, tokens: Tensor) -> Tensor:
        """(N, K), of tokens (N, T, C)."""
        scores: Tensor = self.fc(self.norm(tokens).mean(1))
        return scores
