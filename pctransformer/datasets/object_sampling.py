"""Pasting objects of other scans into a scan: the "ground-truth sampling" of SECOND (Yan et al., 2018, section
3.4.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Generator

from pctransformer.datasets.object_database import ObjectDatabase
from pctransformer.datasets.scans import Scan, boxes_collide, points_in_boxes


@dataclasses.dataclass(frozen=True, eq=False)
class PasteObjects:
    """Fill a scan with labelled objects of other scans, at the places that they have there.

    Class by class, objects are drawn without repetition. One that collides with a box of the scan, or with another one
    that is drawn of the same class, seen from above, is left out. Points of the scan inside the new boxes are removed.

    Attributes:
        database: the objects.
        class_names: of the labels 0, 1, ... of scans.
        wanted: class to how many objects of it are drawn, without those that the scan has already.
        fill_up: draw only as many as the scan lacks of that number.
        min_points: class to the number of points that an object must have; by default 5.
        on_ground: stand the objects on the plane of the scan's road, where it is known; as they come from other scans
            they may float or sink by some decimetres.
        rows: class to the objects of the database that are fit, which follows from the others.
    """

    database: ObjectDatabase
    class_names: Sequence[str]
    wanted: Mapping[str, int]
    fill_up: bool = False
    min_points: Mapping[str, int] = dataclasses.field(default_factory=dict)
    on_ground: bool = True
    rows: dict[str, np.ndarray] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        unknown = [name for name in self.wanted if name not in self.class_names]
        if unknown:
            raise ValueError(f"classes to paste must be among {', '.join(self.class_names)}, got {', '.join(unknown)}")
        least = {name: self.min_points.get(name, 5) for name in self.wanted}
        object.__setattr__(self, "rows", self.database.choose(min_points=least))

    def __call__(self, scan: Scan, generator: Generator) -> Scan:
        boxes, labels, pasted = scan.boxes, scan.labels, []
        for name, count in self.wanted.items():
            label = self.class_names.index(name)
            count -= int((scan.labels == label).sum()) if self.fill_up else 0
            rows = self.rows[name]
            drawn = rows[torch.randperm(len(rows), generator=generator)[: max(count, 0)].numpy()]
            new = self.database.boxes[drawn]
            among = boxes_collide(new, new)
            np.fill_diagonal(among, False)
            free = ~(boxes_collide(new, boxes).any(axis=1) | among.any(axis=1))
            drawn, new = drawn[free], new[free]
            if self.on_ground and scan.ground is not None:
                new = _on_ground(new, scan.ground)
            pasted += list(zip(drawn, new))
            boxes = np.concatenate([boxes, new])
            labels = np.concatenate([labels, np.full(len(new), label, np.int64)])
        if not pasted:
            return scan
        covered = points_in_boxes(scan.points, np.stack([box for _, box in pasted])) >= 0
        points = []
        for row, box in pasted:
            own = self.database.points_of(row).copy()
            own[:, :3] += box[:3]
            points.append(own)
        together = np.concatenate([scan.points[~covered], *points])
        return dataclasses.replace(scan, points=together, boxes=boxes, labels=labels)


def _on_ground(boxes: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Boxes (n, 7) moved up or down so that the centres of their bottoms are on the plane (4,)."""
    a, b, c, d = ground
    height = -(a * boxes[:, 0] + b * boxes[:, 1] + d) / c
    moved = boxes.copy()
    moved[:, 2] = height + boxes[:, 5] / 2
    return moved
