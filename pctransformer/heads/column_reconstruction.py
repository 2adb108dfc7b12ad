"""Reconstruction of a LiDAR scan: columns of space that were hidden, made up from a map of what was left.

After Hess et al., Masked autoencoder for self-supervised pre-training on LiDAR point clouds (Voxel-MAE), 2022,
arXiv:2207.00531.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional

from pctransformer.heads.reconstruction import chamfer_distance
from pctransformer.ops import gather, scatter, voxelize
from pctransformer.points import PointBatch
from pctransformer.voxels import BevMap, Grid


@dataclasses.dataclass(frozen=True, eq=False)
class HiddenColumns:
    """A batch of scans, of which some of the columns that hold points are hidden: M of them in all.

    Attributes:
        grid: whose cells are the columns.
        visible: the points that are left in the grid, in their order; those outside of it are left out.
        occupied: (B, ny, nx) bool: columns that hold points, hidden or not.
        hidden: (B, ny, nx) bool. Rows of what follows are in the order of `hidden.nonzero()`: cloud, y, x.
        centers: (M, 3) of the hidden columns, metres.
        counts: (M,) int64 points of each.
        points: (M, k, 3) of them, relative to the centre: k evenly spread over their order in the scan, all of them and
            some twice where there are fewer.
    """

    grid: Grid
    visible: PointBatch
    occupied: Tensor
    hidden: Tensor
    centers: Tensor
    counts: Tensor
    points: Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class ColumnReconstruction:
    """What a model made up of hidden columns.

    Attributes:
        true: what there was.
        occupied_logits: (B, ny, nx) of whether a column holds points.
        predicted: (M, k, 3) points relative to the centres of their columns, metres.
        log_counts: (M,) natural logarithm of how many there are.
    """

    true: HiddenColumns
    occupied_logits: Tensor
    predicted: Tensor
    log_counts: Tensor

    @property
    def predicted_xyz(self) -> Tensor:
        """(M, k, 3) where the made-up points belong in their scan."""
        return self.predicted + self.true.centers[:, None]


def hide_columns(
    points: PointBatch, grid: Grid, share: float, num_points: int, generator: torch.Generator | None = None
) -> HiddenColumns:
    """Hide a random share of each cloud's columns that hold points.

    Args:
        points: clouds.
        grid: one cell high, whose cells are the columns.
        share: of columns to hide, rounded down to a number of them; 0 <= share <= 1.
        num_points: k points of each hidden column to be made up.
        generator: where the choice is drawn from, on CPU whatever the device of the points.

    Raises:
        ValueError: the share is out of range, or the grid is more than one cell high.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of columns to hide must be in [0, 1], got {share}")
    if grid.shape[0] != 1:
        raise ValueError(f"columns are one cell high, the grid has {grid.shape[0]}; make a cell as high as its range")
    coordinates, offsets, column, counts = voxelize(
        points.xyz, points.offsets, grid.low, grid.voxel_size, grid.shape
    )  # columns that hold points, and the one of each point, -1 outside
    batch, _, y, x = coordinates.long().unbind(1)
    draws = torch.rand(len(coordinates), generator=generator, dtype=torch.float64).to(points.device)
    rank = (batch + draws).argsort().argsort() - offsets[batch]  # of each column among those of its cloud
    is_hidden = rank < (share * offsets.diff()).long()[batch]

    def on_map(rows: Tensor) -> Tensor:
        empty = torch.zeros(len(points), *grid.shape[1:], dtype=torch.bool, device=points.device)
        return empty.index_put((batch[rows], y[rows], x[rows]), torch.ones_like(rows, dtype=torch.bool))

    rows = is_hidden.nonzero()[:, 0]
    centers = grid.centers(coordinates[rows, 1:])
    outside = (column < 0).sum()
    first = counts.cumsum(0) - counts + outside  # row of a column's first point, once points are sorted by column
    spread = torch.arange(num_points, device=points.device) * counts[rows, None] // num_points  # (M, k)
    own = points.xyz[column.argsort(stable=True)[first[rows, None] + spread]]
    return HiddenColumns(
        grid=grid,
        visible=_kept(points, (column >= 0) & ~torch.cat([is_hidden, is_hidden.new_zeros(1)])[column]),
        occupied=on_map(torch.arange(len(coordinates), device=points.device)),
        hidden=on_map(rows),
        centers=centers,
        counts=counts[rows],
        points=own - centers[:, None],
    )


class ColumnReconstructionHead(nn.Module):
    """From a map to what its columns hold: a convolution whose kernel is its stride, ReLU, and linear layers.

    Args:
        in_channels: of the map.
        cells: of the map along each side of a column.
        num_points: k points of a column.
        hidden_channels: between the layers.
    """

    def __init__(self, in_channels: int, *, cells: int, num_points: int, hidden_channels: int = 128) -> None:
        super().__init__()
        self.num_points = num_points
        self.hidden = nn.Conv2d(in_channels, hidden_channels, cells, stride=cells)
        self.occupied = nn.Linear(hidden_channels, 1)
        self.points = nn.Linear(hidden_channels, 3 * num_points)
        self.log_counts = nn.Linear(hidden_channels, 1)

    def forward(self, bev: BevMap, true: HiddenColumns) -> ColumnReconstruction:
        """Make up the hidden columns, and tell of all whether they hold points."""
        hidden = self.hidden(bev.features).relu().permute(0, 2, 3, 1)  # (B, ny, nx, C)
        rows = gather(hidden.flatten(0, 2), true.hidden.flatten().nonzero()[:, 0])  # (M, C)
        return ColumnReconstruction(
            true=true,
            occupied_logits=self.occupied(hidden).squeeze(3),
            predicted=self.points(rows).unflatten(1, (self.num_points, 3)),
            log_counts=self.log_counts(rows).squeeze(1),
        )


def column_losses(made_up: ColumnReconstruction) -> dict[str, Tensor]:
    """How far the made-up columns are from the true ones, means over clouds; one of which nothing is hidden counts 0.

    Returns:
        occupied: binary cross entropy of hidden columns and of empty ones, both by the half however many they are.
        chamfer: squared Chamfer distance of the points of hidden columns, square metres.
        count: smooth L1 distance (Huber's, from 1 on linear) of the logarithms of how many points there are.
    """
    true, logits = made_up.true, made_up.occupied_logits.float()
    cloud = true.hidden.nonzero()[:, 0]
    count = functional.smooth_l1_loss(made_up.log_counts.float(), true.counts.float().log(), reduction="none")
    chamfer = chamfer_distance(made_up.predicted, true.points)

    def of_clouds(values: Tensor) -> Tensor:
        return scatter(values, cloud, len(logits), "mean").mean()

    return {
        "occupied": (_mean_where(true.hidden, functional.softplus(-logits)) / 2)
        + (_mean_where(~true.occupied, functional.softplus(logits)) / 2),
        "chamfer": of_clouds(chamfer),
        "count": of_clouds(count),
    }


# ---- below the contract ----------------------------------------------------------------------------------------------
def _kept(points: PointBatch, keep: Tensor) -> PointBatch:
    """The points where a mask (N,) is True."""
    before = torch.cat([keep.new_zeros(1, dtype=torch.int64), keep.cumsum(0)])  # kept ones in front of each row
    features = None if points.features is None else points.features[keep]
    return PointBatch(points.xyz[keep], before[points.offsets], features)


def _mean_where(mask: Tensor, values: Tensor) -> Tensor:
    """Mean over clouds of the mean of (B, ny, nx) where a mask is True, 0 where it is so nowhere."""
    sums = torch.where(mask, values, 0).flatten(1).sum(1)
    return (sums / mask.flatten(1).sum(1).clamp(min=1)).mean()
