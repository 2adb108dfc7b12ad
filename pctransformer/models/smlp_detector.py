"""sMLP pyramid on a map. After Tang, Zhao, Wang, Luo, Xie, Zeng, Sparse MLP for Image Recognition: Is Self-Attention
Really Necessary? (sMLPNet), 2021, arXiv:2109.05422.

Pillars of points become a map seen from above, where cells are mixed without attention: a depth-wise convolution for
those around, one linear layer along every row and one along every column for those far away. Three stages on ever
coarser maps, which a neck brings back to one size, and a head that tells classes and boxes at every place.

What differs here: the paper classifies images, in four stages. Here pillars are in front, three stages take a cell as
far as its map allows, and in place of the mean there is SECOND's neck. Any grid mixer may stand in place of sMLP, and
its published variants are options of the mixer.

PointBatch -> pillars (M, C) -> map (B, C, ny, nx) -> stages (B, ny / 2, nx / 2, C), (/ 4, 2 C), (/ 8, 4 C) -> neck
(B, C', ny / 2, nx / 2) -> head -> boxes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pctransformer.grid_view.mixer_pyramid import MixerPyramid, mixer_stages
from pctransformer.grid_view.voxel_features import PillarFeatures
from pctransformer.models.detector import DetectionHead, Detector, Head, Range, detection_head, set_momentum
from pctransformer.points import PointBatch
from pctransformer.voxels import BevMap, Grid


class MixerDetector(Detector):
    """Pillars, a pyramid of grid mixers, and a head.

    Args:
        in_channels: channels of the points, 3 + C.
        pillars: from points to pillars.
        backbone: on the map of pillars.
        head: on the map of the backbone.
    """

    def __init__(
        self, *, in_channels: int, pillars: PillarFeatures, backbone: MixerPyramid, head: DetectionHead
    ) -> None:
        super().__init__()
        self.in_channels, self.num_features, self.grid = in_channels, backbone.out_channels, pillars.grid
        self.pillars, self.backbone, self.head = pillars, backbone, head

    def forward_features(self, points: PointBatch | Tensor | Sequence[Tensor]) -> BevMap:
        pillars = self.pillars(PointBatch.of(points, self.in_channels))  # of the M pillars that hold points
        return self.backbone(self.map_of(pillars))  # (B, C', ny / 2, nx / 2)


# ---- sizes -----------------------------------------------------------------------------------------------------------
def smlp_detector(
    num_classes: int = 3,
    *,
    in_channels: int = 4,
    head: Head = "anchor",
    anchors: Sequence[Sequence[float]] | None = None,
    point_range: Range = (0, -39.68, -3, 69.12, 39.68, 1),
    voxel_size: tuple[float, float] = (0.16, 0.16),
    mixer: str = "smlp",
    mixer_options: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
    depths: tuple[int, ...] = (2, 4, 6),
    width: int = 64,
    drop_path: float = 0.1,
) -> MixerDetector:
    """On PointPillars' map for KITTI; ranges along x and y are multiples of two pillars, doubled for each stage.

    Args:
        num_classes: kinds of boxes.
        in_channels: channels of the points, 3 + C.
        head: boxes measured from anchors, from centres of objects, or told by queries.
        anchors: see `detection_head`.
        point_range: what is looked at, metres; weights of sMLP belong to rows and columns of its map.
        voxel_size: x and y of a pillar, metres.
        mixer: one of `pctransformer.layers.grid_mixers.list_grid_mixers()`.
        mixer_options: further arguments of the mixer, for all stages or for each, see `mixer_stages`.
        depths: layers of each stage.
        width: channels of pillars and of the first stage; each further stage has twice as many.
        drop_path: share of maps that the last layer leaves as they are, in training.
    """
    x, y = voxel_size
    grid = Grid.from_range(point_range, (x, y, point_range[5] - point_range[2]))
    dims = [width * 2**stage for stage in range(len(depths))]
    stages = mixer_stages(
        width, (grid.shape[1], grid.shape[2]), patch=2, dims=dims, depths=depths, mixer=mixer,
        mixer_options=mixer_options, drop_path=drop_path,
    )  # fmt: skip
    backbone = MixerPyramid(stages, dims=dims, patch=2, width=2 * width)
    return MixerDetector(
        in_channels=in_channels,
        pillars=PillarFeatures(in_channels, width, grid=grid),
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


def smlp_detector_small(
    num_classes: int = 3,
    *,
    in_channels: int = 4,
    head: Head = "anchor",
    anchors: Sequence[Sequence[float]] | None = None,
    point_range: Range = (0, -25.6, -3, 51.2, 25.6, 1),
    voxel_size: tuple[float, float] = (0.32, 0.32),
    mixer: str = "smlp",
    mixer_options: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
    depths: tuple[int, ...] = (2, 2, 2),
    width: int = 32,
) -> MixerDetector:
    """Two layers a stage and half the width, on pillars of twice the size, as far as 51.2 m, for training on a CPU."""
    model = smlp_detector(
        num_classes, in_channels=in_channels, head=head, anchors=anchors, point_range=point_range,
        voxel_size=voxel_size, mixer=mixer, mixer_options=mixer_options, depths=depths, width=width,
        drop_path=0.0,
    )  # fmt: skip
    set_momentum(model, 0.1)
    return model
