"""Anchors: boxes of the usual size of each class all over the map, from which an anchor head measures what it finds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

HEADINGS = (0.0, 1.57)
"""Headings of the two anchors of a class, radians: along x, and across it to the two digits of all public weights."""


class AnchorClass(NamedTuple):
    """The anchor of one class, and what overlap with it counts.

    Attributes:
        length: along the heading, metres, as the other two.
        width: across it.
        height: upwards.
        bottom: z of the lower face, metres.
        matched: overlap with an object from which on an anchor is to find it.
        unmatched: overlap with all objects below which an anchor is to find nothing; what lies between is not trained.
    """

    length: float
    width: float
    height: float
    bottom: float
    matched: float
    unmatched: float


KITTI_ANCHORS: tuple[AnchorClass, ...] = (
    AnchorClass(3.9, 1.6, 1.56, -1.78, 0.60, 0.45),
    AnchorClass(0.8, 0.6, 1.73, -0.6, 0.50, 0.35),
    AnchorClass(1.76, 0.6, 1.73, -0.6, 0.50, 0.35),
)
"""Car, Pedestrian, Cyclist, as SECOND and PointPillars have them in OpenPCDet, for a sensor 1.73 m above the road."""


@dataclasses.dataclass(frozen=True)
class AnchorLayout:
    """Which anchors stand on a map of some size.

    Every place of the map has two anchors of each class. They are numbered by row y, column x, class, heading, the last
    fastest: the order in which a convolution over channels-last maps gives its outputs.

    Attributes:
        classes: the anchor of each class.
        range: (x, y, z) of the lowest corner of the detection range, then of the highest, metres.
        rows: places along y.
        columns: places along x.
        align_center: True puts anchors on the centres of cells. False puts the first and the last on the edges of the
            range, and the others between them at equal steps, as the public weights for KITTI want it; on a map of one
            place both are its centre.
    """

    classes: tuple[AnchorClass, ...]
    range: tuple[float, ...]
    rows: int
    columns: int
    align_center: bool = False

    @property
    def count(self) -> int:
        """Anchors of one map."""
        return self.rows * self.columns * len(self.classes) * len(HEADINGS)

    def along(self, axis: int) -> tuple[float, float, int]:
        """Where anchors stand along x (axis 0) or y (axis 1): the first, the step to the next, how many; metres."""
        low, high, count = self.range[axis], self.range[axis + 3], (self.columns, self.rows)[axis]
        if self.align_center or count == 1:
            step = (high - low) / count
            return low + step / 2, step, count
        return low, (high - low) / (count - 1), count

    def table(self, device: torch.device) -> Tensor:
        """(classes, headings, 5) float64: z of the centre, dx, dy, dz, heading of each anchor of one place."""
        rows = [
            [(one.bottom + one.height / 2, one.length, one.width, one.height, heading) for heading in HEADINGS]
            for one in self.classes
        ]
        return torch.tensor(rows, dtype=torch.float64, device=device)

    def boxes(self, index: Tensor) -> Tensor:
        """(..., 7) float32 boxes of the anchors of these numbers, int64 of any shape."""
        kinds = len(self.classes) * len(HEADINGS)
        place = index // kinds
        (first_x, step_x, _), (first_y, step_y, _) = self.along(0), self.along(1)
        x = first_x + (place % self.columns).double() * step_x
        y = first_y + (place // self.columns).double() * step_y
        rest = self.table(index.device).flatten(0, 1).index_select(0, (index % kinds).flatten())
        return torch.cat([x[..., None], y[..., None], rest.view(*index.shape, 5)], -1).float()

    def all_boxes(self, device: torch.device | str = "cpu") -> Tensor:
        """(A, 7) float32 boxes of all anchors."""
        return self.boxes(torch.arange(self.count, device=device))


def check_anchors(anchors: Sequence[AnchorClass], limits: Sequence[float]) -> None:
    """Refuse anchors and ranges of which no layout can be made; see `AnchorHead`."""
    if not anchors:
        raise ValueError("an anchor head needs the anchor of at least one class, got none")
    for label, one in enumerate(anchors):
        if len(one) != 6 or not all(math.isfinite(value) for value in one):
            raise ValueError(
                f"the anchor of class {label} must be six finite numbers: length, width, height, bottom, matched,"
                f" unmatched; got {tuple(one)}"
            )
        if min(one[:3]) <= 0:
            raise ValueError(f"the anchor of class {label} must have positive sizes, got {tuple(one[:3])}")
        *_, matched, unmatched = one
        if not 0 < unmatched <= matched <= 1:
            raise ValueError(
                f"overlaps of class {label} must be 0 < unmatched <= matched <= 1, got matched {matched} and unmatched"
                f" {unmatched}"
            )
    if len(limits) != 6 or not (limits[0] < limits[3] and limits[1] < limits[4] and limits[2] < limits[5]):
        raise ValueError(f"a range is x, y, z of the lowest corner, then of the highest, got {tuple(limits)}")


_LONG = 2.5  # metres: what is longer is likely to be a vehicle


def anchors_from_boxes(
    boxes: Tensor | np.ndarray, labels: Tensor | np.ndarray, num_classes: int
) -> tuple[AnchorClass, ...]:
    """Anchors for a data set of one's own: the mean size and the mean bottom of the boxes of each class.

    Overlaps are those of KITTI's classes: 0.6 and 0.45 for objects longer than 2.5 m, 0.5 and 0.35 for shorter ones,
    which fewer anchors meet.

    Args:
        boxes: (M, 7) of all training scans together, as in `BoxBatch`.
        labels: (M,) class of each, from 0; boxes of label -1 do not count.
        num_classes: of which each needs at least one box.

    Returns:
        one anchor for each class, what `AnchorHead` takes.

    Raises:
        ValueError: shapes do not fit, a label is not in [-1, num_classes), a class has no box, or a box is not finite
            or has a size that is not positive.
    """
    rows, classes = np.asarray(boxes, np.float64), np.asarray(labels)
    if rows.ndim != 2 or rows.shape[1] != 7 or classes.shape != rows.shape[:1]:
        raise ValueError(f"boxes must be (M, 7) and labels (M,), got {rows.shape} and {classes.shape}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    wrong = np.flatnonzero((classes < -1) | (classes >= num_classes))
    if len(wrong):
        raise ValueError(f"box {wrong[0]} has label {classes[wrong[0]]}, which is not one of {num_classes} classes")
    rows, classes = rows[classes >= 0], classes[classes >= 0]
    wrong = np.flatnonzero(~np.isfinite(rows).all(1) | (rows[:, 3:6] <= 0).any(1))
    if len(wrong):
        raise ValueError(f"box {rows[wrong[0]].tolist()} must be finite, with sizes above 0; leave it out")
    absent = sorted(set(range(num_classes)) - set(classes.tolist()))
    if absent:
        raise ValueError(
            f"no box has the class {', '.join(map(str, absent))}, so nothing is known of its size; give more scans,"
            " leave the class out, or write its AnchorClass by hand"
        )
    anchors = []
    for label in range(num_classes):
        of_class = rows[classes == label]
        length, width, height = of_class[:, 3:6].mean(0).tolist()
        bottom = float((of_class[:, 2] - of_class[:, 5] / 2).mean())
        overlaps = (0.6, 0.45) if length > _LONG else (0.5, 0.35)
        anchors.append(AnchorClass(length, width, height, bottom, *overlaps))
    return tuple(anchors)
