"""Voxel and pillar transformers: attention in windows of occupied cells, with the head of a LiDAR detector.

After Liu et al., Swin Transformer, 2021, arXiv:2103.14030; over occupied cells since Fan et al., Embracing single
stride 3D object detector with sparse transformer (SST), 2022, arXiv:2112.06375, and Wang et al., DSVT: Dynamic sparse
voxel transformer, 2023, arXiv:2301.06051.

A small PointNet makes a token of every cell that holds points, and tokens attend to those in their window, regular and
shifted windows taking turns. Cells stay as fine as they are along x and y, since pedestrians are no larger than two of
them. Pillars are one stage. Voxels are joined along z from stage to stage, until one is left in each column. What
stands on the map then passes through SECOND's convolutions, which reach the places between, and a head.

What differs here: the rule of windows is Swin's, exact for as many cells as a window holds. SST pads windows and drops
cells of full ones in training; DSVT attends in sets of 36 or 48 cells, sorted along x and y in turn. Position is a
learned bias of scores, not a perceptron's code added to tokens; norms are in front; merges are strided sparse
convolutions, not attention. In front of each attention a submanifold convolution carries what is near across the
borders of windows, after Liu et al., LION, 2024, arXiv:2407.18232; `convolution=False` leaves it out. There are no
public weights.

PointBatch -> cells (M, 192) -> stages of windows -> map (B, 192, ny, nx) -> two blocks -> head -> boxes
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pctransformer.grid_view.bird_eye_view import BevBackbone
from pctransformer.grid_view.voxel_features import DynamicVoxelFeatures
from pctransformer.grid_view.window_attention import CellDescriptor, Size, WindowBlock
from pctransformer.grid_view.window_backbone import WindowBackbone, WindowMerge, WindowStage
from pctransformer.models.detector import DetectionHead, Detector, Head, Range, detection_head, set_momentum
from pctransformer.models.pretraining import WEIGHTS_OF_PRETRAINING
from pctransformer.points import PointBatch
from pctransformer.voxels import BevMap, Grid

_COLUMNS = 12  # of a window, along y and along x; SST's too


class VoxelTransformer(Detector):
    """The network.

    Args:
        in_channels: channels of the points, 3 + C.
        voxels: from points to cells.
        windows: on the cells; what it leaves of their heights become channels of the map.
        backbone: on the map.
        head: on the map of the backbone.

    Attributes:
        map_grid: of the map that the head gets.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        voxels: DynamicVoxelFeatures,
        windows: WindowBackbone,
        backbone: BevBackbone,
        head: DetectionHead,
    ) -> None:
        super().__init__()
        self.map_grid = backbone.out_grid(windows.out_grid(voxels.grid))  # refuses maps that cannot be halved as often
        self.in_channels, self.num_features, self.grid = in_channels, backbone.out_channels, voxels.grid
        self.voxels, self.windows, self.backbone, self.head = voxels, windows, backbone, head

    def forward_features(self, points: PointBatch | Tensor | Sequence[Tensor]) -> BevMap:
        voxels = self.voxels(PointBatch.of(points, self.in_channels))  # the M cells that hold points
        bev = self.map_of(self.windows(voxels))  # (B, C, ny, nx)
        return self.backbone(bev)


# ---- sizes: LION's configurations of DSVT for KITTI, second_with_DSVT_{voxel,pillar}.yaml ----------------------------
def voxel_transformer(
    num_classes: int = 3,
    *,
    in_channels: int = 4,
    head: Head = "anchor",
    anchors: Sequence[Sequence[float]] | None = None,
    point_range: Range = (0, -40, -3, 70.4, 40, 1),
    voxel_size: tuple[float, float, float] = (0.2, 0.2, 0.125),
    dim: int = 192,
    num_heads: int = 8,
    convolution: bool = True,
) -> VoxelTransformer:
    """For KITTI, 14 657 384 parameters: four stages of two blocks, on 32, 8, 2 and 1 heights.

    Windows are 12 x 12 columns.

    Args:
        num_classes: classes of boxes.
        in_channels: channels of the points, 3 + C.
        head: see `detection_head`, as anchors.
        anchors: one for each class.
        point_range: what is looked at, metres.
        voxel_size: (x, y, z) of a cell, metres: 32 of them high, and even numbers along x and y.
        dim: channels of tokens.
        num_heads: heads of attention.
        convolution: whether blocks have one.
    """
    grid = Grid.from_range(point_range, voxel_size)
    windows = _windows(dim, num_heads, grid, merges=(4, 4, 2), pairs=1, convolution=convolution)
    return _transformer(windows, grid, num_classes, in_channels, head, anchors, point_range)


def pillar_transformer(
    num_classes: int = 3,
    *,
    in_channels: int = 4,
    head: Head = "anchor",
    anchors: Sequence[Sequence[float]] | None = None,
    point_range: Range = (0, -40, -3, 70.4, 40, 1),
    voxel_size: tuple[float, float] = (0.2, 0.2),
    dim: int = 192,
    num_heads: int = 8,
    convolution: bool = True,
) -> VoxelTransformer:
    """For KITTI, 9 646 088 parameters: four regular and four shifted blocks on pillars. See `voxel_transformer`."""
    grid = _pillars(point_range, voxel_size)
    windows = _windows(dim, num_heads, grid, merges=(), pairs=4, convolution=convolution)
    return _transformer(windows, grid, num_classes, in_channels, head, anchors, point_range)


def voxel_transformer_small(
    num_classes: int = 3,
    *,
    in_channels: int = 4,
    head: Head = "anchor",
    anchors: Sequence[Sequence[float]] | None = None,
    point_range: Range = (0, -25.6, -3, 51.2, 25.6, 1),
    voxel_size: tuple[float, float, float] = (0.32, 0.32, 0.5),
    convolution: bool = True,
) -> VoxelTransformer:
    """A third of the width, two stages and coarse voxels, as far as 51.2 m, for training on a CPU.

    Eight voxels high, and multiples of eight along x and y. See `voxel_transformer`.
    """
    grid = Grid.from_range(point_range, voxel_size)
    windows = _windows(64, 4, grid, merges=(8,), pairs=1, convolution=convolution)
    return _transformer(windows, grid, num_classes, in_channels, head, anchors, point_range, small=True)


def pillar_transformer_small(
    num_classes: int = 3,
    *,
    in_channels: int = 4,
    head: Head = "anchor",
    anchors: Sequence[Sequence[float]] | None = None,
    point_range: Range = (0, -25.6, -3, 51.2, 25.6, 1),
    voxel_size: tuple[float, float] = (0.32, 0.32),
    convolution: bool = True,
) -> VoxelTransformer:
    """A third of the width and half the blocks on coarse pillars, as far as 51.2 m, for training on a CPU.

    Multiples of eight pillars along x and y. See `voxel_transformer`.
    """
    grid = _pillars(point_range, voxel_size)
    windows = _windows(64, 4, grid, merges=(), pairs=2, convolution=convolution)
    return _transformer(windows, grid, num_classes, in_channels, head, anchors, point_range, small=True)


def _pillars(point_range: Range, voxel_size: tuple[float, float]) -> Grid:
    return Grid.from_range(point_range, (*voxel_size, point_range[5] - point_range[2]))


def _windows(
    dim: int, num_heads: int, grid: Grid, *, merges: Sequence[int], pairs: int, convolution: bool
) -> WindowBackbone:
    """Stages of so many regular and shifted blocks, whose windows are full columns; merges are along z."""
    joins = [WindowMerge(dim, dim, (step, 1, 1)) for step in merges]
    heights = [grid.shape[0]]
    for join in joins:
        grid = join.out_grid(grid)
        heights.append(grid.shape[0])

    def block(height: int, shifted: bool) -> WindowBlock:
        kernel_size: Size = (3 if height > 1 else 1, 3, 3)
        return WindowBlock(
            dim, num_heads, (height, _COLUMNS, _COLUMNS), shifted=shifted, hidden_dim=2 * dim,
            descriptor=CellDescriptor(dim, kernel_size) if convolution else None,
        )  # fmt: skip

    stages = [
        WindowStage([block(height, shifted) for _ in range(pairs) for shifted in (False, True)]) for height in heights
    ]
    return WindowBackbone(stages, joins, dim=dim)


def _transformer(
    windows: WindowBackbone,
    grid: Grid,
    num_classes: int,
    in_channels: int,
    head: Head,
    anchors: Sequence[Sequence[float]] | None,
    point_range: Range,
    *,
    small: bool = False,
) -> VoxelTransformer:
    """What is around the windows: as published; or the map of PointPillars' small size by a third of its convolutions,
    and norms that remember ten steps."""
    dim = windows.out_channels
    if small:
        backbone = BevBackbone(
            dim, layers=(1, 2, 2), strides=(2, 2, 2), widths=(32, 64, 128), up_strides=(1, 2, 4), up_widths=(64,) * 3
        )
    else:
        backbone = BevBackbone(
            dim, layers=(5, 5), strides=(1, 2), widths=(128, 256), up_strides=(1, 2), up_widths=(256, 256)
        )
    model = VoxelTransformer(
        in_channels=in_channels,
        voxels=DynamicVoxelFeatures(in_channels, (dim // 2 if small else dim, dim), grid=grid),
        windows=windows,
        backbone=backbone,
        head=detection_head(
            head,
            backbone.out_channels,
            num_classes=num_classes,
            anchors=anchors,
            point_range=point_range,
            center_channels=32 if small else 64,
        ),
    )
    if small:
        set_momentum(model, 0.1)
    return model


# ---- weights of pretraining, see `models.masked_columns` -------------------------------------------------------------
PUBLIC_WEIGHTS = WEIGHTS_OF_PRETRAINING
