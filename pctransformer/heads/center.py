"""The centre head: a heat map of each class whose peaks are objects, and at each peak the box.

Source: Yin et al., Center-based 3D object detection and tracking (CenterPoint), 2021, its first stage; numbers as in
OpenPCDet. There is one group of branches for all classes, as published for Waymo's three.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pctransformer.boxes import BoxBatch
from pctransformer.heads.assignment import draw_centers
from pctransformer.heads.box_coding import decode_centers
from pctransformer.heads.losses import full_precision, heatmap_focal_loss
from pctransformer.heads.selection import detections, nearest_box, top_candidates
from pctransformer.ops import _checks
from pctransformer.voxels import BevMap, Grid

_HEATMAP_WEIGHT, _BOX_WEIGHT = 1.0, 2.0
_HEATMAP_BIAS = -2.19  # score 0.1 everywhere before training


class CenterOutput(NamedTuple):
    """What the head says of each cell of a map.

    Attributes:
        heatmap: (B, num_classes, ny, nx) logits.
        center: (B, 2, ny, nx) where in the cell the centre is, x and y, in cells.
        height: (B, 1, ny, nx) z of the centre, metres.
        size: (B, 3, ny, nx) logarithms of dx, dy, dz in metres.
        rotation: (B, 2, ny, nx) cosine and sine of the heading, up to a factor.
        grid: of the map.
    """

    heatmap: Tensor
    center: Tensor
    height: Tensor
    size: Tensor
    rotation: Tensor
    grid: Grid

    @property
    def codes(self) -> Tensor:
        """(B, ny * nx, 8) of each cell, as `encode_centers` gives those of boxes."""
        maps = torch.cat([self.center, self.height, self.size, self.rotation], 1)
        return maps.permute(0, 2, 3, 1).flatten(1, 2)


class CenterHead(nn.Module):
    """Convolutions over a map from above, their loss, and the boxes that they mean.

    Args:
        in_channels: of the map.
        num_classes: heat maps.
        channels: of the shared layer and of the hidden layer of each branch.
    """

    def __init__(self, in_channels: int, *, num_classes: int, channels: int = 64) -> None:
        super().__init__()
        _checks.integer(num_classes, "num_classes", 1)
        self.num_classes = num_classes
        self.shared_conv = nn.Sequential(*_layer(in_channels, channels))
        self.heatmap = _branch(channels, num_classes)
        self.center = _branch(channels, 2)
        self.height = _branch(channels, 1)
        self.size = _branch(channels, 3)
        self.rotation = _branch(channels, 2)
        nn.init.constant_(self.heatmap[-1].bias, _HEATMAP_BIAS)  # type: ignore[arg-type]
        for branch in (self.center, self.height, self.size, self.rotation):
            for conv in (branch[0], branch[-1]):
                nn.init.kaiming_normal_(conv.weight)  # type: ignore[arg-type]
            nn.init.zeros_(branch[-1].bias)  # type: ignore[arg-type]

    def forward(self, bev: BevMap) -> CenterOutput:
        """What every cell says, from a map with `in_channels`."""
        shared = self.shared_conv(bev.features)
        return CenterOutput(
            self.heatmap(shared),
            self.center(shared),
            self.height(shared),
            self.size(shared),
            self.rotation(shared),
            bev.grid,
        )

    def loss(self, output: CenterOutput, boxes: BoxBatch) -> dict[str, Tensor]:
        """How far the output is from the objects that are there.

        Focal loss of heat maps, summed and divided by the number of their peaks, and L1 of the codes of the cells at
        centres, summed and divided by the number of objects; each at least 1, over the batch; weighted 1 and 2. In
        float32, under autocast too.

        Args:
            output: of `forward`.
            boxes: the objects of the same clouds; those of label -1 are left out, so that they count as background.

        Returns:
            "loss", the sum of the weighted "heatmap" and "box": scalars with gradients.

        Raises:
            ValueError: another number of clouds; on CPU: boxes that `draw_centers` refuses.
        """
        clouds = len(output.heatmap)
        if len(boxes) != clouds:
            raise ValueError(f"the output is of {clouds} clouds, the boxes are of {len(boxes)}")
        targets = draw_centers(output.grid, boxes, self.num_classes)
        peaks = (targets.heatmap == 1).sum().clamp(min=1)
        heatmap_loss = heatmap_focal_loss(output.heatmap, targets.heatmap).sum() / peaks

        there = targets.cell >= 0
        codes = full_precision(output.codes.flatten(0, 1).index_select(0, targets.cell.clamp(min=0)))  # (M, 8)
        distance = torch.where(there, (codes - targets.codes).abs().sum(1), 0)
        box_loss = distance.sum() / there.sum().clamp(min=1)
        parts = {"heatmap": _HEATMAP_WEIGHT * heatmap_loss, "box": _BOX_WEIGHT * box_loss}
        return {"loss": parts["heatmap"] + parts["box"], **parts}

    def score_of(self, output: CenterOutput, box: Tensor) -> tuple[Tensor, int | None]:
        """The score before its sigmoid of a box that was found in the first cloud: of the cell whose box is nearest.

        Args:
            output: of `forward`.
            box: (7,) one of `predict`.

        Returns:
            the logit of its best class, a scalar with a gradient; and None, for no query answers for it.
        """
        _, ny, nx = output.grid.shape
        cell = torch.arange(ny * nx, device=output.heatmap.device)
        boxes = decode_centers(full_precision(output.codes[0]), torch.stack([cell // nx, cell % nx], -1), output.grid)
        row = nearest_box(boxes, box)
        return output.heatmap[0].flatten(1).index_select(1, row[None]).max(), None

    @torch.no_grad()
    def predict(
        self,
        output: CenterOutput,
        *,
        score_threshold: float = 0.1,
        nms_threshold: float = 0.01,
        max_candidates: int = 500,
        max_outputs: int = 500,
    ) -> BoxBatch:
        """The objects found: the highest places of all heat maps, and of boxes that overlap the best.

        Args:
            output: of `forward`.
            score_threshold: least score, in [0, 1].
            nms_threshold: overlap seen from above, in [0, 1], above which the box that scores less is dropped, whatever
                its class.
            max_candidates: places of each cloud that are considered, over all classes.
            max_outputs: boxes of each cloud, at most.

        Returns:
            boxes with scores, by descending score within each cloud, headings in [-pi, pi].

        Raises:
            ValueError: the output holds NaN, or an infinite box; a threshold is outside of its range.
        """
        _, ny, nx = output.grid.shape
        logits = output.heatmap.flatten(1)  # (B, num_classes * ny * nx)
        index = top_candidates(logits, max_candidates)  # (B, K)
        cell = index % (ny * nx)
        codes = full_precision(output.codes.gather(1, cell[..., None].expand(-1, -1, 8)))
        return detections(
            decode_centers(codes, torch.stack([cell // nx, cell % nx], -1), output.grid),
            full_precision(logits.gather(1, index)).sigmoid(),
            index // (ny * nx),
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
            max_outputs=max_outputs,
        )


def _layer(in_channels: int, out_channels: int) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]


def _branch(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(*_layer(channels, channels), nn.Conv2d(channels, out_channels, 3, padding=1))
