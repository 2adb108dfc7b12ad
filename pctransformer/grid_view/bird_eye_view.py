"""The convolutional network on a map seen from above that grid detectors share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from pctransformer.grid_view.neck import enlarging, map_size, record_joined_maps
from pctransformer.grid_view.norm import batch_norm_map
from pctransformer.layers.recording import RecordedLayer
from pctransformer.ops import _checks
from pctransformer.voxels import BevMap, Grid


class BevBackbone(RecordedLayer):
    """Blocks of convolutions on ever coarser maps, each brought back to the size of the first, side by side.

    A block is one convolution with a stride and some without, all of 3 x 3 cells with BatchNorm and ReLU; what brings
    it back is a transposed convolution whose kernel is its stride, with BatchNorm and ReLU.

    Maps are kept with channels last in memory, which is what convolutions on a CPU, and in half precision on a GPU,
    are fast with.

    Where a model's attention is recorded, convolutions with a stride hand over which cells they saw, each of which
    counts alike; those without are passed over, as if a cell kept to itself. Blocks side by side count alike.

    Args:
        in_channels: channels of the input map.
        layers: convolutions without a stride of each block, behind the one with it.
        strides: of each block, relative to the one before.
        widths: channels of each block.
        up_strides: how many times larger each block's map is made.
        up_widths: channels of each block's larger map.

    Attributes:
        out_channels: channels of the output, the sum of `up_widths`.

    Raises:
        ValueError: there are not as many of each, or blocks are not brought to one size.

    Source: Zhou and Tuzel, VoxelNet, 2018, figure 4, as Lang et al., PointPillars, 2019, section 2.2, write it.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        layers: Sequence[int],
        strides: Sequence[int],
        widths: Sequence[int],
        up_strides: Sequence[int],
        up_widths: Sequence[int],
    ) -> None:
        super().__init__()
        given = {
            "layers": layers, "strides": strides, "widths": widths, "up_strides": up_strides, "up_widths": up_widths
        }  # fmt: skip
        for name, numbers in given.items():
            if len(numbers) != len(layers):
                raise ValueError(f"{name} must have one number for each of {len(layers)} blocks, got {tuple(numbers)}")
            for number in numbers:
                _checks.integer(number, name, 0 if name == "layers" else 1)
        self.strides, self.up_strides = tuple(strides), tuple(up_strides)
        self.out_channels = sum(up_widths)
        steps = [math.prod(strides[: i + 1]) / up for i, up in enumerate(up_strides)]
        if len(set(steps)) != 1:
            raise ValueError(
                f"with strides {self.strides}, up_strides {self.up_strides} bring the blocks to cells of"
                f" {steps} input cells; they must be one size to be put side by side"
            )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *_convolution(before, after, stride),
                *(layer for _ in range(count) for layer in _convolution(after, after, 1)),
            )
            for (before, after), stride, count in zip(pairwise([in_channels, *widths]), strides, layers)
        )
        self.ups = nn.ModuleList(
            enlarging(width, up_width, up) for width, up_width, up in zip(widths, up_widths, up_strides)
        )

    def forward(self, bev: BevMap) -> BevMap:
        """The map of all blocks, `out_channels` (B, C, ny', nx'), with its grid.

        Raises:
            ValueError: the map's sides are no multiples of the product of the strides.
        """
        grid = self.out_grid(bev.grid)
        x = bev.features.contiguous(memory_format=torch.channels_last)
        maps, sizes = [], []
        for block, stride, up in zip(self.blocks, self.strides, self.ups):
            if self.is_recorded and stride > 1:
                self.record_cells_of_map(map_size(x), 3, stride, 1)
            x = block(x)
            maps.append(up(x))
            sizes.append(map_size(x))
        if self.is_recorded:
            record_joined_maps(self, sizes)
            if self.up_strides[0] > 1:
                self.record_enlarged_map(sizes[0], self.up_strides[0])
        return BevMap(torch.cat(maps, 1), grid)

    def out_grid(self, grid: Grid) -> Grid:
        """The grid of the map that comes out: where the first block's kernels are centred.

        With a stride of 2 that is half an input cell before the range, as `Grid.convolved` says. The coarser blocks
        are shifted further, by what the network learns to make up for.

        Raises:
            ValueError: the map's sides are no multiples of the product of the strides.
        """
        whole = math.prod(self.strides)
        if any(side % whole for side in grid.shape[1:]):
            raise ValueError(
                f"the sides of the map must be multiples of {whole} cells to come back to one size, got"
                f" {grid.shape[1:]}; change the range or the size of voxels"
            )
        step, up = self.strides[0], self.up_strides[0]
        first = grid.convolved((1, 3, 3), (1, step, step), (0, 1, 1))
        (x, y, z), (nz, ny, nx) = first.voxel_size, first.shape
        return Grid(first.low, (x / up, y / up, z), (nz, ny * up, nx * up))


def _convolution(in_channels: int, out_channels: int, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False),
        batch_norm_map(out_channels),
        nn.ReLU(inplace=True),
    )
