"""Boxes in space: what they hold, how much they overlap, which of them to keep.

A box is (x, y, z, dx, dy, dz, heading): its geometric centre and its sizes along its own axes in metres, and the angle
from +x to its own x axis, counter-clockwise seen from above, in radians. It stands upright: it turns about z alone.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pctransformer.ops import _checks, _library

VIEWS = ("3d", "bev")


def points_in_boxes(xyz: Tensor, offsets: Tensor, boxes: Tensor, box_offsets: Tensor) -> Tensor:
    """Find the box that each point is in, cloud by cloud.

    The faces of a box belong to it. A point in several boxes is given to the one with the lowest index. Computed in
    float64, on CPU and CUDA alike: far from the origin only the rounding of the coordinates themselves counts.

    Args:
        xyz: clouds, packed (N, 3) float32, metres.
        offsets: (B + 1,) int64, cloud b is rows offsets[b]:offsets[b + 1].
        boxes: boxes of all clouds, packed (M, 7) float32: x, y, z of the centre, dx, dy, dz, heading.
        box_offsets: (B + 1,) int64, the boxes of cloud b are rows box_offsets[b]:box_offsets[b + 1].

    Returns:
        index (N,) int64: index[n] = m means that point n is in boxes[m]; -1 where it is in none. Not differentiable.

    Raises:
        ValueError: the two batches hold different numbers of clouds, boxes are not (M, 7); on CPU: NaN or infinite
            coordinates or boxes, negative sizes, offsets that decrease. On CUDA a NaN point is in no box, and a box
            with such a number holds no point.
        TypeError: coordinates or boxes are not float32, offsets are not int64.
    """
    _checks.xyz(xyz)
    _checks.offsets(offsets, xyz)
    _checks.boxes(boxes)
    _checks.same_device(boxes, "boxes", xyz, "xyz")
    _checks.offsets(box_offsets, xyz, "box_offsets")
    _checks.same_clouds(offsets, "offsets", box_offsets, "box_offsets")
    return _library.call(
        _points_in_boxes, xyz.contiguous(), offsets.contiguous(), boxes.contiguous(), box_offsets.contiguous()
    )


def box_iou(boxes: Tensor, other_boxes: Tensor, *, view: Literal["3d", "bev"] = "3d", aligned: bool = False) -> Tensor:
    """Intersection over union of boxes: their volumes in space, or their areas seen from above.

    Exact for every heading, and computed in float64 around the smaller box of each pair: equal boxes give 1, boxes that
    only touch give 0, wherever they lie. A box of no volume (of no area, for "bev") overlaps nothing, not even itself.
    The result has no gradient.

    Args:
        boxes: (M, 7) float32: x, y, z of the centre, dx, dy, dz in metres, heading in radians.
        other_boxes: (N, 7) float32, in the same frame.
        view: "3d" for volumes, "bev" for areas seen from above (bird's eye), whatever the heights.
        aligned: whether to compare boxes[i] with other_boxes[i] only, for which M = N.

    Returns:
        iou (M, N) float32, iou[i, j] of boxes[i] and other_boxes[j], between 0 and 1; (M,) if aligned.

    Raises:
        ValueError: boxes are not (M, 7), aligned boxes are not as many; on CPU: NaN, infinite numbers, negative sizes.
            On CUDA a box with such a number overlaps nothing.
        TypeError: boxes are not float32.

    Source: ours; the area is summed over the edges of one box, clipped by the sides of the other (Green's theorem).
    """
    _checks.boxes(boxes)
    _checks.boxes(other_boxes, "other_boxes")
    _checks.same_device(other_boxes, "other_boxes", boxes, "boxes")
    _checks.choice(view, "view", VIEWS)
    if aligned and boxes.shape[0] != other_boxes.shape[0]:
        raise ValueError(
            f"aligned boxes must be as many, got {boxes.shape[0]} and {other_boxes.shape[0]}; aligned=False compares"
            " each with all"
        )
    return _library.call(
        _box_iou, boxes.detach().contiguous(), other_boxes.detach().contiguous(), aligned, view == "bev"
    )


def box_nms(
    boxes: Tensor,
    offsets: Tensor,
    scores: Tensor,
    threshold: float,
    *,
    labels: Tensor | None = None,
    max_outputs: int | None = None,
    view: Literal["3d", "bev"] = "bev",
) -> tuple[Tensor, Tensor]:
    """Keep the best of boxes that overlap (non-maximum suppression), cloud by cloud.

    Boxes are taken by descending score, equal scores by ascending index. One is kept unless its `box_iou` with a box
    that was kept before it is above the threshold. The same boxes are kept on CPU and CUDA. How many there are is not
    known beforehand, so on CUDA this waits for the device.

    Args:
        boxes: boxes of all clouds, packed (M, 7) float32: x, y, z of the centre, dx, dy, dz, heading.
        offsets: (B + 1,) int64, the boxes of cloud b are rows offsets[b]:offsets[b + 1].
        scores: (M,) float32.
        threshold: between 0 and 1; an overlap of just that much is allowed. Compared in float32.
        labels: (M,) int64, if only boxes of one class may suppress each other; None: all may.
        max_outputs: most boxes to keep of each cloud, over all classes; None: no limit.
        view: overlap seen from above ("bev"), as LiDAR detectors do, or in space ("3d").

    Returns:
        index (K,) int64: rows of the boxes kept, cloud by cloud, in each by descending score.
        kept_offsets (B + 1,) int64: those of cloud b are index[kept_offsets[b]:kept_offsets[b + 1]].

    Raises:
        ValueError: shapes do not fit together, threshold or max_outputs is outside its range; on CPU: NaN, infinite
            numbers, negative sizes, offsets that decrease. On CUDA a box with such a number or score is not kept.
        TypeError: boxes or scores are not float32, offsets or labels are not int64.
    """
    _checks.boxes(boxes)
    _checks.offsets(offsets, boxes, like_name="boxes")
    _checks.tensor(scores, "scores")
    if scores.shape != boxes.shape[:1]:
        raise ValueError(f"scores must be (M,), one for each of {boxes.shape[0]} boxes, got {tuple(scores.shape)}")
    if scores.dtype != torch.float32 and not _checks.under_autocast(scores):
        raise TypeError(f"scores must be float32, got {scores.dtype}; convert with .float()")
    _checks.same_device(scores, "scores", boxes, "boxes")
    if labels is not None:
        _checks.index(labels, boxes, "labels", "boxes")
        if labels.shape != boxes.shape[:1]:
            raise ValueError(f"labels must be (M,), one for each of {boxes.shape[0]} boxes, got {tuple(labels.shape)}")
        labels = labels.contiguous()
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
        raise TypeError(f"threshold must be a number, got a {type(threshold).__name__}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be between 0 and 1, got {threshold}")
    if max_outputs is None:
        max_outputs = max(1, boxes.shape[0])
    _checks.integer(max_outputs, "max_outputs", 1)
    _checks.choice(view, "view", VIEWS)
    return _library.call(
        _box_nms,
        boxes.detach().contiguous(),
        offsets.contiguous(),
        scores.detach().contiguous(),
        labels,
        float(threshold),
        max_outputs,
        view == "bev",
    )


def _fake_points_in_boxes(xyz, offsets, boxes, box_offsets):
    return xyz.new_empty((xyz.shape[0],), dtype=torch.int64)


def _fake_box_iou(boxes, other_boxes, aligned, bird_eye):
    shape = (boxes.shape[0],) if aligned else (boxes.shape[0], other_boxes.shape[0])
    return boxes.new_empty(shape, dtype=torch.float32)


def _fake_box_nms(boxes, offsets, scores, labels, threshold, max_outputs, bird_eye):
    kept = torch.library.get_ctx().new_dynamic_size()
    return offsets.new_empty((kept,)), torch.empty_like(offsets)


_points_in_boxes = _library.register("points_in_boxes", fake=_fake_points_in_boxes)
_box_iou = _library.register("box_iou", fake=_fake_box_iou)
_box_nms = _library.register("box_nms", fake=_fake_box_nms)
