"""A LiDAR detector after Deformable DETR. Zhu, Su, Lu, Li, Wang, Dai, 2021, arXiv:2010.04159.

Maps seen from above at several resolutions look at each other and at themselves, each cell at a few places that it
chooses, so that attention costs no more than convolutions and every cell sees near and far; then a hundred queries look
at the same maps, move to where they find their objects, and answer with one box each.

What differs here: the maps are of pillars, from convolutions as in PointPillars, where the paper has a photograph; see
`heads.deformable` for the queries. Behind an anchor or a centre head, which need one map, stands the finest.

PointBatch -> pillars -> map (B, C, ny, nx) -> maps (B, C', ny / 2, nx / 2), / 4, / 8 -> encoder
    -> queries (B, 100, C') -> decoder -> boxes, or the first map -> head
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pctransformer.grid_view.bird_eye_view import BevBackbone
from pctransformer.grid_view.voxel_features import PillarFeatures
from pctransformer.heads.deformable import DeformableQueryHead
from pctransformer.heads.object_queries import HeatmapQueries
from pctransformer.layers.deformable import (
    DeformableEncoder,
    DeformableEncoderLayer,
    MapLevels,
    MultiScaleDeformableAttention,
)
from pctransformer.layers.mlp import MLP
from pctransformer.layers.position import FourierPosition
from pctransformer.layers.residual import Residual
from pctransformer.models.detector import DetectionHead, Detector, Head, Range, detection_head, set_momentum
from pctransformer.points import PointBatch
from pctransformer.voxels import BevMap, Grid

_FREQUENCY = 0.05  # cycles per metre of position codes, as in the heads of queries


class DeformableDetector(Detector):
    """The network of figure 1, on pillars.

    Args:
        in_channels: channels of the points, 3 + C.
        pillars: from points to pillars.
        stages: each makes the next coarser map, all with as many channels.
        encoder: of the maps of all stages.
        head: on the maps, or on the finest of them.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        pillars: PillarFeatures,
        stages: Sequence[BevBackbone],
        encoder: DeformableEncoder,
        head: DetectionHead,
    ) -> None:
        super().__init__()
        grid = pillars.grid
        for stage in stages:  # refuses maps that cannot be halved as often
            grid = stage.out_grid(grid)
        self.in_channels, self.num_features, self.grid = in_channels, stages[-1].out_channels, pillars.grid
        self.pillars, self.stages, self.encoder, self.head = pillars, nn.ModuleList(stages), encoder, head

    def forward_features(self, points: PointBatch | Tensor | Sequence[Tensor]) -> BevMap | MapLevels:
        """The maps of all stages, or the finest for a head that wants one; `num_features` channels."""
        bev = self.map_of(self.pillars(PointBatch.of(points, self.in_channels)))
        maps = []
        for stage in self.stages:
            bev = stage(bev)
            maps.append(bev)
        if self.is_recorded:
            self._record_levels(maps)
        levels = self.encoder(MapLevels.from_maps(maps))
        if isinstance(self.head, DeformableQueryHead):
            return levels
        if self.is_recorded:
            rows = torch.arange(levels.cells.shape[1] * len(levels), device=levels.cells.device)
            self.record_mean(rows.view(len(levels), -1)[:, : math.prod(levels.shapes[0])].reshape(-1, 1))
        return levels.to_maps()[0]

    def _record_levels(self, maps: Sequence[BevMap]) -> None:
        """Hand over that maps, each made of the one before, were put in one sequence: coarsest first, one by one in
        front of what is there already."""
        coarser = math.prod(maps[-1].grid.shape[1:])  # cells of each cloud that are in the sequence
        for bev in reversed(maps[:-1]):
            own = math.prod(bev.grid.shape[1:])
            place = torch.arange(len(bev) * (own + coarser), device=bev.device).view(len(bev), -1)
            behind, before = (rows.reshape(-1, 1) for rows in (place[:, own:], place[:, :own]))
            for row, skips in ((behind, False), (before, True)):
                weights = torch.ones(len(row), 1, 1, 1, device=bev.device)
                key = torch.arange(len(row), device=bev.device)[:, None]
                self.record(weights, "skip" if skips else "children", row, key, place.numel())
            coarser += own


# ---- sizes -----------------------------------------------------------------------------------------------------------
def deformable_detector(
    num_classes: int = 3,
    *,
    in_channels: int = 4,
    head: Head = "query",
    anchors: Sequence[Sequence[float]] | None = None,
    point_range: Range = (0, -39.68, -3, 69.12, 39.68, 1),
    voxel_size: tuple[float, float] = (0.16, 0.16),
    width: int = 64,
    dim: int = 128,
    layers: Sequence[int] = (3, 5, 5),
    depth: int = 3,
    decoder_depth: int = 6,
    num_heads: int = 8,
    num_points: int = 4,
    num_queries: int = 100,
) -> DeformableDetector:
    """For KITTI, of half the width of the paper's, whose maps are much smaller; 4 204 336 parameters.

    Args:
        num_classes: classes of boxes.
        in_channels: channels of the points, 3 + C.
        head: "query", on all maps; or an anchor or centre head, on the finest.
        anchors: one for each class, for an anchor head.
        point_range: what is looked at, metres; a multiple of two to the number of stages pillars along x and y.
        voxel_size: (x, y) of pillars, metres.
        width: channels of pillars.
        dim: channels of maps and queries.
        layers: convolutions of each stage behind the one that halves the map.
        depth: encoder layers.
        decoder_depth: of the query head.
        num_heads: of attention.
        num_points: places that each head looks at on each map.
        num_queries: of the query head.
    """
    if head == "query" and anchors is not None:
        raise ValueError('a head of kind "query" has no anchors; leave them out, or use head="anchor"')
    x, y = voxel_size
    grid = Grid.from_range(point_range, (x, y, point_range[5] - point_range[2]))
    stages = [
        BevBackbone(
            dim if i else width, layers=(count,), strides=(2,), widths=(dim,), up_strides=(1,), up_widths=(dim,)
        )
        for i, count in enumerate(layers)
    ]

    def encoder_layer() -> DeformableEncoderLayer:
        attention = MultiScaleDeformableAttention(dim, num_heads, num_levels=len(stages), num_points=num_points)
        return DeformableEncoderLayer(
            attention, MLP(dim, 2 * dim, activation=nn.ReLU), lambda: Residual(nn.LayerNorm(dim))
        )

    position = nn.Sequential(FourierPosition(dim, frequency=_FREQUENCY), nn.Linear(dim, dim))
    encoder = DeformableEncoder((encoder_layer() for _ in range(depth)), dim, position=position, norm=nn.LayerNorm(dim))
    on_top: DetectionHead
    if head == "query":
        on_top = DeformableQueryHead(
            num_classes=num_classes, queries=HeatmapQueries(num_queries, dim, dim, num_classes=num_classes),
            range=point_range, dim=dim, num_levels=len(stages), depth=decoder_depth, num_heads=num_heads,
            num_points=num_points,
        )  # fmt: skip
    else:
        on_top = detection_head(
            head, dim, num_classes=num_classes, anchors=anchors, point_range=point_range, center_channels=width
        )
    return DeformableDetector(
        in_channels=in_channels,
        pillars=PillarFeatures(in_channels, width, grid=grid),
        stages=stages,
        encoder=encoder,
        head=on_top,
    )


def deformable_detector_small(
    num_classes: int = 3,
    *,
    in_channels: int = 4,
    head: Head = "query",
    anchors: Sequence[Sequence[float]] | None = None,
    point_range: Range = (0, -25.6, -3, 51.2, 25.6, 1),
    voxel_size: tuple[float, float] = (0.32, 0.32),
) -> DeformableDetector:
    """Half as wide and deep on pillars of twice the size, as far as 51.2 m, for training on a CPU."""
    model = deformable_detector(
        num_classes, in_channels=in_channels, head=head, anchors=anchors, point_range=point_range,
        voxel_size=voxel_size, width=32, dim=64, layers=(2, 3, 3), depth=2, decoder_depth=3, num_heads=4,
    )  # fmt: skip
    set_momentum(model, 0.1)
    return model
