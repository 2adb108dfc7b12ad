"""Between a backbone on a map and a head: maps of several sizes made of one, and one made of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pctransformer.grid_view.norm import batch_norm_map
from pctransformer.layers.grid_mixers.grid_mixer import ChannelsFirst
from pctransformer.layers.recording import RecordedLayer


def enlarging(in_channels: int, out_channels: int, factor: int) -> nn.Sequential:
    """(B, C, H, W) -> (B, C', factor * H, factor * W): transposed convolution, every cell to a square of its own,
    BatchNorm, ReLU."""
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, factor, stride=factor, bias=False),
        batch_norm_map(out_channels),
        nn.ReLU(inplace=True),
    )


def map_size(x: Tensor) -> tuple[int, int, int]:
    """(B, H, W) of a map (B, C, H, W)."""
    return x.shape[0], x.shape[2], x.shape[3]


def record_joined_maps(layer: RecordedLayer, sizes: Sequence[tuple[int, int, int]]) -> None:
    """Hand over that maps, each made of the one before, were brought to the size of the first and stand side by side.

    Args:
        layer: that did it.
        sizes: (B, H, W) of each map, largest first.
    """
    for joined, (coarse, fine) in enumerate(pairwise(reversed(sizes)), 1):
        if coarse != fine:
            layer.record_enlarged_map(coarse, fine[1] // coarse[1], joined / (joined + 1))
            layer.record_skip(math.prod(fine), 1 / (joined + 1))


class Neck(nn.Module):
    """Maps of several sizes brought to that of the first, side by side.

    Args:
        dims: channels of each map.
        factors: how many times larger each is made; 1 for those that are of the size of the first.
        width: channels of each in the end.

    Attributes:
        out_channels: `width` for each map.

    Source: Zhou and Tuzel, VoxelNet, 2018, figure 4.
    """

    def __init__(self, dims: Sequence[int], factors: Sequence[int], width: int) -> None:
        super().__init__()
        self.out_channels = width * len(dims)
        self.ups = nn.ModuleList(enlarging(dim, width, factor) for dim, factor in zip(dims, factors, strict=True))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, out_channels, H, W), in memory with channels last, from maps (B, H_i, W_i, C_i)."""
        larger = [up(x.permute(0, 3, 1, 2)) for up, x in zip(self.ups, maps, strict=True)]
        return torch.cat(larger, 1).contiguous(memory_format=torch.channels_last)


class SimplePyramid(nn.Module):
    """Maps of several sizes, all made of the last map of a backbone alone.

    A map twice as large comes of a transposed convolution, one half as large of the maximum over 2 x 2 cells; then each
    passes a convolution of one cell and one of 3 x 3, with LayerNorm behind. No top-down path, no map of an earlier
    layer: a plain backbone has none that is finer.

    Args:
        dim: channels of the backbone's map.
        out_dim: channels of each map.
        scales: size of each map over that of the backbone's.

    Source: Li, Mao, Girshick, He, Exploring Plain Vision Transformer Backbones for Object Detection, 2022,
    arXiv:2203.16527, section 3.
    """

    def __init__(self, dim: int, out_dim: int, *, scales: Sequence[float] = (2, 1, 0.5)) -> None:
        super().__init__()
        self.scales = tuple(scales)
        self.maps = nn.ModuleList(_rescaled(dim, out_dim, scale) for scale in scales)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps (B, scale * H, scale * W, out_dim) from (B, H, W, dim).

        Raises:
            ValueError: the map cannot be halved, and one half as large is asked for.
        """
        if 0.5 in self.scales and (x.shape[1] % 2 or x.shape[2] % 2):
            raise ValueError(
                f"a map half as large is made of 2 x 2 cells, so its sides must be multiples of 2, got"
                f" {tuple(x.shape[1:3])}"
            )
        return [layers(x) for layers in self.maps]


class HalvedMap(nn.Module):
    """The maximum over 2 x 2 cells: (B, H / 2, W / 2, C) from (B, H, W, C). Its gradient repeats exactly."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).amax((2, 4))


def _rescaled(dim: int, out_dim: int, scale: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    if scale == 0.5:
        layers = [HalvedMap()]
    elif scale == 2:
        layers = [_doubled(dim)]
        dim //= 2
    elif scale == 4:
        layers = [_doubled(dim), nn.LayerNorm(dim // 2), nn.GELU(), _doubled(dim // 2)]
        dim //= 4
    elif scale != 1:
        raise ValueError(f"maps are 4, 2, 1 or 0.5 times as large as the backbone's, got a scale of {scale}")
    return nn.Sequential(
        *layers,
        nn.Linear(dim, out_dim, bias=False),
        nn.LayerNorm(out_dim),
        ChannelsFirst(nn.Conv2d(out_dim, out_dim, 3, padding=1, bias=False)),
        nn.LayerNorm(out_dim),
    )


def _doubled(dim: int) -> ChannelsFirst:
    return ChannelsFirst(nn.ConvTranspose2d(dim, dim // 2, 2, stride=2))
