"""Detection in one scan: what a detector sees of it, and, all around the sensor, for one that looks only ahead.

Detectors trained on KITTI take points from x = 0 on, since only what the camera sees is labelled there. A sweep of 360
degrees is turned so that every direction comes to lie ahead once. With a range of X metres ahead and Y to either side a
view holds the sector of +-atan(Y / X) out to X, so that ceil(pi / atan(Y / X)) views, 7 for X = 2 Y, see as far as that
in every direction; four would leave the diagonals out beyond sqrt(2) Y. A view keeps boxes whose centre is in its
sector or no more than a metre beside it, so that none is lost at a border to two views that place it a little
differently, and those found twice are suppressed as all detectors do it.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pctransformer.boxes import BoxBatch, limit_period
from pctransformer.evaluation.inference import evaluating
from pctransformer.ops import box_nms
from pctransformer.points import PointBatch
from pctransformer.voxels import Grid

_BESIDE = 1.0  # metres beside its sector that a view keeps boxes
_OVERLAP = 0.01  # seen from above, of boxes that two views found


class BoxModel(Protocol):
    """What a detector is to this module; `pctransformer.models` has some, which are torch modules, too."""

    grid: Grid

    def __call__(self, points: PointBatch) -> Any: ...

    def predict(self, output: Any, **thresholds: float) -> BoxBatch: ...


def views_around(grid: Grid) -> int:
    """How many views it takes to see everything around a sensor as far as ahead; 1 for a grid all around it.

    Raises:
        ValueError: the grid does not look ahead, or not to both sides.
    """
    (low_x, low_y, _), (high_x, high_y, _) = grid.low, grid.high
    side = min(high_y, -low_y)
    if high_x <= 0 or side <= 0:
        raise ValueError(
            f"the model sees x {low_x:g} to {high_x:g}, y {low_y:g} to {high_y:g}, which is not ahead of the sensor"
        )
    if -low_x >= high_x / 2:
        return 1
    return math.ceil(math.pi / math.atan2(side, high_x) - 1e-9)


def seen_by(grid: Grid, points: Tensor, *, around: bool = False) -> Tensor:
    """(n,) bool: the points (n, 3 or more) that a model with this grid sees, in one of the views if `around`."""
    views = views_around(grid) if around else 1
    seen = torch.zeros(len(points), dtype=torch.bool)
    for view in range(views):
        seen |= grid.cells(_turned(points[:, :3], -_angle(view, views)))[1]
    return seen


def detect(
    model: BoxModel,
    points: Tensor | np.ndarray,
    *,
    around: bool = False,
    score_threshold: float | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> BoxBatch:
    """Find the boxes of one scan.

    The model is in evaluation mode meanwhile; afterwards each of its modules is in the mode it was in before.

    Args:
        model: a detector.
        points: (n, channels of the model), x forward, y left, z up, metres; reflectance in [0, 1].
        around: whether to look in all directions with a model that looks only ahead, see this module.
        score_threshold: of the boxes that are reported; None: the model's own.
        device: where the model is.
        dtype: of autocast, for example torch.bfloat16. None: the model's own.

    Returns:
        the boxes of one cloud, on the CPU, by falling score.

    Raises:
        ValueError: the model gives NaN, or does not look ahead.
    """
    rows = torch.as_tensor(points, dtype=torch.float32)
    views = views_around(model.grid) if around else 1
    thresholds = {} if score_threshold is None else {"score_threshold": score_threshold}
    found: list[BoxBatch] = []
    device = torch.device(device)
    assert isinstance(model, torch.nn.Module)
    with evaluating(model), torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not None):
        for view in range(views):
            angle = _angle(view, views)
            seen = _turned(rows, -angle)
            seen = seen[model.grid.cells(seen[:, :3])[1]]
            batch = PointBatch.from_list([seen]).to(device)
            predicted = model.predict(model(batch), **thresholds).to("cpu")
            found.append(_turned_back(_of_sector(predicted, views), angle))
    boxes, labels = torch.cat([one.boxes for one in found]), torch.cat([one.labels for one in found])
    scores = torch.cat([one.scores for one in found if one.scores is not None])
    if not boxes.isfinite().all() or not scores.isfinite().all():
        raise ValueError("the model gives NaN or infinite boxes: its weights or the points are not finite")
    offsets = torch.tensor([0, len(boxes)])
    if views > 1:
        kept, offsets = box_nms(boxes, offsets, scores, _OVERLAP)
    else:
        kept = scores.sort(descending=True, stable=True).indices
    return BoxBatch(boxes, torch.tensor([0, len(boxes)]), labels, scores).take(kept, offsets)


def _angle(view: int, views: int) -> float:
    return 2 * math.pi * view / views


def _turned(points: Tensor, angle: float) -> Tensor:
    """Rows (n, 3 or more) turned counter-clockwise about the upright axis through the sensor."""
    if angle == 0:
        return points
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = points[:, 0], points[:, 1]
    return torch.cat([torch.stack([cos * x - sin * y, sin * x + cos * y], 1), points[:, 2:]], 1)


def _of_sector(boxes: BoxBatch, views: int) -> BoxBatch:
    """Boxes in the sector that one of the views answers for."""
    if views == 1:
        return boxes
    x, y = boxes.boxes[:, 0], boxes.boxes[:, 1]
    beyond = torch.atan2(y, x).abs() - math.pi / views  # angle beside the sector
    kept = ((beyond <= 0) | (torch.hypot(x, y) * beyond <= _BESIDE)).nonzero()[:, 0]
    return boxes.take(kept, torch.tensor([0, len(kept)]))


def _turned_back(boxes: BoxBatch, angle: float) -> BoxBatch:
    if angle == 0:
        return boxes
    turned = _turned(boxes.boxes, angle)
    heading = limit_period(turned[:, 6:] + angle)
    return boxes.replace(boxes=torch.cat([turned[:, :6], heading], 1))
