"""Plain transformer on a map. After Li, Mao, Girshick, He, Exploring Plain Vision Transformer Backbones for Object
Detection (ViTDet), 2022, arXiv:2203.16527.

Pillars of points become a map seen from above, and squares of its cells tokens, all of one size from the first layer to
the last. Layers attend in windows; four of them, evenly placed, spread what windows know over the whole map, by
attention or by convolutions. Maps of other sizes are made of the last one alone.

What differs here: the paper's input is an image, its backbone pretrained as a masked autoencoder, and its heads look at
regions of each size of map. Here pillars are in front, nothing is pretrained, and the maps of the pyramid, twice as
fine as tokens, as fine, and half as fine, are brought to the first's size for one head.

PointBatch -> pillars (M, C) -> map (B, C, ny, nx) -> tokens (B, ny / 4, nx / 4, dim) -> layers -> pyramid -> neck
(B, C', ny / 2, nx / 2) -> head -> boxes
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pctransformer.grid_view.mixer_pyramid import patch_grid
from pctransformer.grid_view.neck import Neck, SimplePyramid
from pctransformer.grid_view.plain_transformer import PlainTransformer, Propagation
from pctransformer.grid_view.voxel_features import PillarFeatures
from pctransformer.layers.transformer import init_weights
from pctransformer.models.detector import DetectionHead, Detector, Head, Range, detection_head, set_momentum
from pctransformer.points import PointBatch
from pctransformer.voxels import BevMap, Grid

SCALES = (2, 1, 0.5)
"""Size of each map of the pyramid over that of the tokens'."""


class PlainTransformerDetector(Detector):
    """Pillars, a plain transformer, a simple pyramid, and a head.

    Args:
        in_channels: channels of the points, 3 + C.
        pillars: from points to pillars.
        backbone: on the map of pillars.
        pyramid: maps of `SCALES`, of the backbone's.
        neck: one map of the pyramid's, of the size of the first.
        head: on that.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        pillars: PillarFeatures,
        backbone: PlainTransformer,
        pyramid: SimplePyramid,
        neck: Neck,
        head: DetectionHead,
    ) -> None:
        super().__init__()
        patch_grid(pillars.grid, backbone.patch, multiple=2 * backbone.patch)  # refuses maps without a half
        self.in_channels, self.num_features, self.grid = in_channels, neck.out_channels, pillars.grid
        self.pillars, self.backbone, self.pyramid, self.neck, self.head = pillars, backbone, pyramid, neck, head

    def forward_features(self, points: PointBatch | Tensor | Sequence[Tensor]) -> BevMap:
        pillars = self.pillars(PointBatch.of(points, self.in_channels))  # of the M pillars that hold points
        tokens = self.backbone(self.map_of(pillars))  # (B, dim, ny / 4, nx / 4)
        if self.is_recorded:
            self._record_pyramid(len(tokens), *tokens.grid.shape[1:])
        maps = self.pyramid(tokens.features.permute(0, 2, 3, 1))  # (B, s ny / 4, s nx / 4, C) for s in SCALES
        return BevMap(self.neck(maps), _doubled(tokens.grid))  # (B, C', ny / 2, nx / 2)

    def _record_pyramid(self, clouds: int, ny: int, nx: int) -> None:
        """Hand over which tokens a cell of the last map was made of: by two of the maps of the one that holds it, by
        the third of the 2 x 2 around that."""
        token = torch.arange(clouds * ny * nx, device=self._device()).view(clouds, ny, nx)
        around = token.view(clouds, ny // 2, 2, nx // 2, 2).transpose(2, 3).flatten(3)  # (B, ny / 2, nx / 2, 4)
        around = around.repeat_interleave(2, 1).repeat_interleave(2, 2)
        rows = torch.cat([token[..., None], around], 3)  # (B, ny, nx, 5)
        rows = rows.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(0, 2)
        weights = torch.tensor([2 / 3] + [1 / 12] * 4, device=rows.device).expand(len(rows), -1)
        self.record(weights[:, None, None], "children", key_index=rows)


def _doubled(grid: Grid) -> Grid:
    """Every cell of a map cut into four."""
    (x, y, z), (nz, ny, nx) = grid.voxel_size, grid.shape
    return Grid(grid.low, (x / 2, y / 2, z), (nz, 2 * ny, 2 * nx))


# ---- sizes -----------------------------------------------------------------------------------------------------------
def plain_transformer(
    num_classes: int = 3,
    *,
    in_channels: int = 4,
    head: Head = "anchor",
    anchors: Sequence[Sequence[float]] | None = None,
    point_range: Range = (0, -39.68, -3, 69.12, 39.68, 1),
    voxel_size: tuple[float, float] = (0.16, 0.16),
    propagation: Propagation = "attention",
    dim: int = 192,
    depth: int = 12,
    num_heads: int = 3,
    window: int = 14,
    patch: int = 4,
    drop_path: float = 0.1,
    width: int = 64,
) -> PlainTransformerDetector:
    """ViT-Tiny on PointPillars' map for KITTI, 6 505 536 parameters; ranges are whole pairs of tokens along x and y.

    Args:
        num_classes: kinds of boxes.
        in_channels: channels of the points, 3 + C.
        head: boxes measured from anchors, from centres of objects, or told by queries.
        anchors: see `detection_head`.
        point_range: what is looked at, metres.
        voxel_size: x and y of a pillar, metres.
        propagation: how tokens of different windows meet, see `PlainTransformer`.
        dim: channels of tokens, a multiple of 4.
        depth: layers, a multiple of 4.
        num_heads: of each layer.
        window: tokens along each side of a window.
        patch: pillars along each side of a token.
        drop_path: see `PlainTransformer`.
        width: channels of pillars; the pyramid's and neck's maps have twice as many each.
    """
    x, y = voxel_size
    grid = Grid.from_range(point_range, (x, y, point_range[5] - point_range[2]))
    backbone = PlainTransformer(
        width, patch=patch, dim=dim, depth=depth, num_heads=num_heads, window=window, propagation=propagation,
        drop_path=drop_path,
    )  # fmt: skip
    backbone.blocks.apply(init_weights)
    neck = Neck([2 * width] * len(SCALES), [1, 2, 4], 2 * width)
    return PlainTransformerDetector(
        in_channels=in_channels,
        pillars=PillarFeatures(in_channels, width, grid=grid),
        backbone=backbone,
        pyramid=SimplePyramid(dim, 2 * width, scales=SCALES),
        neck=neck,
        head=detection_head(
            head,
            neck.out_channels,
            num_classes=num_classes,
            anchors=anchors,
            point_range=point_range,
            center_channels=width,
        ),
    )


def plain_transformer_small(
    num_classes: int = 3,
    *,
    in_channels: int = 4,
    head: Head = "anchor",
    anchors: Sequence[Sequence[float]] | None = None,
    point_range: Range = (0, -25.6, -3, 51.2, 25.6, 1),
    voxel_size: tuple[float, float] = (0.32, 0.32),
    propagation: Propagation = "convolution",
) -> PlainTransformerDetector:
    """Eight layers of 64 channels on pillars of twice the size, as far as 51.2 m, for training on a CPU.

    Convolutions spread what windows know: a step takes half the time that it takes with attention to the whole map.
    """
    model = plain_transformer(
        num_classes, in_channels=in_channels, head=head, anchors=anchors, point_range=point_range,
        voxel_size=voxel_size, propagation=propagation, dim=64, depth=8, num_heads=2, window=8, drop_path=0.0, width=32,
    )  # fmt: skip
    set_momentum(model, 0.1)
    return model
