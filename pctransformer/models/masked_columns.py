"""Masked columns: autoencoders for LiDAR scans, whose encoder is the backbone of a detector.

After Hess et al., Masked autoencoder for self-supervised pre-training on LiDAR point clouds (Voxel-MAE), 2022,
arXiv:2207.00531.

A scan is cut into columns as high as it is, and most of those that hold points are hidden. The backbone sees the points
of the others only; a light head on its map says of every other column whether it holds points, and of the hidden ones
how many and where. No labels are needed, and nothing of it but the backbone goes into the detector of the same name
without `_pretraining`.

What differs here: Voxel-MAE pretrains the attention of SST alone, with a decoder of attention whose tokens stand for
what was hidden. Here the hidden is simply absent, and the whole backbone up to the map of the detector learns, so that
what it is made of does not matter. Exactly a share of each scan's columns is hidden; all empty columns are asked, not a
tenth as many as there are occupied ones, and weigh as much as the hidden ones together; points are measured in metres,
and how many there are by its logarithm.

PointBatch -> columns -> points of 30 % -> backbone -> map -> occupied or not, points of 70 %, how many
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pctransformer.heads.column_reconstruction import (
    ColumnReconstruction,
    ColumnReconstructionHead,
    column_losses,
    hide_columns,
)
from pctransformer.models.detector import Range
from pctransformer.models.pointpillars import PointPillars, pointpillars, pointpillars_small
from pctransformer.models.pretraining import Pretraining
from pctransformer.models.voxel_transformer import (
    VoxelTransformer,
    pillar_transformer,
    pillar_transformer_small,
    voxel_transformer,
    voxel_transformer_small,
)
from pctransformer.points import PointBatch
from pctransformer.voxels import BevMap, Grid


class MaskedColumns(Pretraining):
    """The network.

    Args:
        detector: whose backbone learns; taken over, its head is taken off.
        cells: of its map along each side of a column.
        mask_ratio: share of the columns that are hidden.
        num_points: points that are made up of each.

    Raises:
        ValueError: the map is not a whole number of columns.
    """

    def __init__(
        self, detector: VoxelTransformer | PointPillars, *, cells: int, mask_ratio: float, num_points: int = 16
    ) -> None:
        super().__init__()
        self.in_channels, self.num_features = detector.in_channels, detector.num_features
        self.mask_ratio, self.num_points = mask_ratio, num_points
        self.columns = _columns(detector.grid, detector.map_grid, cells)
        self.detector = detector
        del self.detector.head
        self.head = ColumnReconstructionHead(self.num_features, cells=cells, num_points=num_points)

    def encode(self, points: PointBatch | Tensor | Sequence[Tensor]) -> BevMap:
        return self.detector.forward_features(points)

    def forward(
        self, points: PointBatch | Tensor | Sequence[Tensor], generator: torch.Generator | None = None
    ) -> ColumnReconstruction:
        """Hide columns, drawn from the generator, and make them up."""
        points = PointBatch.of(points, self.in_channels)
        true = hide_columns(points, self.columns, self.mask_ratio, self.num_points, generator)
        return self.head(self.detector.forward_features(true.visible), true)

    def loss(self, made_up: ColumnReconstruction) -> dict[str, Tensor]:
        """What hidden columns lack of the true ones, see `column_losses`."""
        return column_losses(made_up)


def _columns(grid: Grid, map_grid: Grid, cells: int) -> Grid:
    """Columns of so many cells of a map that was made of a grid.

    The map's cells may stand half a cell of the grid aside, see `BevBackbone.out_grid`; columns stand where the grid
    does, and the head learns the difference.
    """
    (nz, ny, nx), (_, map_y, map_x) = grid.shape, map_grid.shape
    if map_y % cells or map_x % cells:
        raise ValueError(
            f"a map of {map_y} x {map_x} cells is no whole number of columns of {cells} x {cells}; change the range or"
            " the size of voxels"
        )
    x, y, z = grid.voxel_size
    return Grid(grid.low, (x * cells * nx / map_x, y * cells * ny / map_y, z * nz), (1, map_y // cells, map_x // cells))


# ---- sizes: those of the detectors -----------------------------------------------------------------------------------
def pillar_transformer_pretraining(
    *,
    in_channels: int = 4,
    point_range: Range = (0, -40, -3, 70.4, 40, 1),
    voxel_size: tuple[float, float] = (0.2, 0.2),
    dim: int = 192,
    num_heads: int = 8,
    convolution: bool = True,
    mask_ratio: float = 0.7,
) -> MaskedColumns:
    """What `pillar_transformer` of the same options is pretrained as, by columns of 0.8 m."""
    detector = pillar_transformer(
        in_channels=in_channels, point_range=point_range, voxel_size=voxel_size, dim=dim, num_heads=num_heads,
        convolution=convolution,
    )  # fmt: skip
    return MaskedColumns(detector, cells=4, mask_ratio=mask_ratio)


def pillar_transformer_small_pretraining(
    *,
    in_channels: int = 4,
    point_range: Range = (0, -25.6, -3, 51.2, 25.6, 1),
    voxel_size: tuple[float, float] = (0.32, 0.32),
    convolution: bool = True,
    mask_ratio: float = 0.7,
) -> MaskedColumns:
    """What `pillar_transformer_small` of the same options is pretrained as, by columns of 0.64 m."""
    detector = pillar_transformer_small(
        in_channels=in_channels, point_range=point_range, voxel_size=voxel_size, convolution=convolution
    )
    return MaskedColumns(detector, cells=1, mask_ratio=mask_ratio)


def voxel_transformer_pretraining(
    *,
    in_channels: int = 4,
    point_range: Range = (0, -40, -3, 70.4, 40, 1),
    voxel_size: tuple[float, float, float] = (0.2, 0.2, 0.125),
    dim: int = 192,
    num_heads: int = 8,
    convolution: bool = True,
    mask_ratio: float = 0.7,
) -> MaskedColumns:
    """What `voxel_transformer` of the same options is pretrained as, by columns of 0.8 m."""
    detector = voxel_transformer(
        in_channels=in_channels, point_range=point_range, voxel_size=voxel_size, dim=dim, num_heads=num_heads,
        convolution=convolution,
    )  # fmt: skip
    return MaskedColumns(detector, cells=4, mask_ratio=mask_ratio)


def voxel_transformer_small_pretraining(
    *,
    in_channels: int = 4,
    point_range: Range = (0, -25.6, -3, 51.2, 25.6, 1),
    voxel_size: tuple[float, float, float] = (0.32, 0.32, 0.5),
    convolution: bool = True,
    mask_ratio: float = 0.7,
) -> MaskedColumns:
    """What `voxel_transformer_small` of the same options is pretrained as, by columns of 0.64 m."""
    detector = voxel_transformer_small(
        in_channels=in_channels, point_range=point_range, voxel_size=voxel_size, convolution=convolution
    )
    return MaskedColumns(detector, cells=1, mask_ratio=mask_ratio)


def pointpillars_pretraining(
    *,
    in_channels: int = 4,
    point_range: Range = (0, -39.68, -3, 69.12, 39.68, 1),
    voxel_size: tuple[float, float] = (0.16, 0.16),
    max_points: int | None = None,
    width: int = 64,
    mask_ratio: float = 0.7,
) -> MaskedColumns:
    """What `pointpillars` of the same options is pretrained as, by columns of 0.64 m."""
    detector = pointpillars(
        in_channels=in_channels, point_range=point_range, voxel_size=voxel_size, max_points=max_points, width=width
    )
    return MaskedColumns(detector, cells=2, mask_ratio=mask_ratio)


def pointpillars_small_pretraining(
    *,
    in_channels: int = 4,
    point_range: Range = (0, -25.6, -3, 51.2, 25.6, 1),
    voxel_size: tuple[float, float] = (0.32, 0.32),
    mask_ratio: float = 0.7,
) -> MaskedColumns:
    """What `pointpillars_small` of the same options is pretrained as, by columns of 0.64 m."""
    detector = pointpillars_small(in_channels=in_channels, point_range=point_range, voxel_size=voxel_size)
    return MaskedColumns(detector, cells=1, mask_ratio=mask_ratio)
