"""Where a layer's output has its channels: convolutions have them second, transformers last, behind cells or tokens."""

from dataclasses import dataclass
from typing import Protocol

import torch


class View(Protocol):
    """Shows a layer's output as maps (N, C, h, w), and puts maps back into its place."""

    def to_maps(self, output: torch.Tensor) -> torch.Tensor:
        """The output as (N, C, h, w)."""
        ...

    def from_maps(self, maps: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """``output`` with the maps instead of its own; what the maps do not show stays."""
        ...


@dataclass(frozen=True)
class ChannelsFirst:
    """(N, C, h, w): of convolutions."""

    def to_maps(self, output: torch.Tensor) -> torch.Tensor:
        """See ``View``."""
        return output

    def from_maps(self, maps: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """See ``View``."""
        return maps


@dataclass(frozen=True)
class ChannelsLast:
    """(N, h, w, C): of Swin transformers, and inside ConvNeXt's blocks."""

    def to_maps(self, output: torch.Tensor) -> torch.Tensor:
        """See ``View``."""
        return output.permute(0, 3, 1, 2)

    def from_maps(self, maps: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """See ``View``."""
        return maps.permute(0, 2, 3, 1)


@dataclass(frozen=True)
class Tokens:
    """(N, T, C), row after row, behind a class token or without one: of vision transformers."""

    height: int
    width: int
    others: int  # tokens that stand before those of the picture

    def to_maps(self, output: torch.Tensor) -> torch.Tensor:
        """See ``View``."""
        cells = output[:, self.others :].transpose(1, 2)
        return cells.reshape(output.shape[0], output.shape[2], self.height, self.width)

    def from_maps(self, maps: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """See ``View``."""
        return torch.cat([output[:, : self.others], maps.flatten(2).transpose(1, 2)], dim=1)


CHANNELS_FIRST = ChannelsFirst()
CHANNELS_LAST = ChannelsLast()
