"""SECOND's stages of sparse convolutions, from voxels to what a map seen from above is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from pctransformer.grid_view.norm import batch_norm_rows, normalized
from pctransformer.layers.recording import RecordedLayer
from pctransformer.layers.sparse_convolution import Rules, SparseConv3d, SubmanifoldConv3d
from pctransformer.voxels import Grid, VoxelBatch


class SparseLayer(RecordedLayer):
    """A sparse convolution without bias, BatchNorm over the occupied cells, ReLU.

    Where a model's attention is recorded, it hands over which cells it saw, of which every one counts alike.
    """

    def __init__(self, conv: SubmanifoldConv3d | SparseConv3d) -> None:
        super().__init__()
        self.conv, self.norm = conv, batch_norm_rows(conv.out_channels)

    def forward(self, voxels: VoxelBatch, rules: Rules | None = None) -> VoxelBatch:
        """The output cells; rules are those of the convolution."""
        if self.is_recorded:
            rules = self.conv.rules(voxels) if rules is None else rules
            self.record_mean(rules.seen())
        voxels = self.conv(voxels, rules)
        return voxels.replace(features=normalized(self.norm, voxels.features).relu())


class SparseStage(nn.Module):
    """One layer to cells twice as large, unless it is None, and some that stay on the cells and share their rules."""

    def __init__(self, down: SparseLayer | None, stay: Sequence[SparseLayer]) -> None:
        super().__init__()
        self.down, self.stay = down, nn.ModuleList(stay)

    def forward(self, voxels: VoxelBatch) -> VoxelBatch:
        """The cells of this stage."""
        if self.down is not None:
            voxels = self.down(voxels)
        first = self.stay[0]
        assert isinstance(first, SparseLayer)
        rules = first.conv.rules(voxels)
        for layer in self.stay:
            voxels = layer(voxels, rules)
        return voxels


class SparseBackbone(nn.Module):
    """Stages of submanifold convolutions, each on cells twice as large as the one before; then one to fewer heights.

    As published there is one layer of empty cells on top of the grid: 40 heights are 41, 21, 11, 5 and at last 2 of
    them, which `BevMap.from_voxels` makes channels of.

    Args:
        in_channels: channels of the voxels.
        widths: channels of each stage. The first has two layers, the others three, one of them strided.
        z_padding: empty cells that the strided layer of each stage but the first sees below and above the grid; along y
            and x it is 1. As published no padding for the last one; a grid of 20 heights needs 1 there too.
        out_channels: channels of the last convolution, which is three cells high and skips every second height.

    Source: Yan et al., SECOND, 2018, figure 3, in the form of OpenPCDet's VoxelBackBone8x.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        widths: Sequence[int] = (16, 32, 64, 64),
        z_padding: Sequence[int] = (1, 1, 0),
        out_channels: int = 128,
    ) -> None:
        super().__init__()
        if len(z_padding) != len(widths) - 1:
            raise ValueError(
                f"z_padding must have one number for each of {len(widths) - 1} strided layers, got {tuple(z_padding)}"
            )
        self.strided = [((3, 3, 3), (2, 2, 2), (padding, 1, 1)) for padding in z_padding]
        """Kernel size, stride and padding of each layer that changes the grid."""
        first = SparseStage(None, [_submanifold(in_channels, widths[0]), _submanifold(widths[0], widths[0])])
        self.stages = nn.ModuleList([first])
        for (before, after), (kernel_size, stride, padding) in zip(pairwise(widths), self.strided):
            down = SparseConv3d(before, after, kernel_size, stride=stride, padding=padding, bias=False)
            self.stages.append(SparseStage(SparseLayer(down), [_submanifold(after, after) for _ in range(2)]))
        self.strided.append(((3, 1, 1), (2, 1, 1), (0, 0, 0)))
        kernel_size, stride, padding = self.strided[-1]
        last = SparseConv3d(widths[-1], out_channels, kernel_size, stride=stride, padding=padding, bias=False)
        self.out = SparseLayer(last)
        self.out_channels = out_channels

    # every size depends on which cells are occupied: torch.compile would trace each tap of each kernel, for minutes,
    # and have nothing to fuse
    @torch.compiler.disable
    def forward(self, voxels: VoxelBatch) -> VoxelBatch:
        """The cells of the last grid, `out_grid(voxels.grid)`, with `out_channels` features.

        Raises:
            ValueError: the grid is too low for this many stages.
        """
        voxels = voxels.replace(grid=_with_top(voxels.grid))
        for stage in self.stages:
            voxels = stage(voxels)
        return self.out(voxels)

    def out_grid(self, grid: Grid) -> Grid:
        """What becomes of a grid. Its cells are centred on what their kernels see, as `Grid.convolved` says.

        Raises:
            ValueError: the grid is too low for this many stages.
        """
        grid = _with_top(grid)
        for kernel_size, stride, padding in self.strided:
            grid = grid.convolved(kernel_size, stride, padding)
        return grid


def _submanifold(in_channels: int, out_channels: int) -> SparseLayer:
    return SparseLayer(SubmanifoldConv3d(in_channels, out_channels, 3, bias=False))


def _with_top(grid: Grid) -> Grid:
    """One more layer of cells on top; the cells below keep their coordinates."""
    nz, ny, nx = grid.shape
    return dataclasses.replace(grid, shape=(nz + 1, ny, nx))
