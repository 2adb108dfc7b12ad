"""The anchor head: for every anchor on the map, which class stands there, how its box differs, which way it points.

Source: Yan et al., SECOND: sparsely embedded convolutional detection, 2018; Lang et al., PointPillars, 2019. The
numbers are those of OpenPCDet, whose weights load once renamed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pctransformer.boxes import BoxBatch
from pctransformer.heads.anchor_layout import (
    HEADINGS,
    KITTI_ANCHORS,
    AnchorClass,
    AnchorLayout,
    anchors_from_boxes,
    check_anchors,
)
from pctransformer.heads.assignment import IGNORED, assign_anchors
from pctransformer.heads.box_coding import decode_boxes, direction_of, encode_boxes, turn_to
from pctransformer.heads.losses import box_code_loss, full_precision, sigmoid_focal_loss
from pctransformer.heads.selection import detections, nearest_box, top_candidates
from pctransformer.voxels import BevMap, Grid

__all__ = ["KITTI_ANCHORS", "AnchorClass", "AnchorHead", "AnchorOutput", "anchors_from_boxes"]

_CLASS_WEIGHT, _BOX_WEIGHT, _DIRECTION_WEIGHT = 1.0, 2.0, 0.2
_PRIOR = 0.01  # score of every anchor before training: almost none holds an object


class AnchorOutput(NamedTuple):
    """What the head says of each of the A anchors of a map, in the order of `AnchorLayout`.

    Attributes:
        class_logits: (B, A, num_classes), each class by itself.
        box_codes: (B, A, 7), see `encode_boxes`.
        direction_logits: (B, A, 2), see `direction_of`.
        grid: of the map.
    """

    class_logits: Tensor
    box_codes: Tensor
    direction_logits: Tensor
    grid: Grid


class AnchorHead(nn.Module):
    """Three 1x1 convolutions over a map from above, their loss, and the boxes that they mean.

    Args:
        in_channels: of the map.
        anchors: the anchor of each class; `anchors_from_boxes` makes those of another data set.
        range: (x, y, z) of the lowest corner of the detection range, then of the highest, metres: over which anchors
            are spread.
        align_center: whether anchors stand on the centres of cells, see `AnchorLayout`.

    Raises:
        ValueError: an anchor or the range is not what it should be.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        anchors: Sequence[AnchorClass] = KITTI_ANCHORS,
        range: Sequence[float],
        align_center: bool = False,
    ) -> None:
        super().__init__()
        check_anchors(anchors, range)
        self.anchors = tuple(AnchorClass(*one) for one in anchors)
        self.range, self.align_center = tuple(range), align_center
        here = len(self.anchors) * len(HEADINGS)  # anchors of one place
        self.conv_cls = nn.Conv2d(in_channels, here * self.num_classes, 1)
        self.conv_box = nn.Conv2d(in_channels, here * 7, 1)
        self.conv_dir_cls = nn.Conv2d(in_channels, here * 2, 1)
        assert self.conv_cls.bias is not None
        nn.init.constant_(self.conv_cls.bias, -math.log((1 - _PRIOR) / _PRIOR))
        nn.init.normal_(self.conv_box.weight, std=0.001)

    @property
    def num_classes(self) -> int:
        return len(self.anchors)

    def layout(self, grid: Grid) -> AnchorLayout:
        """The anchors on a map of this grid.

        Raises:
            ValueError: the map and the range differ by more than a cell, which strided convolutions move it by at most.
        """
        for axis in (0, 1):
            low, high, cell = grid.low[axis], grid.high[axis], grid.voxel_size[axis]
            if max(abs(low - self.range[axis]), abs(high - self.range[axis + 3])) > cell:
                raise ValueError(
                    f"the map reaches from {low:g} to {high:g} m along {'xy'[axis]}, the range of the head from"
                    f" {self.range[axis]:g} to {self.range[axis + 3]:g}; make the head with the range of the map"
                )
        return AnchorLayout(self.anchors, self.range, *grid.shape[1:], self.align_center)

    def forward(self, bev: BevMap) -> AnchorOutput:
        """What every anchor says, from a map with `in_channels`."""

        def of_anchors(conv: nn.Conv2d, channels: int) -> Tensor:
            return conv(bev.features).permute(0, 2, 3, 1).reshape(len(bev), -1, channels)  # free if channels are last

        return AnchorOutput(
            of_anchors(self.conv_cls, self.num_classes),
            of_anchors(self.conv_box, 7),
            of_anchors(self.conv_dir_cls, 2),
            bev.grid,
        )

    def loss(self, output: AnchorOutput, boxes: BoxBatch) -> dict[str, Tensor]:
        """How far the output is from the objects that are there.

        Focal loss of classes over all anchors that are not ignored, smooth L1 of box codes and cross entropy of
        directions over those with an object, weighted 1, 2 and 0.2; in each cloud divided by the number of anchors with
        an object, at least 1; mean over the clouds. In float32, under autocast too.

        Args:
            output: of `forward`.
            boxes: the objects of the same clouds; those of label -1 are left out, so that they count as background.

        Returns:
            "loss", the sum of the weighted "class", "box" and "direction": scalars with gradients.

        Raises:
            ValueError: another number of clouds; on CPU: boxes that `assign_anchors` refuses.
        """
        clouds, count, _ = output.class_logits.shape
        if len(boxes) != clouds:
            raise ValueError(f"the output is of {clouds} clouds, the boxes are of {len(boxes)}")
        layout = self.layout(output.grid)
        labels, anchor, box = assign_anchors(layout, boxes)
        each = 1 / ((labels >= 0).sum(1).clamp(min=1) * clouds)  # (B,) weight of an anchor

        is_class = labels[..., None] == torch.arange(self.num_classes, device=labels.device)
        of_class = sigmoid_focal_loss(output.class_logits, is_class).sum(2)  # (B, A)
        class_loss = (torch.where(labels == IGNORED, 0, of_class).sum(1) * each).sum()

        # of the (P,) anchors with an object; on CUDA some may be none, which stand for anchor 0 with weight 0
        none, anchor = anchor < 0, anchor.clamp(min=0)
        weight = torch.where(none, 0, each.index_select(0, anchor // count))
        found = boxes.boxes.index_select(0, box)
        target = torch.where(none[:, None], 0, encode_boxes(found, layout.boxes(anchor % count)))
        codes = output.box_codes.flatten(0, 1).index_select(0, anchor)
        box_loss = (box_code_loss(codes, target) * weight).sum()
        direction = full_precision(output.direction_logits.flatten(0, 1).index_select(0, anchor))
        entropy = nn.functional.cross_entropy(direction, direction_of(found[:, 6]), reduction="none")
        parts = {
            "class": _CLASS_WEIGHT * class_loss,
            "box": _BOX_WEIGHT * box_loss,
            "direction": _DIRECTION_WEIGHT * (entropy * weight).sum(),
        }
        return {"loss": parts["class"] + parts["box"] + parts["direction"], **parts}

    def score_of(self, output: AnchorOutput, box: Tensor) -> tuple[Tensor, int | None]:
        """The score before its sigmoid of a box that was found in the first cloud: of the anchor whose box is nearest.

        Args:
            output: of `forward`.
            box: (7,) one of `predict`.

        Returns:
            the logit of its best class, a scalar with a gradient; and None, for no query answers for it.
        """
        anchors = self.layout(output.grid).all_boxes(output.box_codes.device)
        boxes = decode_boxes(full_precision(output.box_codes[0]), anchors)
        row = nearest_box(boxes, box)
        return output.class_logits[0].index_select(0, row[None]).max(), None

    @torch.no_grad()
    def predict(
        self,
        output: AnchorOutput,
        *,
        score_threshold: float = 0.1,
        nms_threshold: float = 0.01,
        max_candidates: int = 4096,
        max_outputs: int = 500,
    ) -> BoxBatch:
        """The objects found: the best class of each anchor, the best anchors, and of boxes that overlap the best.

        Args:
            output: of `forward`.
            score_threshold: least score, in [0, 1].
            nms_threshold: overlap seen from above, in [0, 1], above which the box that scores less is dropped, whatever
                its class.
            max_candidates: anchors of each cloud that are considered.
            max_outputs: boxes of each cloud, at most.

        Returns:
            boxes with scores, by descending score within each cloud, headings in [-pi, pi).

        Raises:
            ValueError: the output holds NaN, or an infinite box; a threshold is outside of its range.
        """
        index = top_candidates(output.class_logits.amax(2), max_candidates)  # (B, K)

        def of_candidates(values: Tensor) -> Tensor:
            return full_precision(values.gather(1, index[..., None].expand(-1, -1, values.shape[2])))

        scores, labels = of_candidates(output.class_logits).sigmoid().max(2)
        boxes = decode_boxes(of_candidates(output.box_codes), self.layout(output.grid).boxes(index))
        heading = turn_to(boxes[..., 6], of_candidates(output.direction_logits).argmax(2))
        return detections(
            torch.cat([boxes[..., :6], heading[..., None]], -1),
            scores,
            labels,
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
            max_outputs=max_outputs,
        )
