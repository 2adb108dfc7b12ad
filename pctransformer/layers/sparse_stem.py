"""A convolutional stem for clouds: from points to the tokens of occupied cells, by a few sparse convolutions.

What stands in front of a transformer to give its tokens their surroundings, as the hybrid of Dosovitskiy et al., An
image is worth 16x16 words, 2021, has a ResNet in front; the convolutions are those of SECOND (Yan et al., 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pctransformer.layers.recording import RecordedLayer
from pctransformer.layers.sparse_convolution import SparseConv3d, SubmanifoldConv3d
from pctransformer.ops import _checks, gather, scatter
from pctransformer.points import PointBatch, padded_rows
from pctransformer.voxels import Grid, VoxelBatch, cell_key, cells_of_key, offsets_of_key


class SparseStage(RecordedLayer):
    """Two convolutions of 3 x 3 x 3 cells, each with BatchNorm and ReLU; the first may go to cells twice as large.

    Where a model's attention is recorded, each convolution hands over which cells it saw, of which every one counts
    alike: it does not weigh them by what they hold.
    """

    def __init__(self, in_dim: int, out_dim: int, *, strided: bool) -> None:
        super().__init__()
        self.enter = (
            SparseConv3d(in_dim, out_dim, 3, stride=2, padding=1, bias=False)
            if strided
            else SubmanifoldConv3d(in_dim, out_dim, 3, bias=False)
        )
        self.enter_norm = nn.BatchNorm1d(out_dim)
        self.stay = SubmanifoldConv3d(out_dim, out_dim, 3, bias=False)
        self.stay_norm = nn.BatchNorm1d(out_dim)

    def forward(self, voxels: VoxelBatch) -> VoxelBatch:
        """The cells of this stage with `out_dim` features."""
        rules = self.enter.rules(voxels)
        if self.is_recorded:
            self.record_mean(rules.seen())
        voxels = self.enter(voxels, rules)
        voxels = voxels.replace(features=self.enter_norm(voxels.features).relu())
        if isinstance(self.enter, SparseConv3d):
            rules = self.stay.rules(voxels)
        if self.is_recorded:
            self.record_mean(rules.seen())
        voxels = self.stay(voxels, rules)
        return voxels.replace(features=self.stay_norm(voxels.features).relu())


class SparseStem(RecordedLayer):
    """Clouds of any extent as tokens: cells that hold points, then stages, each on cells twice as large.

    Cells begin at multiples of the cell size, of the last stage's too, so that a cloud's tokens do not depend on the
    clouds beside it. What enters of a cell is a one, the mean place of its points relative to its middle, in cells, and
    the mean of their features.

    Args:
        in_channels: channels of the points, 3 + C.
        widths: channels of each stage.
        cell_size: of the first stage, metres, or whatever unit the clouds have; twice that of the second, and so on.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], *, cell_size: float) -> None:
        super().__init__()
        _checks.positive(cell_size, "cell_size")
        self.in_channels, self.cell_size, self.out_dim = in_channels, cell_size, widths[-1]
        dims = [1 + in_channels, *widths]
        self.stages = nn.ModuleList(SparseStage(a, b, strided=i > 0) for i, (a, b) in enumerate(pairwise(dims)))

    def forward(self, batch: PointBatch) -> PointBatch:
        """A token for each occupied cell of the last stage, at its middle, with `out_dim` features: fewer or more of
        each cloud. On CUDA this waits for the device, which knows how many."""
        voxels = self.voxelize(batch)
        for stage in self.stages:
            voxels = stage(voxels)
        return voxels.to_points().replace(origin=batch.origin)

    def voxelize(self, batch: PointBatch) -> VoxelBatch:
        """What the first stage sees, (M, 1 + 3 + C) of M cells."""
        place = batch.xyz.detach() / self.cell_size
        cells = place.floor()
        middle = (cells + 0.5) * self.cell_size
        corner, grid = self._grid(cells)
        cells = cells.long().flip(1) - corner
        key = cell_key(torch.cat([batch.batch_index[:, None], cells], 1), grid.shape)
        found, cell_of_point = torch.unique(key, return_inverse=True)
        channels = [torch.ones_like(middle[:, :1]), (batch.xyz - middle) / self.cell_size]
        if batch.features is not None:
            channels.append(batch.features)
        features = scatter(torch.cat(channels, 1), cell_of_point, len(found), "mean")
        if self.is_recorded:
            counts = nn.functional.pad(torch.bincount(cell_of_point, minlength=len(found)).cumsum(0), (1, 0))
            rows = padded_rows(counts)  # (M, most points of a cell)
            members = gather(cell_of_point.argsort(stable=True)[:, None], rows)[..., 0].masked_fill(rows < 0, -1)
            self.record_mean(members)
        offsets = offsets_of_key(found, len(batch), grid.shape)
        return VoxelBatch(cells_of_key(found, grid.shape), features, offsets, grid)

    def _grid(self, cells: Tensor) -> tuple[Tensor, Grid]:
        """z, y, x of the lowest cell, and the grid from there on. It ends where the last stage has a cell in its
        corner, so that no convolution looks over the edge, wherever that is."""
        coarse = 2 ** (len(self.stages) - 1)
        steps = (cells / coarse).floor().flip(1).long()
        low = steps.amin(0) if len(steps) else steps.new_zeros(3)
        high = steps.amax(0) if len(steps) else low
        z, y, x = (low * coarse).tolist()
        shape = tuple(((high - low + 1) * coarse + 1).tolist())
        corner = (x * self.cell_size, y * self.cell_size, z * self.cell_size)
        return low * coarse, Grid(corner, (self.cell_size,) * 3, shape)
