"""SECOND: Sparsely Embedded Convolutional Detection. Yan, Mao, Li, 2018, Sensors 18(10):3337.

Space is cut into voxels, of which few hold points. Convolutions in space visit those only: submanifold ones keep the
occupied cells, four stages with strides make them eight times as large. The two heights that are left become channels
of a map seen from above, on which two blocks of convolutions work, and a head that tells classes and boxes at every
place.

What differs here: it is the form in which OpenPCDet made it known, not the paper's (means of points instead of learned
voxel features, four stages); voxels are as many, and their points as many, as there are, unless `max_points` and
`max_voxels` limit them as public weights were trained. Instead of anchors the head may look for centres; then the map
is twice as fine.

PointBatch -> voxels (M, 4) -> sparse stages -> map (B, 256, ny / 8, nx / 8) -> two blocks -> head -> boxes
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from pctransformer.grid_view.bird_eye_view import BevBackbone
from pctransformer.grid_view.sparse_backbone import SparseBackbone
from pctransformer.grid_view.voxel_features import MeanVoxelFeatures
from pctransformer.models.detector import DetectionHead, Detector, Head, Range, detection_head, set_momentum
from pctransformer.models.openpcdet import renamed_bev_and_head
from pctransformer.points import PointBatch
from pctransformer.voxels import BevMap, Grid


class Second(Detector):
    """The network of figure 1.

    Args:
        in_channels: channels of the points, 3 + C.
        voxels: from points to voxels.
        sparse: from voxels to few heights of cells.
        backbone: on the map that these are.
        head: on the map of the backbone.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        voxels: MeanVoxelFeatures,
        sparse: SparseBackbone,
        backbone: BevBackbone,
        head: DetectionHead,
    ) -> None:
        super().__init__()
        backbone.out_grid(sparse.out_grid(voxels.grid))  # refuses maps that cannot be halved as often
        self.in_channels, self.num_features, self.grid = in_channels, backbone.out_channels, voxels.grid
        self.voxels, self.sparse, self.backbone, self.head = voxels, sparse, backbone, head

    def forward_features(self, points: PointBatch | Tensor | Sequence[Tensor]) -> BevMap:
        voxels = self.voxels(PointBatch.of(points, self.in_channels))  # the M cells that hold points
        bev = self.map_of(self.sparse(voxels))  # (B, 256, ny / 8, nx / 8)
        return self.backbone(bev)


# ---- sizes: section 3, and OpenPCDet's second.yaml for KITTI ---------------------------------------------------------
def second(
    num_classes: int = 3,
    *,
    in_channels: int = 4,
    head: Head = "anchor",
    anchors: Sequence[Sequence[float]] | None = None,
    point_range: Range = (0, -40, -3, 70.4, 40, 1),
    voxel_size: tuple[float, float, float] = (0.05, 0.05, 0.1),
    max_points: int | None = None,
    max_voxels: tuple[int, int] | None = None,
) -> Second:
    """SECOND for KITTI, 5 325 576 parameters; 40 voxels high, and multiples of 16 along x and y.

    With `head="center"` the network on the map is that of CenterPoint in the form that its users gave it for KITTI.
    """
    sparse = SparseBackbone(in_channels, widths=(16, 32, 64, 64), z_padding=(1, 1, 0), out_channels=128)
    return _second(
        sparse, 128, 5, num_classes=num_classes, in_channels=in_channels, head=head, anchors=anchors,
        point_range=point_range, voxel_size=voxel_size, max_points=max_points, max_voxels=max_voxels,
    )  # fmt: skip


def second_small(
    num_classes: int = 3,
    *,
    in_channels: int = 4,
    head: Head = "anchor",
    anchors: Sequence[Sequence[float]] | None = None,
    point_range: Range = (0, -25.6, -3, 51.2, 25.6, 1),
    voxel_size: tuple[float, float, float] = (0.2, 0.2, 0.2),
) -> Second:
    """SECOND of half the width and one stage fewer, on coarse voxels, as far as 51.2 m, for training on a CPU.

    Twenty voxels high; cells of the map are four of them.
    """
    sparse = SparseBackbone(in_channels, widths=(8, 16, 32), z_padding=(1, 1), out_channels=64)
    model = _second(
        sparse, 64, 3, num_classes=num_classes, in_channels=in_channels, head=head, anchors=anchors,
        point_range=point_range, voxel_size=voxel_size, max_points=None, max_voxels=None,
    )  # fmt: skip
    set_momentum(model, 0.1)
    return model


def _second(
    sparse: SparseBackbone,
    width: int,
    depth: int,
    *,
    num_classes: int,
    in_channels: int,
    head: Head,
    anchors: Sequence[Sequence[float]] | None,
    point_range: Range,
    voxel_size: Sequence[float],
    max_points: int | None,
    max_voxels: tuple[int, int] | None,
) -> Second:
    """Of a width and depth of the blocks on the map."""
    grid = Grid.from_range(point_range, voxel_size)
    channels = sparse.out_channels * sparse.out_grid(grid).shape[0]
    if head == "center":
        backbone = BevBackbone(
            channels, layers=(depth,), strides=(1,), widths=(width,), up_strides=(2,), up_widths=(2 * width,)
        )
    else:
        backbone = BevBackbone(
            channels, layers=(depth, depth), strides=(1, 2), widths=(width, 2 * width), up_strides=(1, 2),
            up_widths=(2 * width, 2 * width),
        )  # fmt: skip
    return Second(
        in_channels=in_channels,
        voxels=MeanVoxelFeatures(grid, max_points=max_points, max_voxels=max_voxels),
        sparse=sparse,
        backbone=backbone,
        head=detection_head(
            head,
            backbone.out_channels,
            num_classes=num_classes,
            anchors=anchors,
            point_range=point_range,
            center_channels=width // 2,
        ),
    )


# ---- public checkpoints: OpenPCDet -----------------------------------------------------------------------------------
def convert_openpcdet(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of OpenPCDet's SECONDNet (second_7862.pth), renamed; they want `max_points=5`.

    163 entries, one of which counts steps and is left out. Weights of sparse convolutions are stored as spconv has
    them: (out, kz, ky, kx, in) since its version 2, as here; (kz, ky, kx, in, out) before. Which it is, the last of
    them tells for all, whose kernel is (3, 1, 1): one of 3 x 3 x 3 with three channels could be read either way.
    """
    old = tuple(weights["backbone_3d.conv_out.0.weight"].shape[:3]) == (3, 1, 1)
    renamed = {}
    for name, value in renamed_bev_and_head(weights):
        if name.startswith("backbone_3d.") and value.dim() == 5 and old:
            value = value.permute(4, 0, 1, 2, 3).contiguous()
        for pattern, replacement in _OPENPCDET:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


_PART = {"0": "conv", "1": "norm"}
_OPENPCDET = (
    (r"^backbone_3d\.conv_input\.([01])\.", lambda found: f"sparse.stages.0.stay.0.{_PART[found[1]]}."),
    (r"^backbone_3d\.conv1\.0\.([01])\.", lambda found: f"sparse.stages.0.stay.1.{_PART[found[1]]}."),
    (
        r"^backbone_3d\.conv([234])\.0\.([01])\.",
        lambda found: f"sparse.stages.{int(found[1]) - 1}.down.{_PART[found[2]]}.",
    ),
    (
        r"^backbone_3d\.conv([234])\.([12])\.([01])\.",
        lambda found: f"sparse.stages.{int(found[1]) - 1}.stay.{int(found[2]) - 1}.{_PART[found[3]]}.",
    ),
    (r"^backbone_3d\.conv_out\.([01])\.", lambda found: f"sparse.out.{_PART[found[1]]}."),
)

PUBLIC_WEIGHTS = {"backbone_3d.conv_out.0.weight": convert_openpcdet}
