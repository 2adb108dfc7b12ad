"""From points to the features of the cells that hold them: their mean, or a small PointNet on each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pctransformer.grid_view.norm import batch_norm_rows, normalized
from pctransformer.layers.recording import RecordedLayer
from pctransformer.ops import _checks, gather, scatter, voxelize
from pctransformer.points import PointBatch
from pctransformer.voxels import Grid, VoxelBatch, occupied_cells


class MeanVoxelFeatures(RecordedLayer):
    """The mean of the points in each cell: coordinates, then features. Has no parameters.

    Args:
        grid: points outside of it are left out.
        max_points: points of a cell that count, the first ones in the order of the input; 5 as published. None: all.
        max_voxels: cells of a cloud in training and in evaluation, those whose points come first; (16 000, 40 000) as
            published for KITTI. None: all.

    Source: the code of Yan et al., SECOND, 2018, since its version 1.5, in which the mean replaced a learned layer;
    without limits: Zhou et al., Multi-view fusion, 2020.
    """

    def __init__(self, grid: Grid, *, max_points: int | None = None, max_voxels: tuple[int, int] | None = None) -> None:
        super().__init__()
        for limit in (max_points, *(max_voxels or ())):
            if limit is not None:
                _checks.integer(limit, "max_points and max_voxels", 1)
        self.grid, self.max_points, self.max_voxels = grid, max_points, max_voxels

    def forward(self, points: PointBatch) -> VoxelBatch:
        """Cells with 3 + C features. On CUDA this waits for the device, which knows how many there are."""
        coordinates, offsets, cell_of_point, _ = voxelize(
            points.xyz, points.offsets, self.grid.low, self.grid.voxel_size, self.grid.shape,
            max_points=self.max_points,
            max_voxels=None if self.max_voxels is None else self.max_voxels[0 if self.training else 1],
        )  # fmt: skip
        if self.is_recorded:
            self.record_cells(cell_of_point, len(coordinates))
        features = scatter(_all_channels(points), cell_of_point, len(coordinates), "mean")
        return VoxelBatch(coordinates, features, offsets, self.grid)

    def extra_repr(self) -> str:
        return f"{self.grid.shape}, max_points={self.max_points}, max_voxels={self.max_voxels}"


class PillarFeatures(RecordedLayer):
    """A PointNet of one layer on the points of each pillar: linear, BatchNorm, ReLU, maximum over the points.

    A point enters with its channels (x, y, z and further ones), its offset from the mean of its pillar's points, and
    its offset from the middle of the pillar. It is computed in float32, under autocast too: half precision knows a
    place at 60 metres to a quarter of a metre.

    Published code pads every pillar with rows of zeros, to 32. They go through the layer: in training BatchNorm's
    statistics count them, and wherever a pillar has fewer points, the maximum is not below what zeros become, which is
    relu(bias - weight mean / sqrt(variance + eps)) of BatchNorm. Here there are no such rows, unless `max_points` asks
    for them, as weights that were trained with them want it.

    Args:
        in_channels: channels of the points, 3 + C.
        out_channels: channels of a pillar.
        grid: one cell high; points outside of it are left out.
        max_points: None: all points count, and nothing else. A number, 32 as published: a pillar is that many rows, the
            first points in the order of the input, and zeros behind them.
        backend: of the maximum, see `pctransformer.ops.scatter`.

    Source: Lang et al., PointPillars, 2019, section 2.1; the third coordinate of the offset from the middle is that of
    OpenPCDet's code, whose weights have ten input channels and not nine.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 64,
        *,
        grid: Grid,
        max_points: int | None = None,
        backend: Literal["native", "torch_scatter"] = "native",
    ) -> None:
        super().__init__()
        if grid.shape[0] != 1:
            raise ValueError(
                f"pillars are one cell high, the grid has {grid.shape[0]}; make a cell as high as its range"
            )
        if max_points is not None:
            _checks.integer(max_points, "max_points", 1)
        self.grid, self.out_channels, self.max_points, self.backend = grid, out_channels, max_points, backend
        self.linear = nn.Linear(in_channels + 6, out_channels, bias=False)
        self.norm = batch_norm_rows(out_channels)

    def forward(self, points: PointBatch) -> VoxelBatch:
        """Pillars with `out_channels` features. On CUDA this waits for the device, which knows how many there are."""
        coordinates, offsets, pillar, counts = voxelize(
            points.xyz, points.offsets, self.grid.low, self.grid.voxel_size, self.grid.shape, max_points=self.max_points
        )
        with torch.autocast(points.device.type, enabled=False):
            around, inside, pillar = _in_their_cells(points, coordinates, pillar, self.grid)
            hidden = self.linear(around)  # (N, out_channels)
            if self.is_recorded:
                values = normalized(self.norm, hidden.detach()) if not self.training else hidden
                self.record_maximum_of_pairs(values, pillar, inside, len(coordinates))
            if self.max_points is None:
                hidden = normalized(self.norm, hidden).relu()
                features = scatter(hidden, pillar, len(coordinates), "max", backend=self.backend)
            else:
                features = self._padded(hidden, pillar, counts, self.max_points)
        return VoxelBatch(coordinates, features, offsets, self.grid)

    def _padded(self, hidden: Tensor, pillar: Tensor, counts: Tensor, size: int) -> Tensor:
        """The maximum over pillars of so many rows each, most of them zeros."""
        zeros = max(len(counts) * size - len(hidden), 0) if self.training else 1  # in evaluation all become the same
        rows = torch.cat([hidden, hidden.new_zeros(zeros, self.out_channels)])
        rows = normalized(self.norm, rows).relu()
        features = scatter(rows[: len(hidden)], pillar, len(counts), "max", backend=self.backend)
        if not zeros:
            return features
        return torch.where((counts < size)[:, None], features.maximum(rows[-1]), features)

    def extra_repr(self) -> str:
        return f"{self.grid.shape}, max_points={self.max_points}, backend={self.backend!r}"


class DynamicVoxelFeatures(RecordedLayer):
    """A PointNet on the points of each cell, cells of any height, in layers that know what the one before found.

    Points enter as in `PillarFeatures`. Every layer is linear, BatchNorm, ReLU; behind each but the last a point is
    joined by the maximum over its cell, and the maximum behind the last is the cell's. All points in the range count.
    It is computed in float32, under autocast too, as `PillarFeatures` is.

    Args:
        in_channels: channels of the points, 3 + C.
        widths: channels behind each layer, what is joined included: all but the last are even, and half of them is the
            layer's own.
        grid: points outside of it are left out.

    Source: the layers of Zhou and Tuzel, VoxelNet, 2018, section 2.1.1, on the dynamic voxels of Zhou et al.,
    Multi-view fusion, 2020; in the form of SST's and DSVT's code, which has two layers.
    """

    def __init__(self, in_channels: int, widths: Sequence[int] = (192, 192), *, grid: Grid) -> None:
        super().__init__()
        for i, width in enumerate(widths):
            _checks.integer(width, "widths", 1)
            if i + 1 < len(widths) and width % 2:
                raise ValueError(f"all widths but the last must be even, got {tuple(widths)}")
        own = [*(width // 2 for width in widths[:-1]), widths[-1]]
        self.grid, self.out_channels = grid, widths[-1]
        self.linears = nn.ModuleList(
            nn.Linear(before, after, bias=False) for before, after in zip([in_channels + 6, *widths], own)
        )
        self.norms = nn.ModuleList(batch_norm_rows(width) for width in own)

    def forward(self, points: PointBatch) -> VoxelBatch:
        """Cells with `out_channels` features. On CUDA this waits for the device, which knows how many there are."""
        coordinates, offsets, cell = occupied_cells(points, self.grid)
        with torch.autocast(points.device.type, enabled=False):
            x, inside, cell = _in_their_cells(points, coordinates, cell, self.grid)
            found: Tensor | None = None  # (M, width) of the cells
            for linear, norm in zip(self.linears, self.norms):
                if found is not None:
                    x = torch.cat([x, gather(found, cell)], 1)
                x = normalized(norm, linear(x)).relu()
                found = scatter(x, cell, len(coordinates), "max")
            if self.is_recorded:
                self.record_maximum_of_pairs(x, cell, inside, len(coordinates))
        assert found is not None
        return VoxelBatch(coordinates, found, offsets, self.grid)

    def extra_repr(self) -> str:
        return f"{self.grid.shape}"


def _in_their_cells(points: PointBatch, coordinates: Tensor, cell: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """The points that are in a cell, their rows (n,), and the row of it: cell (N,) of all, -1 for none, becomes (n,).

    Of each point (n, 3 + C + 6): its channels, its offset from the mean of its cell's points, and from the middle.
    """
    inside = (cell >= 0).nonzero()[:, 0]
    cell = cell.index_select(0, inside)
    channels = _all_channels(points).index_select(0, inside)
    xyz = channels[:, :3]
    mean = scatter(xyz, cell, len(coordinates), "mean")
    middle = grid.centers(coordinates[:, 1:])
    return torch.cat([channels, xyz - gather(mean, cell), xyz - gather(middle, cell)], 1), inside, cell


def _all_channels(points: PointBatch) -> Tensor:
    return points.xyz if points.features is None else torch.cat([points.xyz, points.features.float()], 1)
