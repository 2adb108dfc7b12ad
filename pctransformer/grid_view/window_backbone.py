"""Stages of window attention over occupied cells, with merges to coarser grids between them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pctransformer.grid_view.window_attention import Size, WindowBlock
from pctransformer.layers.recording import RecordedLayer
from pctransformer.layers.sparse_convolution import SparseConv3d
from pctransformer.voxels import Grid, VoxelBatch


class WindowMerge(RecordedLayer):
    """Joins boxes of cells to one: a sparse convolution whose kernel is its stride, then LayerNorm.

    With the norm behind, as in Swin's second version, a cell does not grow with how many it was joined of. Where a
    model's attention is recorded, all cells that were joined count alike.

    Args:
        in_dim: channels of the cells.
        out_dim: channels of the joined ones.
        stride: cells along z, y, x that become one.

    Source: Liu et al., Swin Transformer, 2021, section 3.1, patch merging.
    """

    def __init__(self, in_dim: int, out_dim: int, stride: Size) -> None:
        super().__init__()
        self.conv = SparseConv3d(in_dim, out_dim, stride, stride=stride, padding=0, bias=False)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, voxels: VoxelBatch) -> VoxelBatch:
        """The cells of `out_grid(voxels.grid)` that hold one of these.

        Raises:
            ValueError: the grid is not a whole number of joined cells.
        """
        self.out_grid(voxels.grid)
        rules = self.conv.rules(voxels)
        if self.is_recorded:
            self.record_mean(rules.seen())
        voxels = self.conv(voxels, rules)
        return voxels.replace(features=self.norm(voxels.features))

    def out_grid(self, grid: Grid) -> Grid:
        """The grid of the joined cells.

        Raises:
            ValueError: it is not a whole number of them.
        """
        stride = self.conv.kernel_size
        if any(count % step for count, step in zip(grid.shape, stride)):
            raise ValueError(
                f"a grid of {grid.shape} cells (z, y, x) cannot be joined by {stride}: its sides must be multiples of"
                " them; change the range or the size of voxels"
            )
        return grid.convolved(stride, stride, (0, 0, 0))


class WindowStage(nn.Module):
    """Blocks on the cells of one grid, regular and shifted windows taking turns.

    Args:
        blocks: all of one window size, and of one kernel size if they have convolutions.
    """

    def __init__(self, blocks: Sequence[WindowBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, voxels: VoxelBatch) -> VoxelBatch:
        """The cells with other features. Windows of each partition, and rules, are found once for all blocks."""
        found, rules = {}, None
        for block in self.blocks:
            assert isinstance(block, WindowBlock)
            shifted = block.attention.shifted
            if shifted not in found:
                found[shifted] = block.attention.windows(voxels)
            if block.descriptor is not None and rules is None:
                rules = block.descriptor.conv.rules(voxels)
            voxels = block(voxels, found[shifted], rules)
        return voxels


class WindowBackbone(nn.Module):
    """Stages one after another, each but the first on the cells that the merge in front of it joined.

    Args:
        stages: the first is on the cells of the input.
        merges: one in front of each further stage.
        dim: channels of the last stage.
    """

    def __init__(self, stages: Sequence[WindowStage], merges: Sequence[WindowMerge], *, dim: int) -> None:
        super().__init__()
        if len(merges) != len(stages) - 1:
            raise ValueError(f"{len(stages)} stages have {len(stages) - 1} merges between them, got {len(merges)}")
        self.stages, self.merges, self.out_channels = nn.ModuleList(stages), nn.ModuleList(merges), dim
        self.norm = nn.LayerNorm(dim)

    # every size depends on which cells are occupied, as in SparseBackbone: torch.compile has nothing to hold on to
    @torch.compiler.disable
    def forward(self, voxels: VoxelBatch) -> VoxelBatch:
        """The cells of the last grid, `out_grid(voxels.grid)`, with `out_channels` features.

        Raises:
            ValueError: a merge does not fit its grid.
        """
        voxels = self.stages[0](voxels)
        for merge, stage in zip(self.merges, self.stages[1:]):
            voxels = stage(merge(voxels))
        return voxels.replace(features=self.norm(voxels.features))

    def out_grid(self, grid: Grid) -> Grid:
        """What becomes of a grid.

        Raises:
            ValueError: a merge does not fit its grid.
        """
        for merge in self.merges:
            assert isinstance(merge, WindowMerge)
            grid = merge.out_grid(grid)
        return grid
