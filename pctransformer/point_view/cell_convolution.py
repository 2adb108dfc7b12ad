"""Points told of those around them by a sparse convolution over their cells: the position code of Point Transformer V3.

Points that share a cell share what the convolution says: it sees the mean of their features. Public code expects one
point in a cell, as its data are thinned to; then the two are the same.

Source of the whole file: Wu et al., Point Transformer V3, 2024, arXiv:2312.10035, section 4.2 ("xCPE"); in front of
attention after Wang, OctFormer, 2023.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from pctransformer.layers.sparse_convolution import Rules, SubmanifoldConv3d
from pctransformer.ops import gather, scatter
from pctransformer.points import PointBatch
from pctransformer.voxels import Grid, VoxelBatch, cell_key, cells_of_key, offsets_of_key

_KERNEL_SIZE = 3  # of the convolution in front of each block


@dataclasses.dataclass(frozen=True, eq=False)
class LevelCells:
    """The cells that points are in, and what convolutions over them have to know, found once for all of a level.

    Attributes:
        voxels: the cells, without features. Their grid counts in cells, from the lowest of each cloud.
        cell_of_point: (N,) int64 row of each point's cell.
        rules: of a submanifold convolution with a kernel of 3 cells.
    """

    voxels: VoxelBatch
    cell_of_point: Tensor
    rules: Rules


def occupy(points: PointBatch, cells: Tensor) -> LevelCells:
    """
    Args:
        points: N points.
        cells: (N, 3) int64 x, y, z of their cells, not negative. On CUDA this waits for the device.
    """
    x, y, z = (cells.amax(0) + 1).tolist() if len(cells) else (1, 1, 1)
    grid = Grid((0, 0, 0), (1, 1, 1), (z, y, x))
    key = cell_key(torch.cat([points.batch_index[:, None], cells.flip(1)], 1), grid.shape)
    found, cell_of_point = torch.unique(key, return_inverse=True)
    offsets = offsets_of_key(found, len(points), grid.shape)
    voxels = VoxelBatch(cells_of_key(found, grid.shape), points.xyz.new_empty(len(found), 0), offsets, grid)
    size = (_KERNEL_SIZE,) * 3
    return LevelCells(voxels, cell_of_point, Rules(voxels, size, None, [_KERNEL_SIZE // 2] * 3))


class CellConvolution(nn.Module):
    """A submanifold convolution from points to the same points, by way of their cells.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: cells along each axis, odd.
        bias: see `SubmanifoldConv3d`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, bias: bool = True) -> None:
        super().__init__()
        self.conv = SubmanifoldConv3d(in_channels, out_channels, kernel_size, bias=bias)

    def forward(self, x: Tensor, occupied: LevelCells) -> Tensor:
        """
        Args:
            x: (N, C) features of points.
            occupied: their cells.

        Returns:
            (N, out_channels) float32, equal for the points of a cell.
        """
        cells = occupied.voxels
        mean = scatter(x, occupied.cell_of_point, len(cells.coordinates), "mean")
        fits = occupied.rules.kernel_size == self.conv.kernel_size
        convolved = self.conv(cells.replace(features=mean), occupied.rules if fits else None)
        return gather(convolved.features, occupied.cell_of_point)


class ConvolutionalPosition(nn.Module):
    """What is added to points in front of a block: convolution over 3 x 3 x 3 cells, linear layer, LayerNorm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.convolution = CellConvolution(dim, dim, _KERNEL_SIZE)
        self.proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, occupied: LevelCells) -> Tensor:
        """(N, C) from features (N, C) of points and their cells."""
        return self.norm(self.proj(self.convolution(x, occupied)))
