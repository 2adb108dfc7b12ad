"""PointPillars. Lang, Vora, Caesar, Zhou, Yang, Beijbom, 2019, arXiv:1812.05784.

Space is cut into pillars, as wide as a cell of a map and as high as the range. A PointNet of one layer makes a vector
of the points of each pillar, the vectors stand on a map seen from above, and from there on all is convolution on an
image: three blocks on ever coarser maps, brought back to one size, and a head that tells classes and boxes at every
place.

What differs here: pillars are never padded, so all of their points count and nothing else; `max_points=32` repeats the
published padding, which public weights were trained with. Instead of anchors the head may look for centres.

PointBatch -> pillars (M, 64) -> map (B, 64, ny, nx) -> three blocks (B, 384, ny / 2, nx / 2) -> head -> boxes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from pctransformer.grid_view.bird_eye_view import BevBackbone
from pctransformer.grid_view.voxel_features import PillarFeatures
from pctransformer.models.detector import DetectionHead, Detector, Head, Range, detection_head, set_momentum
from pctransformer.models.openpcdet import renamed_bev_and_head
from pctransformer.models.pretraining import WEIGHTS_OF_PRETRAINING
from pctransformer.points import PointBatch
from pctransformer.voxels import BevMap, Grid


class PointPillars(Detector):
    """The network of figure 2.

    Args:
        in_channels: channels of the points, 3 + C.
        pillars: from points to pillars.
        backbone: on the map of pillars.
        head: on the map of the backbone.

    Attributes:
        map_grid: of the map that the head gets.
    """

    def __init__(
        self, *, in_channels: int, pillars: PillarFeatures, backbone: BevBackbone, head: DetectionHead
    ) -> None:
        super().__init__()
        self.map_grid = backbone.out_grid(pillars.grid)  # refuses maps that cannot be halved as often
        self.in_channels, self.num_features, self.grid = in_channels, backbone.out_channels, pillars.grid
        self.pillars, self.backbone, self.head = pillars, backbone, head

    def forward_features(self, points: PointBatch | Tensor | Sequence[Tensor]) -> BevMap:
        pillars = self.pillars(PointBatch.of(points, self.in_channels))  # of the M pillars that hold points
        return self.backbone(self.map_of(pillars))  # (B, C, ny / 2, nx / 2)


# ---- sizes: section 2, and OpenPCDet's pointpillar.yaml for KITTI ----------------------------------------------------
def pointpillars(
    num_classes: int = 3,
    *,
    in_channels: int = 4,
    head: Head = "anchor",
    anchors: Sequence[Sequence[float]] | None = None,
    point_range: Range = (0, -39.68, -3, 69.12, 39.68, 1),
    voxel_size: tuple[float, float] = (0.16, 0.16),
    max_points: int | None = None,
    width: int = 64,
) -> PointPillars:
    """PointPillars for KITTI, 4 834 888 parameters; ranges along x and y are multiples of eight pillars."""
    x, y = voxel_size
    grid = Grid.from_range(point_range, (x, y, point_range[5] - point_range[2]))
    backbone = BevBackbone(
        width, layers=(3, 5, 5), strides=(2, 2, 2), widths=(width, 2 * width, 4 * width),
        up_strides=(1, 2, 4), up_widths=(2 * width,) * 3,
    )  # fmt: skip
    return PointPillars(
        in_channels=in_channels,
        pillars=PillarFeatures(in_channels, width, grid=grid, max_points=max_points),
        backbone=backbone,
        head=detection_head(
            head,
            backbone.out_channels,
            num_classes=num_classes,
            anchors=anchors,
            point_range=point_range,
            center_channels=width,
        ),
    )


def pointpillars_small(
    num_classes: int = 3,
    *,
    in_channels: int = 4,
    head: Head = "anchor",
    anchors: Sequence[Sequence[float]] | None = None,
    point_range: Range = (0, -25.6, -3, 51.2, 25.6, 1),
    voxel_size: tuple[float, float] = (0.32, 0.32),
) -> PointPillars:
    """PointPillars of half the width on pillars of twice the size, as far as 51.2 m, for training on a CPU."""
    model = pointpillars(
        num_classes, in_channels=in_channels, head=head, anchors=anchors, point_range=point_range,
        voxel_size=voxel_size, width=32,
    )  # fmt: skip
    set_momentum(model, 0.1)
    return model


# ---- public checkpoints: OpenPCDet -----------------------------------------------------------------------------------
def convert_openpcdet(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of OpenPCDet's PointPillar (pointpillar_7728.pth), renamed; they want `max_points=32`.

    127 entries, one of which counts steps and is left out.
    """
    return {name.replace("vfe.pfn_layers.0.", "pillars."): value for name, value in renamed_bev_and_head(weights)}


PUBLIC_WEIGHTS = {"vfe.pfn_layers.0.linear.weight": convert_openpcdet, **WEIGHTS_OF_PRETRAINING}
